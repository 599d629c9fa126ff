//! Pedersen's key generation and resharing on the wire (obol spec 11.8): bytes to checked bundles and back.
//!
//! The arithmetic and the members' state machine are `threshold::pedersen`, which runs in `signer`. Here every message is
//! bounded before it is decoded, and a bundle that names another member than the one whose stream it came on is refused.

use chain::{PublicKeyBytes, SignatureBytes};
use prost::Message as _;
use threshold::pedersen::{
    Bundle, CIPHERTEXT_BYTES, Deal, DealBundle, Justification, JustificationBundle, NonceRule, Response,
    ResponseBundle,
};

use super::bcast::{Kind, Session};
use super::pedersen_wire::{
    NodePubKeyMessage, NodePubKeyShares, PedersenDeal, PedersenDealBundle, PedersenJustification,
    PedersenJustificationBundle, PedersenResponse, PedersenResponseBundle, ValidatorPubKeyShareMessage,
};
use super::profile::Profile;
use crate::scan;
use crate::wire::Named as _;

/// Identifier of the broadcast of ephemeral keys.
pub const NODE_PUBKEYS: &str = "/charon/dkg/pedersen/1.0.0/node_pubkeys";
/// Protocol of deals.
pub const DEAL_BUNDLE: &str = "/charon/dkg/pedersen/1.0.0/deal_bundle";
/// Protocol of responses.
pub const RESPONSE_BUNDLE: &str = "/charon/dkg/pedersen/1.0.0/resp_bundle";
/// Protocol of justifications.
pub const JUSTIFICATION_BUNDLE: &str = "/charon/dkg/pedersen/1.0.0/just_bundle";
/// Protocol of the new public shares.
pub const PUBLIC_SHARE: &str = "/charon/dkg/pedersen/1.0.0/val_pubkey_share";

/// Most entries of one list in a message: a cluster's members at most.
const MAX_ENTRIES: usize = threshold::pedersen::MAX_MEMBERS;
/// Longest bundle: a full list of encrypted shares and of commitments, with tags and lengths.
pub const MAX_BUNDLE_BYTES: usize = MAX_ENTRIES * (CIPHERTEXT_BYTES + 16) + MAX_ENTRIES * 52 + 256;
const SIGNATURE_BYTES: usize = 96;

/// Which kind of bundle a protocol carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BundleKind {
    /// Commitments and shares.
    Deal,
    /// What a receiver says.
    Response,
    /// Answers to complaints.
    Justification,
}

impl BundleKind {
    /// The kind of a bundle.
    pub fn of(bundle: &Bundle) -> Self {
        match bundle {
            Bundle::Deal(_) => Self::Deal,
            Bundle::Response(_) => Self::Response,
            Bundle::Justification(_) => Self::Justification,
        }
    }

    /// The protocol that carries it.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Deal => DEAL_BUNDLE,
            Self::Response => RESPONSE_BUNDLE,
            Self::Justification => JUSTIFICATION_BUNDLE,
        }
    }
}

/// Why a message is refused. The sender is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PedersenRefusal {
    /// No such message.
    #[error("the bytes are not a message of Pedersen's key generation")]
    Malformed,
    /// Longer than any honest one.
    #[error("{0} bytes are more than such a message can have")]
    TooLong(usize),
    /// A list that is longer than any cluster.
    #[error("a list of {0} entries is longer than any cluster")]
    TooMany(usize),
    /// A field of another length than it must have.
    #[error("the field {0} has not the length it must have")]
    Length(&'static str),
    /// It speaks for somebody else.
    #[error("it names member {0}, which is not the sender")]
    NotTheSender(u32),
    /// Of another ceremony.
    #[error("it belongs to another ceremony")]
    OtherCeremony,
    /// Not one public share for each validator.
    #[error("{found} public shares for {expected} validators")]
    Shares {
        /// Validators.
        expected: usize,
        /// Shares found.
        found: usize,
    },
}

/// How nonces are made in a profile.
pub fn nonce_rule(profile: Profile) -> NonceRule {
    if profile.minor <= 8 { NonceRule::Shared } else { NonceRule::PerValidator }
}

