//! The session of one validator's run, made of all ephemeral keys so that no bundle of another ceremony fits.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Session;
use crate::keys::PublicKey;

/// How the nonce is made; it depends on the release the cluster's members run (specification 13.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceRule {
    /// v1.8: one nonce for all validators of a ceremony.
    Shared,
    /// v1.9 and later: a nonce for each validator.
    PerValidator,
}

/// The nonce of the run for the validator at `position`, given every member's ephemeral key by its index.
pub fn session_nonce(rule: NonceRule, position: u32, keys: &BTreeMap<u32, PublicKey>) -> Session {
    match rule {
        NonceRule::Shared => {
            let mut hash = Sha256::new();
            keys.values().for_each(|key| hash.update(key.to_bytes().as_slice()));
            hash.finalize().into()
        }
        NonceRule::PerValidator => pair(&number(position.into()), &list(keys)),
    }
}

/// The members' list as the cluster documents hash one (specification 3.4): padded to a power of two, count mixed in.
fn list(keys: &BTreeMap<u32, PublicKey>) -> [u8; 32] {
    let mut layer: Vec<[u8; 32]> = keys.iter().map(|(index, key)| member(*index, key)).collect();
    let mut empty = [0; 32];
    while layer.len() > 1 {
        layer = layer
            .chunks(2)
            .map(|nodes| match nodes {
                [left, right] => pair(left, right),
                [left] => pair(left, &empty),
                _ => [0; 32],
            })
            .collect();
        empty = pair(&empty, &empty);
    }
    let root = layer.first().copied().unwrap_or_default();
    pair(&root, &number(u64::try_from(keys.len()).unwrap_or(u64::MAX)))
}

fn member(index: u32, key: &PublicKey) -> [u8; 32] {
    let key = key.to_bytes();
    let (head, tail) = key.as_slice().split_at(32);
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(head);
    right[..16].copy_from_slice(tail);
    pair(&number(index.into()), &pair(&left, &right))
}

fn number(value: u64) -> [u8; 32] {
    let mut chunk = [0; 32];
    chunk[..8].copy_from_slice(&value.to_le_bytes());
    chunk
}

fn pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    fn keys(count: u32) -> BTreeMap<u32, PublicKey> {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        (0..count).map(|index| (index, SecretKey::random(&mut rng).public_key())).collect()
    }

    #[test]
    fn the_nonce_depends_on_the_validator_only_where_the_profile_says_so() {
        let keys = keys(4);
        let nonce = |rule, position| session_nonce(rule, position, &keys);
        assert_eq!(nonce(NonceRule::Shared, 0), nonce(NonceRule::Shared, 1));
        assert_ne!(nonce(NonceRule::PerValidator, 0), nonce(NonceRule::PerValidator, 1));
    }

    /// Three members are padded to four, written out by hand.
    #[test]
    fn the_list_is_padded_and_counted() {
        let keys = keys(3);
        let of = |index| member(index, &keys[&index]);
        let root = pair(&pair(&of(0), &of(1)), &pair(&of(2), &[0; 32]));
        let expected = pair(&number(9), &pair(&root, &number(3)));
        assert_eq!(session_nonce(NonceRule::PerValidator, 9, &keys), expected);
    }

    #[test]
    fn another_ephemeral_key_is_another_session() {
        let (mut changed, keys) = (keys(5), keys(4));
        changed.remove(&4);
        assert_eq!(
            session_nonce(NonceRule::PerValidator, 0, &keys),
            session_nonce(NonceRule::PerValidator, 0, &changed)
        );
        changed.insert(3, keys[&0]);
        for rule in [NonceRule::Shared, NonceRule::PerValidator] {
            assert_ne!(session_nonce(rule, 0, &keys), session_nonce(rule, 0, &changed));
        }
    }
}
