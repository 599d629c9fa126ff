//! Two names for one validator: its own key, which the chain knows, and this box's public share of it, which the
//! validator client knows.

use std::collections::BTreeMap;

use chain::PublicKeyBytes;
use threshold::{PublicKey, ShareIndex};

use super::reply::ApiError;

/// Characters of a key as JSON has it: quotes, `0x` and 96 digits.
const QUOTED: usize = 100;

/// The keys of a cluster, seen from one member.
#[derive(Debug)]
pub struct KeyMap {
    own: ShareIndex,
    validators: BTreeMap<PublicKeyBytes, Validator>,
    group_of: BTreeMap<PublicKeyBytes, (PublicKeyBytes, ShareIndex)>,
}

#[derive(Debug)]
struct Validator {
    group: PublicKey,
    own_share: PublicKey,
    own_share_bytes: PublicKeyBytes,
}

/// What a key in a request stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// One of the cluster's validators, by our share.
    Ours(PublicKeyBytes),
    /// Nobody we know.
    Unknown,
}

impl KeyMap {
    /// From the group key and everybody's public shares of each validator. Validators without a share of ours are left out.
    pub fn new<'a>(
        own: ShareIndex,
        validators: impl IntoIterator<Item = (PublicKeyBytes, PublicKey, &'a BTreeMap<ShareIndex, PublicKey>)>,
    ) -> Self {
        let mut map = Self { own, validators: BTreeMap::new(), group_of: BTreeMap::new() };
        for (key, group, shares) in validators {
            let Some(own_share) = shares.get(&own) else { continue };
            for (index, share) in shares {
                map.group_of.insert(share.to_bytes(), (key, *index));
            }
            let own_share_bytes = own_share.to_bytes();
            map.validators.insert(key, Validator { group, own_share: *own_share, own_share_bytes });
        }
        map
    }

    /// Our public share of a validator.
    pub fn own_share(&self, validator: &PublicKeyBytes) -> Option<&PublicKey> {
        self.validators.get(validator).map(|keys| &keys.own_share)
    }

    /// A validator's own key.
    pub fn group(&self, validator: &PublicKeyBytes) -> Option<&PublicKey> {
        self.validators.get(validator).map(|keys| &keys.group)
    }

    /// Whom a client means with a key. Another member's share is refused by name: the client was given wrong key files.
    pub fn named(&self, share: &PublicKeyBytes) -> Result<Named, ApiError> {
        match self.group_of.get(share) {
            Some((validator, index)) if *index == self.own => Ok(Named::Ours(*validator)),
            Some((_, index)) => Err(ApiError::new(
                500,
                format!(
                    "mismatching validator client key share index: the key is of member {}, this one is {}; load the key \
                 files of this member",
                    index.get() - 1,
                    self.own.get() - 1
                ),
            )),
            None => Ok(Named::Unknown),
        }
    }

    /// Writes our public shares over the validators' own keys in a beacon node's JSON, which keeps its length. A key stands
    /// there quoted in hex, and 48 such bytes are nothing but a key.
    pub fn show_shares(&self, json: &mut [u8]) {
        let mut at = 0;
        while let Some(found) =
            json.get(at..).and_then(|rest| rest.windows(3).position(|three| three == b"\"0x"))
        {
            let start = at + found;
            at = start + 1;
            let Some(token) = json.get_mut(start..start + QUOTED) else { return };
            if token[QUOTED - 1] != b'"' {
                continue;
            }
            let key = std::str::from_utf8(&token[1..QUOTED - 1]).ok().and_then(|text| text.parse().ok());
            if let Some(keys) = key.and_then(|key: PublicKeyBytes| self.validators.get(&key)) {
                token[1..QUOTED - 1].copy_from_slice(keys.own_share_bytes.to_string().as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use threshold::SecretKey;

    type Shares = Vec<(PublicKeyBytes, BTreeMap<ShareIndex, PublicKey>)>;

    /// A cluster of three members and two validators, seen from the second member; not one polynomial, just keys.
    fn sample() -> (KeyMap, Shares) {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut key = || SecretKey::random(&mut rng).public_key();
        let mut validators = Vec::new();
        let mut groups = Vec::new();
        for _ in 0..2 {
            let shares: BTreeMap<_, _> = (1..=3).map(|i| (ShareIndex::new(i).unwrap(), key())).collect();
            let group = key();
            groups.push(group);
            validators.push((group.to_bytes(), shares));
        }
        let listed = validators.iter().zip(&groups).map(|((bytes, shares), group)| (*bytes, *group, shares));
        (KeyMap::new(ShareIndex::new(2).unwrap(), listed), validators)
    }

    #[test]
    fn keys_are_mapped_in_both_directions() {
        let (map, validators) = sample();
        for (validator, shares) in &validators {
            let ours = shares[&ShareIndex::new(2).unwrap()].to_bytes();
            assert_eq!(map.named(&ours), Ok(Named::Ours(*validator)));
            assert_eq!(map.own_share(validator).unwrap().to_bytes(), ours);
        }
        assert_eq!(map.named(&validators[0].0), Ok(Named::Unknown));
    }

    #[test]
    fn another_members_share_is_refused_by_name() {
        let (map, validators) = sample();
        let theirs = validators[1].1[&ShareIndex::new(3).unwrap()].to_bytes();
        let error = map.named(&theirs).unwrap_err();
        assert!(error.message.starts_with("mismatching validator client key share index"), "{error:?}");
        assert!(error.message.contains("member 2, this one is 1"), "{error:?}");
    }

    #[test]
    fn shares_stand_in_the_place_of_keys_and_nothing_else_changes() {
        let (map, validators) = sample();
        let (key, shares) = &validators[0];
        let ours = shares[&ShareIndex::new(2).unwrap()].to_bytes();
        let stranger = PublicKeyBytes([7; 48]);
        let write = |key: String| format!(r#"{{"a":"0x12","pubkey":"{key}","b":["{stranger}","0x"],"c":"0x"#);
        for written in [key.to_string(), key.to_string().to_uppercase().replacen("0X", "0x", 1)] {
            let mut json = write(written).into_bytes();
            map.show_shares(&mut json);
            assert_eq!(String::from_utf8(json).unwrap(), write(ours.to_string()));
        }
        let unquoted = format!("0x{} \"{key}", "0".repeat(96));
        let mut json = unquoted.clone().into_bytes();
        map.show_shares(&mut json);
        assert_eq!(json, unquoted.as_bytes());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let length = bytes.len();
            sample().0.show_shares(&mut bytes);
            proptest::prop_assert_eq!(bytes.len(), length);
        }
    }
}
