//! The signing socket: the Web3Signer remote-signing API, so that a stock validator client can use it too.
//!
//! `POST /api/v1/eth2/sign/{pubshare}` takes a [`SignRequest`] and answers [`SignAnswer`]; `GET /api/v1/eth2/publicKeys`
//! answers the held public keys; `GET /upcheck` answers `OK`, or `{"status":"OK"}` (EIP-3030) to who takes JSON. Refusals carry a
//! [`crate::Problem`]: 400 for a message that makes no sense or is of a type not supported yet, 404 for a key not held, 412 when signing could cost
//! the stake or breaks a rule, 503 while the signer cannot sign (locked, disk full).
//!
//! Ours, and not part of that API: `POST /api/v1/eth2/sign` takes a list of [`SignGroup`] and answers a list of lists of
//! [`SignOutcome`], one for each key in its order. All of a slot is then recorded with one durable write. Each message is
//! still judged and recorded by itself, and one that is refused does not hold up the others.

use std::collections::BTreeMap;

use chain::{AttestationData, Epoch, ForkInfo, PublicKeyBytes, Root, SignatureBytes};
use serde::{Deserialize, Serialize};

/// Path of the list of public keys.
pub const PUBLIC_KEYS_PATH: &str = "/api/v1/eth2/publicKeys";
/// Path of the life sign.
pub const UPCHECK_PATH: &str = "/upcheck";
/// Paths of signing, before the public key.
pub const SIGN_PREFIX: &str = "/api/v1/eth2/sign/";

/// Path that signs many messages at once.
pub const SIGN_MANY_PATH: &str = "/api/v1/eth2/sign";
/// Path that takes a list of [`SeenSignature`] and answers [`SeenAnswer`].
pub const SEEN_PATH: &str = "/api/v1/eth2/seen";
/// Path that takes a list of [`SeenSignature`] that members remember from before this box started, and answers [`SeenAnswer`].
pub const REMEMBERED_PATH: &str = "/api/v1/eth2/remembered";
/// Path that takes a list of [`ChainMark`].
pub const CHAIN_MARKS_PATH: &str = "/api/v1/eth2/chain_marks";
/// Marks in one such list at most.
pub const MAX_CHAIN_MARKS_AT_ONCE: usize = 512;
/// Signatures in one such list at most: each has to be verified.
pub const MAX_SEEN_AT_ONCE: usize = 64;
/// Signatures in one request at most.
pub const MAX_SIGNED_AT_ONCE: usize = 1024;
/// A list is cut here, well below what the socket takes in one body.
const LIST_BYTES: usize = 192 * 1024;
/// A key in a list: 96 hex digits, `0x`, quotes and a comma.
const KEY_BYTES: usize = 101;

/// The path that signs with this key.
pub fn sign_path(pubshare: &PublicKeyBytes) -> String {
    format!("{SIGN_PREFIX}{pubshare}")
}

/// A signature of a share held here that somebody else has sent. A valid one under a vote that this signer has not recorded proves
/// that the share is in use elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenSignature {
    /// The share's public key.
    pub key: PublicKeyBytes,
    /// What was signed.
    pub request: SignRequest,
    /// The signature.
    pub signature: SignatureBytes,
}

/// The answer to a list of [`SeenSignature`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAnswer {
    /// The shares that were stopped because of it.
    pub stopped: Vec<PublicKeyBytes>,
}

/// What a beacon node knows of a share's validator: that it has done something. Its other shares may have done so without this one, so this
/// only ever makes a signer more careful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainMark {
    /// The share's public key.
    pub key: PublicKeyBytes,
    /// The last epoch in which the validator was seen, which may have been a vote for that epoch.
    pub target: Epoch,
    /// The epoch that the chain has justified by now: no vote up to then had a later source.
    pub justified: Epoch,
}

/// A whole message to be signed. The field that holds the message depends on the type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignRequest {
    /// The type in capitals, such as `ATTESTATION`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Fork and chain; builder registrations have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_info: Option<ForkInfo>,
    /// What the caller believes is signed; compared, never used.
    #[serde(rename = "signingRoot", default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
    /// The message under its name, such as `attestation`.
    #[serde(flatten)]
    pub body: BTreeMap<String, serde_json::Value>,
}

impl SignRequest {
    /// A request of any type; `field` names the message as the API does.
    pub fn new(
        kind: &str,
        fork_info: Option<ForkInfo>,
        field: &str,
        message: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let body = BTreeMap::from([(field.to_owned(), serde_json::to_value(message)?)]);
        Ok(Self { kind: kind.to_owned(), fork_info, signing_root: None, body })
    }

