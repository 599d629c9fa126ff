//! A valid lock with anything changed in its file is refused, or still means the same. Parsers never panic.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use cluster::keystore::KdfCost;
use cluster::{ClusterView, Definition, Enr, Keystore, Lock, PeerId, SchemaVersion};
use proptest::prelude::*;
use sample::{created, in_version, sign_definition};
use std::sync::LazyLock;

/// A signed lock of the current version, as text and as what it means.
static GOOD: LazyLock<(Vec<u8>, Lock, ClusterView)> = LazyLock::new(|| {
    let created = created();
    let mut lock = in_version(&created, SchemaVersion::V1_10);
    sign_definition(&created, &mut lock);
    let view = lock.verify(&[]).unwrap();
    (lock.to_json().unwrap(), lock, view)
});

/// A keystore, and a lock of the first version with its base64.
static OLD: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let created = created();
    let share = created.nodes[0].shares[0].key();
    let keystore = Keystore::encrypt_share(share, "password", KdfCost::Insecure, &mut sample::rng());
    let lock = in_version(&created, SchemaVersion::V1_0);
    (keystore.to_json(), lock.to_json().unwrap())
});

/// The same lock but for spellings without meaning: capitals in addresses, the numbering of recovery bytes.
fn meaning(lock: &Lock) -> Lock {
    let mut lock = lock.clone();
    let recovery = |signature: &mut Vec<u8>| {
        if let Some(last) = signature.last_mut().filter(|last| **last >= 27) {
            *last -= 27;
        }
    };
    let definition = &mut lock.definition;
    for operator in &mut definition.operators {
        let address = operator.address.to_lowercase();
        operator.address = address.strip_prefix("0x").unwrap_or(&address).to_owned();
        operator.config_signature.iter_mut().for_each(recovery);
        operator.enr_signature.iter_mut().for_each(recovery);
    }
    let creator = definition.creator.address.to_lowercase();
    definition.creator.address = creator.strip_prefix("0x").unwrap_or(&creator).to_owned();
    recovery(&mut definition.creator.config_signature);
    for pair in &mut definition.validators {
        for address in [&mut pair.fee_recipient_address, &mut pair.withdrawal_address] {
            let lower = address.to_lowercase();
            *address = lower.strip_prefix("0x").unwrap_or(&lower).to_owned();
        }
    }
    lock.node_signatures.iter_mut().for_each(recovery);
    lock
}

/// Whether the changed file was refused; panics when it passed with another meaning.
fn refused(changed: &[u8]) -> bool {
    let (_, good, good_view) = &*GOOD;
    let Ok(lock) = Lock::from_json(changed) else { return true };
    if lock == *good {
        return false;
    }
    let Ok(view) = lock.verify(&[]) else { return true };
    assert_eq!(meaning(&lock), meaning(good));
    assert_eq!(&view, good_view);
    false
}

#[test]
fn changing_any_single_byte_is_refused_or_means_nothing() {
    let (text, _, _) = &*GOOD;
    let mut accepted = 0;
    for position in 0..text.len() {
        for change in [0x01, 0x20] {
            let mut changed = text.clone();
            changed[position] ^= change;
            accepted += usize::from(!refused(&changed));
        }
    }
    // What passes: other capitals in hex, white space, names of members that may be absent.
    assert!(accepted * 5 < text.len() * 2, "{accepted} of {} changes passed", text.len() * 2);
}

#[test]
fn dropping_or_swapping_any_line_is_refused_or_means_nothing() {
    let text = String::from_utf8(GOOD.0.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for index in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(index);
        refused(dropped.join("\n").as_bytes());
        let mut doubled = lines.clone();
        doubled.insert(index, lines[index]);
        refused(doubled.join("\n").as_bytes());
        if index > 0 {
            let mut swapped = lines.clone();
            swapped.swap(index - 1, index);
            refused(swapped.join("\n").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changing_any_region_is_refused_or_means_nothing(
        start in any::<prop::sample::Index>(),
        len in 0_usize..200,
        replacement in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"0123456789abcdef\"{}[],".to_vec())], 0..200),
    ) {
        let (text, _, _) = &*GOOD;
        let start = start.index(text.len());
        let end = (start + len).min(text.len());
        let mut changed = text.clone();
        changed.splice(start..end, replacement);
        refused(&changed);
    }

    #[test]
    fn damaged_keystores_and_old_locks_never_panic(
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        for good in [&OLD.0, &OLD.1] {
            let mut changed = good.clone();
            let position = position.index(changed.len());
            changed[position] = byte;
            if cut {
                changed.truncate(position);
            }
            let _ = Keystore::from_json(&changed);
            if let Ok(lock) = Lock::from_json(&changed) {
                let _ = lock.verify_hashes();
                let _ = lock.to_json();
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Lock::from_json(&bytes).is_err());
        prop_assert!(Definition::from_json(&bytes).is_err());
        prop_assert!(Keystore::from_json(&bytes).is_err());
        prop_assert!(PeerId::from_bytes(&bytes).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Enr::parse(&text).is_err());
        prop_assert!(text.parse::<PeerId>().is_err());
    }

    #[test]
    fn any_damage_to_a_record_is_refused(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let text = &GOOD.1.definition.operators[0].enr;
        let mut bytes = engine.decode(&text[4..]).unwrap();
        let position = position.index(bytes.len());
        prop_assume!(bytes[position] != byte);
        bytes[position] = byte;
        let damaged = Enr::parse(&format!("enr:{}", engine.encode(bytes)));
        prop_assert!(damaged.is_err(), "{damaged:?}");
    }
}
