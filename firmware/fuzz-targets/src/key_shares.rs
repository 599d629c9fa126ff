//! Partial signatures put together, and key shares on their way into the signer.

use std::collections::BTreeMap;

use chain::{Epoch, SignatureBytes};
use cluster::Keystore;
use cluster::keystore::KdfCost;
use ipc::Sensitive;
use ipc::envelope::{ImportSecret, seal_bytes};
use ipc::signer::{ChainClock, ChainPreset, History, ShareBundle, ShareEntry, ShareImport};
use threshold::{Combiner, Job, PublicKey, Signature};

use crate::world::{self, GENESIS_ROOT, created, public_shares};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "combiner",
        about: "partial signatures of lying members: never a wrong signature, never an honest member blamed",
        max_bytes: 256,
        run: combine,
        seeds: combine_seeds,
    },
    Target {
        name: "points",
        about: "keys and signatures as bytes (anybody): one encoding each, in the right subgroup",
        max_bytes: 97,
        run: points,
        seeds: point_seeds,
    },
    Target {
        name: "share_envelope",
        about: "sealed shares (the page): as bytes, and the bundle inside sealed for this box",
        max_bytes: 8192,
        run: envelope,
        seeds: envelope_seeds,
    },
];

const MESSAGE: [u8; 32] = [0x5a; 32];

/// Partials of one validator as the input says: each three bytes are a share, a way to lie and a number for it.
fn combine(input: &[u8]) -> Verdict {
    let (_, group, shares) = &public_shares()[0];
    let mut honest = BTreeMap::new();
    let mut partials = Vec::new();
    for entry in input.chunks_exact(3).take(12) {
        let node = usize::from(entry[0]) % created().nodes.len();
        let share = &created().nodes[node].shares[0];
        let right = share.sign(&MESSAGE).to_bytes();
        let (index, number) = (share.index(), entry[2]);
        let bytes = match entry[1] % 8 {
            0..=2 => right,
            3 => share.sign(&[number; 32]).to_bytes(),
            4 => created().nodes[usize::from(number) % created().nodes.len()].shares[0]
                .sign(&MESSAGE)
                .to_bytes(),
            5 => SignatureBytes([number; 96]),
            6 => created().nodes[node].shares[1].sign(&MESSAGE).to_bytes(),
            _ => {
                let mut bytes = right;
                bytes.0[usize::from(number) % 96] ^= 1 << (number % 8);
                bytes
            }
        };
        // The first word of a member counts.
        honest.entry(index).or_insert(bytes == right);
        partials.push((index, bytes));
    }
    let job =
        Job { group_key: group, public_shares: shares, threshold: 3, message: &MESSAGE, partials: &partials };
    let combiner = Combiner::default();
    let mut rng = world::rng();
    let mut verdict = Verdict::Refused;
    // Twice: what it remembers of members and points must not change what is right.
    for _ in 0..2 {
        let combination = combiner.combine(&[job, job], Epoch(1), &mut rng);
        assert_eq!(combination.results.len(), 2);
        for liar in &combination.liars {
            assert_eq!(honest.get(liar), Some(&false), "an honest member is blamed");
        }
        for result in combination.results {
            let right = honest.values().filter(|right| **right).count();
            assert_eq!(result.is_ok(), right >= 3, "{right} right partials give {result:?}");
            if let Ok(bytes) = result {
                let signature = Signature::parse(&bytes).expect("a result is a signature");
                assert!(threshold::verify(group, &MESSAGE, &signature), "a wrong signature came out");
                verdict = Verdict::Taken;
            }
        }
    }
    verdict
}

fn combine_seeds() -> Vec<Vec<u8>> {
    vec![
        vec![0, 0, 0, 1, 0, 0, 2, 0, 0],
        vec![0, 0, 0, 1, 3, 7, 2, 0, 0, 3, 0, 0],
        vec![0, 5, 192, 1, 0, 0, 2, 0, 0, 3, 0, 0],
        vec![0, 4, 1, 1, 4, 0, 2, 0, 0, 3, 0, 0],
        vec![3, 0, 0, 3, 3, 1, 2, 7, 9, 1, 0, 0, 0, 0, 0],
    ]
}

fn points(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    if choice == 0 {
        let Ok(bytes) = bytes.try_into().map(chain::PublicKeyBytes) else { return Verdict::Refused };
        let Ok(key) = PublicKey::parse(&bytes) else { return Verdict::Refused };
        assert_eq!(key.to_bytes(), bytes, "one key has two encodings");
    } else {
        let Ok(bytes) = bytes.try_into().map(SignatureBytes) else { return Verdict::Refused };
        let Ok(signature) = Signature::parse(&bytes) else { return Verdict::Refused };
        assert_eq!(signature.to_bytes(), bytes, "one signature has two encodings");
        let share = &created().nodes[0].shares[0];
        assert!(!threshold::verify(&share.key().public_key(), &bytes.0, &signature), "signed by nobody");
    }
    Verdict::Taken
}

fn point_seeds() -> Vec<Vec<u8>> {
    let share = &created().nodes[0].shares[0];
    vec![
        chosen(0, share.key().public_key().to_bytes().0),
        chosen(1, share.sign(&MESSAGE).to_bytes().0),
        chosen(1, [&[0xc0][..], &[0; 95]].concat()),
    ]
}

fn import_secret() -> ImportSecret {
    ImportSecret::from_bytes(&[0x11; 32]).expect("a valid key")
}

fn envelope(input: &[u8]) -> Verdict {
    let secret = import_secret();
    if let Ok(import) = serde_json::from_slice::<ShareImport>(input) {
        // Nobody but who sealed it knows the key: random envelopes never open.
        let opened = secret.open(&import);
        return Verdict::of(opened.ok()).or(Verdict::Taken);
    }
    let Ok(sealed) = seal_bytes(&secret.public_hex(), input) else { return Verdict::Refused };
    let Ok(bundle) = secret.open(&sealed) else { return Verdict::Refused };
    let again = serde_json::to_vec(&bundle).expect("a bundle has a JSON form");
    let again: ShareBundle = serde_json::from_slice(&again).expect("our own JSON is readable");
    assert_eq!(again.validators.len(), bundle.validators.len());
    Verdict::Taken
}

/// A bundle with one cheap keystore.
pub(crate) fn bundle(history: History) -> ShareBundle {
    let share = &created().nodes[0].shares[0];
    let keystore = Keystore::encrypt_share(share.key(), "password", KdfCost::Insecure, &mut world::rng());
    ShareBundle {
        validators: vec![ShareEntry {
            keystore: serde_json::from_slice(&keystore.to_json()).expect("our own JSON"),
            password: Sensitive::new("password".to_owned()),
            public_key: share.key().public_key().to_bytes().to_string(),
            group_public_key: world::validators()[0].to_string(),
            share_index: 1,
        }],
        history,
        genesis_validators_root: GENESIS_ROOT.to_string(),
        chain: clock(),
    }
}

pub(crate) fn clock() -> ChainClock {
    ChainClock {
        genesis_time: 1_700_000_000,
        slot_ms: 12_000,
        slots_per_epoch: 8,
        preset: ChainPreset::Mainnet,
    }
}

fn envelope_seeds() -> Vec<Vec<u8>> {
    let bundle = serde_json::to_vec(&bundle(History::NeverSigned)).expect("a bundle has a JSON form");
    let import = ShareImport { enc: "11".repeat(32), ciphertext: "22".repeat(64) };
    vec![bundle, serde_json::to_vec(&import).expect("an envelope has a JSON form")]
}
