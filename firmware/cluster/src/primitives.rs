//! The two hash functions these documents use, and addresses.

use chain::ExecutionAddress;
use sha2::Digest as _;

/// Keccak-256 as Ethereum uses it (not the final SHA-3).
pub(crate) fn keccak256(bytes: &[u8]) -> [u8; 32] {
    sha3::Keccak256::digest(bytes).into()
}

/// SHA-256 of the concatenation of the parts.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// An execution-layer address with the capitals that check it (EIP-55).
pub(crate) fn checksum_address(address: &[u8; 20]) -> String {
    let digits = hex::encode(address);
    let hash = keccak256(digits.as_bytes());
    let nibbles = hash.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    let cased = digits.chars().zip(nibbles).map(
        |(digit, nibble)| {
            if nibble >= 8 { digit.to_ascii_uppercase() } else { digit }
        },
    );
    format!("0x{}", cased.collect::<String>())
}

/// An address is not one, or its capitals are not its checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not 20 bytes of hex.
    #[error("'{0}' is not an address: it must be 0x and 40 hex digits")]
    NotAnAddress(String),
    /// EIP-55.
    #[error("the address '{0}' has a typing error: its capitals do not fit (EIP-55); copy it again")]
    Checksum(String),
}

/// Reads an address as people write it. With capitals and small letters, the capitals must be its checksum (EIP-55); in one
/// case only, nothing checks it. Any contract's address is as good as a wallet's: which of both it is, only the chain
/// knows.
pub fn read_address(text: &str) -> Result<ExecutionAddress, AddressError> {
    let shown = || text.chars().take(64).collect::<String>();
    let digits = text.trim().strip_prefix("0x").ok_or_else(|| AddressError::NotAnAddress(shown()))?;
    let bytes: [u8; 20] = hex::decode(digits)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| AddressError::NotAnAddress(shown()))?;
    let one_case =
        digits.chars().all(|c| !c.is_ascii_uppercase()) || digits.chars().all(|c| !c.is_ascii_lowercase());
    if one_case || checksum_address(&bytes).trim_start_matches("0x") == digits {
        Ok(ExecutionAddress(bytes))
    } else {
        Err(AddressError::Checksum(shown()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_carry_their_checksum() {
        // From EIP-55.
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        ] {
            let bytes: [u8; 20] = hex::decode(&text[2..]).unwrap().try_into().unwrap();
            assert_eq!(checksum_address(&bytes), text);
            assert_eq!(read_address(text), Ok(ExecutionAddress(bytes)));
            assert_eq!(read_address(&text.to_lowercase()), Ok(ExecutionAddress(bytes)));
            let capital = text.chars().find(char::is_ascii_uppercase).unwrap();
            let swapped = text.replacen(capital, &capital.to_ascii_lowercase().to_string(), 1);
            assert_eq!(read_address(&swapped), Err(AddressError::Checksum(swapped.clone())));
        }
        for text in [
            "",
            "0x",
            "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1bea",
            "0xzz",
        ] {
            assert!(matches!(read_address(text), Err(AddressError::NotAnAddress(_))), "{text}");
        }
    }
}