/// The kind of broadcast in which ephemeral keys are announced.
pub fn announcement_kind(validators: usize) -> Kind {
    let max_bytes = 256 + validators.saturating_mul(52);
    Kind { id: NODE_PUBKEYS, type_name: NodePubKeyMessage::NAME, max_bytes }
}

/// What a member announces before the first deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its ephemeral key.
    pub key: PublicKeyBytes,
    /// Its present public shares, one per validator; none for a member that joins, and in a key generation.
    pub shares: Option<Vec<PublicKeyBytes>>,
    /// The sum of its present shares' signatures, each of its own [`voucher_message`]; only Hearths that have shares make one.
    pub voucher: Option<SignatureBytes>,
}

/// What a member's present shares sign to vouch for its ephemeral key: so only who can sign with a box's old shares gets its
/// new ones (decision 0220). Longer than a signing root and with its purpose in front, so that no chain and no other
/// protocol takes it for anything. `edit` is [`cluster::edit::EditPlan::digest`]. Each share signs a message with itself in it:
/// the sum is then worth nothing to who only knows the sum of the keys.
pub fn voucher_message(edit: &[u8; 32], key: &PublicKeyBytes, share: &PublicKeyBytes) -> Vec<u8> {
    let purpose = &b"hearth: the key that my new share is dealt to, v2"[..];
    [purpose, edit, key.as_slice(), share.as_slice()].concat()
}

/// Encodes an announcement. The same announcement has always the same bytes.
pub fn write_announcement(definition_hash: &[u8; 32], announcement: &Announcement) -> NodePubKeyMessage {
    NodePubKeyMessage {
        session_id: definition_hash.to_vec(),
        public_key: announcement.key.0.to_vec(),
        shares: announcement.shares.as_ref().map(|shares| NodePubKeyShares {
            public_key_shares: shares.iter().map(|share| share.0.to_vec()).collect(),
        }),
        voucher: announcement.voucher.map(|voucher| voucher.0.to_vec()).unwrap_or_default(),
    }
}

/// Reads an announcement for so many validators.
pub fn read_announcement(
    definition_hash: &[u8; 32],
    validators: usize,
    bytes: &[u8],
) -> Result<Announcement, PedersenRefusal> {
    let mut rest = bytes;
    while let Some(field) = scan::next_field(&mut rest).map_err(|_| PedersenRefusal::Malformed)? {
        if let (3, Some(shares)) = (field.tag, field.contents) {
            let found = scan::count(shares, 1).map_err(|_| PedersenRefusal::Malformed)?;
            if found != validators {
                return Err(PedersenRefusal::Shares { expected: validators, found });
            }
        }
    }
    let message = NodePubKeyMessage::decode(bytes).map_err(|_| PedersenRefusal::Malformed)?;
    if message.session_id != definition_hash {
        return Err(PedersenRefusal::OtherCeremony);
    }
    let shares = message
        .shares
        .map(|shares| {
            let shares = shares.public_key_shares;
            if shares.len() != validators {
                return Err(PedersenRefusal::Shares { expected: validators, found: shares.len() });
            }
            shares.iter().map(|share| point(share, "public_key_shares")).collect()
        })
        .transpose()?;
    let voucher = match message.voucher.as_slice() {
        [] => None,
        bytes => Some(bytes.try_into().map(SignatureBytes).map_err(|_| PedersenRefusal::Length("voucher"))?),
    };
    Ok(Announcement { key: point(&message.public_key, "public_key")?, shares, voucher })
}

/// The hash that a member's identity signs when it announces its key.
pub fn announcement_hash(
    session: &Session,
    definition_hash: &[u8; 32],
    announcement: &Announcement,
) -> [u8; 32] {
    session.hash_of(NODE_PUBKEYS, &write_announcement(definition_hash, announcement).to_any())
}