    /// Asks for the signature of an attestation.
    pub fn attestation(fork_info: ForkInfo, data: &AttestationData) -> Result<Self, serde_json::Error> {
        Self::new("ATTESTATION", Some(fork_info), "attestation", data)
    }

    /// The same with the root the caller expects.
    #[must_use]
    pub fn expecting(mut self, signing_root: Root) -> Self {
        self.signing_root = Some(signing_root);
        self
    }
}

/// The answer: a partial signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignAnswer {
    /// 96 bytes, `0x` hex.
    pub signature: SignatureBytes,
}

/// One message, and the shares that are to sign it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignGroup {
    /// The shares.
    pub keys: Vec<PublicKeyBytes>,
    /// The message.
    #[serde(flatten)]
    pub request: SignRequest,
}

/// What became of one message and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignOutcome {
    /// The partial signature.
    Signed(SignAnswer),
    /// The single call would have answered with this status and problem.
    Refused {
        /// HTTP status.
        status: u16,
        /// Why.
        problem: crate::Problem,
    },
}

/// Cuts what is to be signed into request bodies that the signer takes. The answers come in the order of the groups, and of
/// the keys in each; a group that had to be cut counts as several.
pub fn sign_lists(groups: &[SignGroup]) -> Result<Vec<(Vec<SignGroup>, String)>, serde_json::Error> {
    let mut lists: Vec<(Vec<SignGroup>, String)> = Vec::new();
    let mut keys_in_last = 0;
    for group in groups {
        let message = serde_json::to_string(&group.request)?.len();
        let room = (LIST_BYTES.saturating_sub(message) / KEY_BYTES).clamp(1, MAX_SIGNED_AT_ONCE);
        for keys in group.keys.chunks(room) {
            let part = SignGroup { keys: keys.to_vec(), request: group.request.clone() };
            let text = serde_json::to_string(&part)?;
            let fits = |list: &String| {
                list.len() + text.len() < LIST_BYTES && keys_in_last + keys.len() <= MAX_SIGNED_AT_ONCE
            };
            match lists.last_mut().filter(|(_, list)| fits(list)) {
                Some((parts, list)) => {
                    list.push(',');
                    list.push_str(&text);
                    parts.push(part);
                    keys_in_last += keys.len();
                }
                None => {
                    lists.push((vec![part], format!("[{text}")));
                    keys_in_last = keys.len();
                }
            }
        }
    }
    lists.iter_mut().for_each(|(_, list)| list.push(']'));
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(keys: usize, slot: u64) -> SignGroup {
        let data = AttestationData { slot: chain::Slot(slot), ..AttestationData::default() };
        let request = SignRequest::attestation(ForkInfo::default(), &data).unwrap();
        SignGroup { keys: vec![PublicKeyBytes([7; 48]); keys], request }
    }

    #[test]
    fn lists_hold_everything_in_order_and_none_is_too_large() {
        let many: Vec<_> = (0..1500).map(|slot| group(1, slot)).collect();
        for groups in [vec![], vec![group(3, 1)], vec![group(5000, 1), group(1, 2)], many] {
            let lists = sign_lists(&groups).unwrap();
            let mut keys = 0;
            for (parts, text) in &lists {
                assert!(text.len() <= LIST_BYTES + 1, "{}", text.len());
                let read: Vec<SignGroup> = serde_json::from_str(text).unwrap();
                assert_eq!(&read, parts);
                let here = read.iter().map(|group| group.keys.len()).sum::<usize>();
                assert!((1..=MAX_SIGNED_AT_ONCE).contains(&here), "{here}");
                keys += here;
            }
            assert_eq!(keys, groups.iter().map(|group| group.keys.len()).sum::<usize>());
        }
    }

    #[test]
    fn an_outcome_is_either_the_single_call_s_answer_or_its_refusal() {
        let signed = SignOutcome::Signed(SignAnswer { signature: SignatureBytes([1; 96]) });
        let refused =
            SignOutcome::Refused { status: 412, problem: crate::Problem::new("slashable", "No.", "Wait.") };
        for outcome in [signed, refused] {
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(serde_json::from_str::<SignOutcome>(&text).unwrap(), outcome, "{text}");
        }
    }

    #[test]
    fn an_attestation_request_looks_as_web3signer_has_it() {
        let request = SignRequest::attestation(ForkInfo::default(), &AttestationData::default())
            .unwrap()
            .expecting(Root([1; 32]));
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(json["type"], "ATTESTATION");
        assert_eq!(json["attestation"]["slot"], "0");
        assert_eq!(json["fork_info"]["fork"]["epoch"], "0");
        assert_eq!(json["signingRoot"], format!("0x{}", "01".repeat(32)));
        assert_eq!(serde_json::from_value::<SignRequest>(json).unwrap(), request);
    }
}
