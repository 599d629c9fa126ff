//! The signing socket: the Web3Signer remote-signing API, so that a stock validator client can use it too.
//!
//! `POST /api/v1/eth2/sign/{pubshare}` takes a [`SignRequest`] and answers [`SignAnswer`]; `GET /api/v1/eth2/publicKeys`
//! answers the held public keys; `GET /upcheck` answers `{"status":"OK"}`. Refusals carry a [`crate::Problem`]: 400 for
//! a message that makes no sense or is of a type not supported yet, 404 for a key not held, 412 when signing could cost
//! the stake or breaks a rule, 503 while the signer cannot sign (locked, disk full).

use std::collections::BTreeMap;

use chain::{AttestationData, ForkInfo, PublicKeyBytes, Root, SignatureBytes};
use serde::{Deserialize, Serialize};

/// Path of the list of public keys.
pub const PUBLIC_KEYS_PATH: &str = "/api/v1/eth2/publicKeys";
/// Path of the life sign.
pub const UPCHECK_PATH: &str = "/upcheck";
/// Paths of signing, before the public key.
pub const SIGN_PREFIX: &str = "/api/v1/eth2/sign/";

/// The path that signs with this key.
pub fn sign_path(pubshare: &PublicKeyBytes) -> String {
    format!("{SIGN_PREFIX}{pubshare}")
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

#[cfg(test)]
mod tests {
    use super::*;

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