/// Encodes a bundle.
pub fn write_bundle(bundle: &Bundle) -> Vec<u8> {
    match bundle {
        Bundle::Deal(bundle) => PedersenDealBundle {
            dealer_index: bundle.dealer_index,
            deals: bundle
                .deals
                .iter()
                .map(|deal| PedersenDeal {
                    share_index: deal.share_index,
                    encrypted_share: deal.encrypted_share.clone(),
                })
                .collect(),
            public: bundle.public.iter().map(|point| point.0.to_vec()).collect(),
            session_id: bundle.session.to_vec(),
            signature: bundle.signature.clone(),
        }
        .encode_to_vec(),
        Bundle::Response(bundle) => PedersenResponseBundle {
            share_index: bundle.share_index,
            responses: bundle
                .responses
                .iter()
                .map(|response| PedersenResponse {
                    dealer_index: response.dealer_index,
                    status: response.is_good,
                })
                .collect(),
            session_id: bundle.session.to_vec(),
            signature: bundle.signature.clone(),
        }
        .encode_to_vec(),
        Bundle::Justification(bundle) => PedersenJustificationBundle {
            dealer_index: bundle.dealer_index,
            justifications: bundle
                .justifications
                .iter()
                .map(|justification| PedersenJustification {
                    share_index: justification.share_index,
                    share: justification.share.to_vec(),
                })
                .collect(),
            session_id: bundle.session.to_vec(),
            signature: bundle.signature.clone(),
        }
        .encode_to_vec(),
    }
}

/// Reads a bundle of one kind. `sender` is the index, on the bundle's own side, of the member whose stream it came on.
pub fn read_bundle(kind: BundleKind, sender: u32, bytes: &[u8]) -> Result<Bundle, PedersenRefusal> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(PedersenRefusal::TooLong(bytes.len()));
    }
    // Counted before anything is decoded: an empty entry of two bytes takes a hundred in memory.
    for tag in [2, 3] {
        let entries = scan::count(bytes, tag).map_err(|_| PedersenRefusal::Malformed)?;
        if entries > MAX_ENTRIES {
            return Err(PedersenRefusal::TooMany(entries));
        }
    }
    let (named, bundle) = match kind {
        BundleKind::Deal => read_deals(bytes)?,
        BundleKind::Response => read_responses(bytes)?,
        BundleKind::Justification => read_justifications(bytes)?,
    };
    if named == sender { Ok(bundle) } else { Err(PedersenRefusal::NotTheSender(named)) }
}

fn read_deals(bytes: &[u8]) -> Result<(u32, Bundle), PedersenRefusal> {
    let message = PedersenDealBundle::decode(bytes).map_err(|_| PedersenRefusal::Malformed)?;
    let deals = message.deals.into_iter().map(|deal| {
        // A share of another length is its receiver's to complain of; one that is longer is nobody's.
        if deal.encrypted_share.len() > CIPHERTEXT_BYTES {
            return Err(PedersenRefusal::Length("encrypted_share"));
        }
        Ok(Deal { share_index: deal.share_index, encrypted_share: deal.encrypted_share })
    });
    let bundle = DealBundle {
        dealer_index: message.dealer_index,
        deals: deals.collect::<Result<_, _>>()?,
        public: message.public.iter().map(|bytes| point(bytes, "public")).collect::<Result<_, _>>()?,
        session: session(&message.session_id)?,
        signature: signature(message.signature)?,
    };
    Ok((bundle.dealer_index, Bundle::Deal(bundle)))
}

fn read_responses(bytes: &[u8]) -> Result<(u32, Bundle), PedersenRefusal> {
    let message = PedersenResponseBundle::decode(bytes).map_err(|_| PedersenRefusal::Malformed)?;
    let response = |response: &PedersenResponse| Response {
        dealer_index: response.dealer_index,
        is_good: response.status,
    };
    let bundle = ResponseBundle {
        share_index: message.share_index,
        responses: message.responses.iter().map(response).collect(),
        session: session(&message.session_id)?,
        signature: signature(message.signature)?,
    };
    Ok((bundle.share_index, Bundle::Response(bundle)))
}

