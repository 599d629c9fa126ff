//! The EIP-712 digests operators and creators sign with their Ethereum wallets.

use crate::primitives::keccak256;

/// One member of the signed struct.
enum Member<'a> {
    Text(&'static str, &'a str),
    Number(&'static str, u64),
}

/// Which statement is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// The creator accepts the configuration (v1.4 and later).
    CreatorConfigHash,
    /// An operator accepts the configuration (v1.4 and later).
    OperatorConfigHash,
    /// An operator accepts the configuration (v1.3).
    ConfigHash,
    /// An operator vouches for its ENR (v1.3 and later).
    Enr,
}

impl Statement {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::CreatorConfigHash => ("CreatorConfigHash", "creator_config_hash"),
            Self::OperatorConfigHash => ("OperatorConfigHash", "operator_config_hash"),
            Self::ConfigHash => ("ConfigHash", "config_hash"),
            Self::Enr => ("ENR", "enr"),
        }
    }
}

/// Digest of a statement about `value` (a `0x` hash or an ENR) on a chain.
pub fn digest(statement: Statement, value: &str, chain_id: u64) -> [u8; 32] {
    let (primary_type, field) = statement.names();
    typed_data_digest(Some(chain_id), primary_type, &[Member::Text(field, value)])
}

/// Digest of the acceptance of Obol's terms; its domain names no chain.
pub fn terms_digest(terms_hash: &str, version: u64) -> [u8; 32] {
    let members = [Member::Text("terms_and_conditions_hash", terms_hash), Member::Number("version", version)];
    typed_data_digest(None, "TermsAndConditions", &members)
}

fn typed_data_digest(chain_id: Option<u64>, primary_type: &str, members: &[Member<'_>]) -> [u8; 32] {
    let mut domain = vec![Member::Text("name", "Obol"), Member::Text("version", "1")];
    domain.extend(chain_id.map(|id| Member::Number("chainId", id)));
    let mut message = vec![0x19, 0x01];
    message.extend_from_slice(&struct_hash("EIP712Domain", &domain));
    message.extend_from_slice(&struct_hash(primary_type, members));
    keccak256(&message)
}

fn struct_hash(name: &str, members: &[Member<'_>]) -> [u8; 32] {
    let declared: Vec<String> = members
        .iter()
        .map(|member| match member {
            Member::Text(field, _) => format!("string {field}"),
            Member::Number(field, _) => format!("uint256 {field}"),
        })
        .collect();
    let mut encoded = keccak256(format!("{name}({})", declared.join(",")).as_bytes()).to_vec();
    for member in members {
        match member {
            Member::Text(_, text) => encoded.extend_from_slice(&keccak256(text.as_bytes())),
            Member::Number(_, number) => {
                encoded.extend_from_slice(&[0; 24]);
                encoded.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
    keccak256(&encoded)
}
