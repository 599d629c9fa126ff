//! Identity keys and signatures: the refusals. The good cases are vectors.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

use cluster::identity::recover;
use cluster::{IdentityError, IdentityKey, IdentityPublicKey, PeerId};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

fn key(seed: u64) -> IdentityKey {
    IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

#[test]
fn key_files_are_64_hex_digits_of_a_valid_scalar() {
    let good = key(1).to_file_text();
    assert!(IdentityKey::from_file_text(&format!("\n\t {} \r\n", good.as_str())).is_ok());
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let cases = [
        ("", IdentityError::KeyFileFormat { found: 0 }),
        (&good[..63], IdentityError::KeyFileFormat { found: 63 }),
        (&format!("0x{}", good.as_str()), IdentityError::KeyFileFormat { found: 66 }),
        (&"0".repeat(64), IdentityError::KeyOutOfRange),
        (order, IdentityError::KeyOutOfRange),
    ];
    for (text, expected) in cases {
        assert_eq!(IdentityKey::from_file_text(text).err(), Some(expected), "{text}");
    }
}

#[test]
fn a_signature_belongs_to_one_key_and_one_digest() {
    let (ours, other) = (key(2), key(3));
    let signature = ours.sign(&[7; 32]);
    assert_eq!(recover(&[7; 32], &signature), Ok(ours.public_key()));
    assert_eq!(ours.public_key().verify(&[7; 32], &signature), Ok(()));
    assert_eq!(other.public_key().verify(&[7; 32], &signature), Err(IdentityError::WrongSigner));
    assert_eq!(ours.public_key().verify(&[8; 32], &signature), Err(IdentityError::WrongSigner));
    assert_eq!(
        ours.public_key().verify(&[7; 32], &signature[..64]),
        Err(IdentityError::SignatureLength { expected: 65, found: 64 })
    );
    assert_eq!(ours.public_key().verify(&[7; 32], &[0; 65]), Err(IdentityError::WrongSigner));
    assert_eq!(ours.public_key().verify_compact(&[7; 32], &signature[..64]), Ok(()));
    assert!(other.public_key().verify_compact(&[7; 32], &signature[..64]).is_err());
}

#[test]
fn a_printed_key_shows_its_public_half_only() {
    let key = key(4);
    let shown = format!("{key:?}");
    assert!(shown.contains(&key.public_key().to_string()));
    assert!(!shown.contains(key.to_file_text().as_str()));
}

#[test]
fn texts_and_bytes_of_keys_round_trip() {
    let public = key(5).public_key();
    assert_eq!(public.to_string().parse::<IdentityPublicKey>(), Ok(public));
    let peer = PeerId::from_public_key(&public);
    assert!(peer.to_string().starts_with("16Uiu2HA"));
    assert_eq!(peer.to_string().parse::<PeerId>(), Ok(peer));
    assert_eq!(PeerId::from_bytes(&peer.to_bytes()), Ok(peer));
    assert_eq!(serde_json::to_string(&peer).unwrap(), format!("\"{peer}\""));
    let ed25519 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    assert!(ed25519.parse::<PeerId>().is_err());
}
