//! The transaction with which a builder pays the proposer: an ordinary transfer, signed for the local chain (EIP-155).
//!
//! Without it a payload would have no transaction, and Prysm takes no offer of an empty payload.

use cluster::IdentityKey;
use sha3::{Digest as _, Keccak256};

/// A plain transfer costs exactly this.
const TRANSFER_GAS: u64 = 21_000;

/// A transfer to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    /// How many transactions the payer has sent before.
    pub(super) nonce: u64,
    /// Wei for each unit of gas.
    pub(super) gas_price: u64,
    /// Who is paid.
    pub(super) to: [u8; 20],
    /// Wei.
    pub(super) value: u64,
}

impl Transfer {
    /// The signed transaction, as execution clients take it.
    pub(super) fn signed(&self, chain_id: u64, payer: &IdentityKey) -> Vec<u8> {
        let signature = payer.sign(&self.signing_hash(chain_id));
        let parity = u64::from(signature[64]);
        let mut items = self.items();
        items.push(number(chain_id * 2 + 35 + parity));
        items.push(string(without_zeros(&signature[..32])));
        items.push(string(without_zeros(&signature[32..64])));
        list(&items)
    }

    fn signing_hash(&self, chain_id: u64) -> [u8; 32] {
        let mut items = self.items();
        items.extend([number(chain_id), number(0), number(0)]);
        Keccak256::digest(list(&items)).into()
    }

    fn items(&self) -> Vec<Vec<u8>> {
        vec![
            number(self.nonce),
            number(self.gas_price),
            number(TRANSFER_GAS),
            string(&self.to),
            number(self.value),
            string(&[]),
        ]
    }
}

/// RLP of a number: its bytes without leading zeros.
fn number(value: u64) -> Vec<u8> {
    string(without_zeros(&value.to_be_bytes()))
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    &bytes[first..]
}

/// RLP of a byte string.
fn string(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [byte] if *byte < 0x80 => vec![*byte],
        _ => prefixed(0x80, bytes),
    }
}

/// RLP of a list of encoded items.
fn list(items: &[Vec<u8>]) -> Vec<u8> {
    prefixed(0xc0, &items.concat())
}

fn prefixed(base: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = match u8::try_from(length) {
        Ok(short) if short < 56 => vec![base + short],
        _ => {
            let length = u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes();
            let length = without_zeros(&length);
            let digits = u8::try_from(length.len()).unwrap_or(8);
            [&[base + 55 + digits], length].concat()
        }
    };
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_signed_as_in_the_example_of_eip_155() {
        let payer = IdentityKey::from_file_text(&"46".repeat(32)).unwrap();
        let transfer = Transfer {
            nonce: 9,
            gas_price: 20_000_000_000,
            to: [0x35; 20],
            value: 1_000_000_000_000_000_000,
        };
        assert_eq!(
            hex::encode(transfer.signing_hash(1)),
            "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
        );
        let signed = hex::encode(transfer.signed(1, &payer));
        assert!(signed.starts_with("f86c098504a817c800825208943535"), "{signed}");
        assert!(signed.contains("8025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a0"));
    }

    #[test]
    fn lengths_are_written_as_rlp_says() {
        assert_eq!(number(0), [0x80]);
        assert_eq!(number(15), [15]);
        assert_eq!(number(1024), [0x82, 4, 0]);
        assert_eq!(string(&[1; 56])[..2], [0xb8, 56]);
        assert_eq!(list(&[]), [0xc0]);
        assert_eq!(list(&[string(&[7; 300])])[..3], [0xf9, 1, 47]);
    }
}
