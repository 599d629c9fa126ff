//! The few BLS questions these documents ask, from unchecked bytes.

use chain::{PublicKeyBytes, SignatureBytes};
use threshold::{PublicKey, PublicShare, ShareIndex};

/// Whether the signature is the key's over the message; malformed bytes never are.
pub(crate) fn verify(key: &PublicKeyBytes, message: &[u8], signature: &SignatureBytes) -> bool {
    threshold::verify_bytes(key, message, signature).is_ok()
}

/// Whether the shares at these positions (position 0 has share index 1) interpolate to the key.
pub(crate) fn interpolates_to(shares: &[PublicKey], positions: &[usize], key: &PublicKeyBytes) -> bool {
    let chosen: Option<Vec<PublicShare>> = positions
        .iter()
        .map(|position| {
            let index = ShareIndex::new(u64::try_from(*position).ok()? + 1).ok()?;
            Some(PublicShare { index, key: *shares.get(*position)? })
        })
        .collect();
    let interpolated = chosen.and_then(|chosen| threshold::interpolate_public_key(&chosen).ok());
    interpolated.is_some_and(|interpolated| interpolated.to_bytes() == *key)
}