fn read_justifications(bytes: &[u8]) -> Result<(u32, Bundle), PedersenRefusal> {
    let message = PedersenJustificationBundle::decode(bytes).map_err(|_| PedersenRefusal::Malformed)?;
    let justifications = message.justifications.iter().map(|justification| {
        let share = justification.share.as_slice().try_into();
        let share = share.map_err(|_| PedersenRefusal::Length("share"))?;
        Ok(Justification { share_index: justification.share_index, share })
    });
    let bundle = JustificationBundle {
        dealer_index: message.dealer_index,
        justifications: justifications.collect::<Result<_, PedersenRefusal>>()?,
        session: session(&message.session_id)?,
        signature: signature(message.signature)?,
    };
    Ok((bundle.dealer_index, Bundle::Justification(bundle)))
}

/// Encodes our new public share of one validator; none when we leave.
pub fn write_public_share(definition_hash: &[u8; 32], share: Option<PublicKeyBytes>) -> Vec<u8> {
    let public_key_share = share.map(|share| share.0.to_vec()).unwrap_or_default();
    ValidatorPubKeyShareMessage { session_id: definition_hash.to_vec(), public_key_share }.encode_to_vec()
}

/// Reads a member's new public share; none when it leaves.
pub fn read_public_share(
    definition_hash: &[u8; 32],
    bytes: &[u8],
) -> Result<Option<PublicKeyBytes>, PedersenRefusal> {
    if bytes.len() > 256 {
        return Err(PedersenRefusal::TooLong(bytes.len()));
    }
    let message = ValidatorPubKeyShareMessage::decode(bytes).map_err(|_| PedersenRefusal::Malformed)?;
    if message.session_id != definition_hash {
        return Err(PedersenRefusal::OtherCeremony);
    }
    let share = &message.public_key_share;
    if share.is_empty() { Ok(None) } else { point(share, "public_key_share").map(Some) }
}

fn point(bytes: &[u8], field: &'static str) -> Result<PublicKeyBytes, PedersenRefusal> {
    bytes.try_into().map(PublicKeyBytes).map_err(|_| PedersenRefusal::Length(field))
}

fn session(bytes: &[u8]) -> Result<[u8; 32], PedersenRefusal> {
    bytes.try_into().map_err(|_| PedersenRefusal::Length("session_id"))
}

