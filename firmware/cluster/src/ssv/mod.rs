//! What an operator of the SSV network has in files: its own RSA key, and the key shares that were encrypted to it.
//!
//! A validator's owner splits its key among 4, 7, 10 or 13 operators and encrypts each share to one operator's RSA key (PKCS#1
//! v1.5); the result is `keyshares.json`, and the same bytes go on the chain. [`KeyShares::from_json`] believes nothing
//! that it says: who has signed it, and that the shares it announces make up the validator's key. [`OperatorKey`] reads
//! the operator's key and opens the one share that is its own. Only a file that the box's owner hands in is ever decrypted (decision 0341).
//!
//! Not here: the registry contract and the protocol of SSV nodes.

mod key_shares;
mod operator_key;
mod randomness;

pub use key_shares::{
    Committee, KeyShares, KeySharesError, MAX_KEY_SHARES_BYTES, MAX_VALIDATORS, Operator, ValidatorShares,
    ownership_message,
};
pub use operator_key::{
    ENCRYPTED_SHARE_BYTES, MAX_OPERATOR_KEY_BYTES, OperatorKey, OperatorKeyError, OperatorPublicKey,
    ShareError,
};
