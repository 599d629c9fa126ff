//! The files of an SSV operator: key shares that anybody may have made, and the operator's own key.

use std::sync::LazyLock;

use chain::{ExecutionAddress, PublicKeyBytes};
use cluster::keystore::KdfCost;
use cluster::ssv::{KeyShares, OperatorKey, OperatorPublicKey, ValidatorShares};
use ipc::Sensitive;
use ipc::folder::Past;
use ipc::ssv::{SsvFiles, SsvKeyFile};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use serde_json::Value;
use signer::outside;
use threshold::SecretKey;

use crate::local::is_cheap;
use crate::world;
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "ssv_key_shares",
        about: "keyshares.json (anybody), alone and as an operator hands it in: written and read the same, no validator but those that were split",
        max_bytes: 16_384,
        run: key_shares,
        seeds: key_shares_seeds,
    },
    Target {
        name: "ssv_operator_key",
        about: "an SSV operator's private or public key, in the clear or encrypted: one that is taken has one text",
        max_bytes: 8192,
        run: operator_key,
        seeds: operator_key_seeds,
    },
];

const PASSWORD: &str = "password";
const OURS: usize = 1;

/// The one operator of whom we know the private key. It takes a second to make, so it is made once.
fn our_key() -> &'static OperatorKey {
    static KEY: LazyLock<OperatorKey> = LazyLock::new(|| OperatorKey::generate(&mut world::rng()));
    &KEY
}

/// Us, and three whose private keys nobody knows: a modulus need not be a product of primes for encrypting to it.
fn operators() -> Vec<(u64, OperatorPublicKey)> {
    let ids = [5, 6, 700, 8000];
    let key = |place: usize| match place {
        OURS => our_key().public_key(),
        place => {
            let mut modulus = [0; 256];
            ChaCha20Rng::seed_from_u64(u64::try_from(place).unwrap_or(0)).fill_bytes(&mut modulus);
            modulus[0] |= 0x80;
            modulus[255] |= 1;
            OperatorPublicKey::from_modulus(&modulus).expect("odd, and as long as it has to be")
        }
    };
    ids.into_iter().enumerate().map(|(place, id)| (id, key(place))).collect()
}

fn split() -> &'static [ValidatorShares] {
    static SPLIT: LazyLock<Vec<ValidatorShares>> = LazyLock::new(|| {
        let mut rng = world::rng();
        (0..2)
            .map(|nonce| {
                let secret = SecretKey::random(&mut rng);
                ValidatorShares::split(secret, &operators(), ExecutionAddress([7; 20]), nonce, &mut rng)
                    .expect("four operators")
            })
            .collect()
    });
    &SPLIT
}

fn key_shares(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    if choice == 1 {
        return handed_in(bytes);
    }
    let Ok(read) = KeyShares::from_json(bytes) else { return Verdict::Refused };
    let again = KeyShares::write(read.validators(), "");
    assert_eq!(KeyShares::from_json(&again).as_ref(), Ok(&read), "it is written otherwise than it was read");
    for validator in read.validators() {
        // The keys in the seeds are all that ever signed owner and nonce.
        let ours = split().iter().find(|ours| ours.public_key == validator.public_key);
        let ours = ours.expect("a validator out of nothing");
        assert_eq!((validator.owner, validator.owner_nonce), (ours.owner, ours.owner_nonce));
        let shares = |validator: &ValidatorShares| -> Vec<(u64, PublicKeyBytes)> {
            validator.operators.iter().map(|operator| (operator.id, operator.public_share)).collect()
        };
        assert_eq!(shares(validator), shares(ours), "other shares make up the same key");
    }
    Verdict::Taken
}

/// As the page would have sealed it.
fn handed_in(bytes: &[u8]) -> Verdict {
    let Ok(files) = serde_json::from_slice::<SsvFiles>(bytes) else { return Verdict::Refused };
    if !is_cheap_key(files.operator_key.file.expose_secret()) {
        return Verdict::Refused;
    }
    let Some(keys) = outside::ssv_files(bytes) else { return Verdict::Refused };
    assert!(files.old_node_stopped, "without the owner's word");
    let ours: Vec<_> = split().iter().map(|validator| validator.operators[OURS].public_share).collect();
    assert!(keys.iter().all(|key| ours.contains(key)), "a share out of nothing");
    Verdict::Taken
}

fn key_shares_seeds() -> Vec<Vec<u8>> {
    let file = |count: usize| KeyShares::write(&split()[..count], "2026-11-27T00:00:00Z");
    let text = |count| String::from_utf8(file(count)).expect("JSON is text");
    let files = |past| SsvFiles {
        operator_key: SsvKeyFile {
            file: Sensitive::new(our_key().expose_text().to_string()),
            password: Some(Sensitive::new(String::new())),
        },
        key_shares: text(1),
        old_node_stopped: true,
        past,
        network: Some("hoodi".to_owned()),
        chain: None,
    };
    let history = Past::Interchange(serde_json::json!({
        "metadata": {"interchange_format_version": "5",
            "genesis_validators_root": world::hoodi().genesis_validators_root()},
        "data": [{"pubkey": split()[0].operators[OURS].public_share, "signed_blocks": [{"slot": "40"}],
            "signed_attestations": [{"source_epoch": "4", "target_epoch": "5"}]}],
    }));
    let json = |files: &SsvFiles| serde_json::to_vec(files).expect("what is handed in has a JSON form");
    vec![
        chosen(0, file(1)),
        chosen(0, file(2)),
        chosen(1, json(&files(Past::Wait))),
        chosen(1, json(&files(history))),
    ]
}

/// Whether a file costs no more than a moment to try.
fn is_cheap_key(file: &str) -> bool {
    if !file.trim_start().starts_with('{') {
        return true;
    }
    serde_json::from_str::<Value>(file).is_ok_and(|crypto| is_cheap(&serde_json::json!({"crypto": crypto})))
}

fn operator_key(input: &[u8]) -> Verdict {
    if let Some(text) = std::str::from_utf8(input).ok()
        && let Ok(key) = OperatorPublicKey::from_text(text)
    {
        assert_eq!(OperatorPublicKey::from_text(&key.to_text()), Ok(key.clone()));
        assert_eq!(key.fingerprint().len(), 64);
        return Verdict::Taken;
    }
    if !std::str::from_utf8(input).is_ok_and(is_cheap_key) {
        return Verdict::Refused;
    }
    let Ok(key) = OperatorKey::from_file(input, Some(PASSWORD)) else { return Verdict::Refused };
    let again =
        OperatorKey::from_file(key.expose_text().as_bytes(), None).expect("what is read is written readable");
    assert_eq!(again.expose_pem(), key.expose_pem());
    assert_eq!(again.public_key(), key.public_key());
    // Nobody finds the factors of another number.
    assert_eq!(key.public_key(), our_key().public_key(), "a key out of nothing");
    Verdict::Taken
}

fn operator_key_seeds() -> Vec<Vec<u8>> {
    vec![
        our_key().expose_text().as_bytes().to_vec(),
        our_key().to_encrypted(PASSWORD, KdfCost::Insecure, &mut world::rng()).into_bytes(),
        our_key().public_key().to_text().into_bytes(),
    ]
}