fn signature(bytes: Vec<u8>) -> Result<Vec<u8>, PedersenRefusal> {
    if bytes.len() == SIGNATURE_BYTES { Ok(bytes) } else { Err(PedersenRefusal::Length("signature")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [3; 32];

    fn deals() -> Bundle {
        let deal = |share_index| Deal { share_index, encrypted_share: vec![7; CIPHERTEXT_BYTES] };
        Bundle::Deal(DealBundle {
            dealer_index: 2,
            deals: vec![deal(0), deal(1), deal(3)],
            public: vec![PublicKeyBytes([8; 48]); 3],
            session: HASH,
            signature: vec![9; 96],
        })
    }

    fn bundles() -> [Bundle; 3] {
        let responses = Bundle::Response(ResponseBundle {
            share_index: 2,
            responses: vec![
                Response { dealer_index: 0, is_good: true },
                Response { dealer_index: 1, is_good: false },
            ],
            session: HASH,
            signature: vec![9; 96],
        });
        let justifications = Bundle::Justification(JustificationBundle {
            dealer_index: 2,
            justifications: vec![Justification { share_index: 1, share: [5; 32] }],
            session: HASH,
            signature: vec![9; 96],
        });
        [deals(), responses, justifications]
    }

    #[test]
    fn every_bundle_comes_back_as_it_went() {
        for bundle in bundles() {
            let bytes = write_bundle(&bundle);
            assert_eq!(read_bundle(BundleKind::of(&bundle), 2, &bytes), Ok(bundle));
        }
    }

    #[test]
    fn a_member_speaks_for_itself_alone() {
        for bundle in bundles() {
            let bytes = write_bundle(&bundle);
            assert_eq!(
                read_bundle(BundleKind::of(&bundle), 1, &bytes),
                Err(PedersenRefusal::NotTheSender(2))
            );
        }
    }

    #[test]
    fn truncated_bytes_are_refused_or_read_as_less_but_never_panic() {
        for bundle in bundles() {
            let bytes = write_bundle(&bundle);
            for length in 0..bytes.len() {
                assert!(read_bundle(BundleKind::of(&bundle), 2, &bytes[..length]).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_decoded() {
        let many = [0x12, 0x00].repeat(MAX_ENTRIES + 1);
        for kind in [BundleKind::Deal, BundleKind::Response, BundleKind::Justification] {
            assert_eq!(read_bundle(kind, 0, &many), Err(PedersenRefusal::TooMany(MAX_ENTRIES + 1)));
            let long = vec![0; MAX_BUNDLE_BYTES + 1];
            assert_eq!(read_bundle(kind, 0, &long), Err(PedersenRefusal::TooLong(MAX_BUNDLE_BYTES + 1)));
        }
        let Bundle::Deal(mut bundle) = deals() else { panic!() };
        bundle.deals[0].encrypted_share.push(0);
        let bytes = write_bundle(&Bundle::Deal(bundle));
        let refused = read_bundle(BundleKind::Deal, 2, &bytes);
        assert_eq!(refused, Err(PedersenRefusal::Length("encrypted_share")));
    }

    #[test]
    fn an_announcement_is_of_one_ceremony_and_names_a_share_for_each_validator() {
        let with = Announcement {
            key: PublicKeyBytes([1; 48]),
            shares: Some(vec![PublicKeyBytes([2; 48]), PublicKeyBytes([4; 48])]),
            voucher: None,
        };
        let without = Announcement { shares: None, ..with.clone() };
        let vouched = Announcement { voucher: Some(SignatureBytes([5; 96])), ..with.clone() };
        for announcement in [&with, &without, &vouched] {
            let bytes = write_announcement(&HASH, announcement).encode_to_vec();
            assert_eq!(read_announcement(&HASH, 2, &bytes).as_ref(), Ok(announcement));
            assert_eq!(read_announcement(&[4; 32], 2, &bytes), Err(PedersenRefusal::OtherCeremony));
        }
        let bytes = write_announcement(&HASH, &with).encode_to_vec();
        let refused = PedersenRefusal::Shares { expected: 3, found: 2 };
        assert_eq!(read_announcement(&HASH, 3, &bytes), Err(refused));
        // Cut off before its shares it is the announcement of a member that joins, which no signature is for.
        let joins = write_announcement(&HASH, &without).encode_to_vec().len();
        for length in (0..bytes.len()).filter(|length| *length != joins) {
            assert!(read_announcement(&HASH, 2, &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_vouches_for_a_key_is_of_one_edit_one_key_and_one_share_and_no_signing_root() {
        let (key, share) = (PublicKeyBytes([1; 48]), PublicKeyBytes([7; 48]));
        let message = voucher_message(&HASH, &key, &share);
        assert!(message.len() > 32);
        assert_ne!(message, voucher_message(&[4; 32], &key, &share));
        assert_ne!(message, voucher_message(&HASH, &PublicKeyBytes([2; 48]), &share));
        assert_ne!(message, voucher_message(&HASH, &key, &PublicKeyBytes([8; 48])));
    }

    #[test]
    fn a_public_share_is_of_one_ceremony_and_an_empty_one_means_leaving() {
        for share in [Some(PublicKeyBytes([2; 48])), None] {
            let bytes = write_public_share(&HASH, share);
            assert_eq!(read_public_share(&HASH, &bytes), Ok(share));
            assert_eq!(read_public_share(&[4; 32], &bytes), Err(PedersenRefusal::OtherCeremony));
        }
        assert_eq!(read_public_share(&HASH, &[0; 300]), Err(PedersenRefusal::TooLong(300)));
    }

    #[test]
    fn nonces_follow_the_profile() {
        let rule = |minor| nonce_rule(Profile::of_minor(minor).unwrap());
        assert_eq!(rule(8), NonceRule::Shared);
        assert!([9, 10, 11].into_iter().all(|minor| rule(minor) == NonceRule::PerValidator));
    }
}
