//! Whether our own share signed what a client says: a whole request in one check.

use std::collections::BTreeSet;

use chain::{ForkName, PublicKeyBytes, Root, SignatureBytes, domain};
use threshold::{BatchItem, PublicKey, Signature, batch_verify, verify};
use tree_hash::TreeHash as _;

use super::keys::KeyMap;
use super::message::{Claimed, Message, PartialSignature, signing_root_at};
use crate::ChainInfo;

/// Items that hold, and why the others do not, by position.
pub(super) type Sorted = (Vec<(usize, PartialSignature)>, Vec<(usize, String)>);

/// One thing to check for an item of a request.
struct Check {
    item: usize,
    key: PublicKey,
    root: Root,
    signature: SignatureBytes,
}

/// Sorts the items of a request into what our share signed and what it did not, by position. `validator` tells whose index it
/// is. Aggregates and contributions hold the group's selection proof, which is checked along.
pub(super) fn sort(
    claimed: Vec<(usize, Claimed)>,
    keys: &KeyMap,
    chain: &ChainInfo,
    validator: impl Fn(&Claimed) -> Option<PublicKeyBytes>,
) -> Sorted {
    let mut failures = Vec::new();
    let mut candidates = Vec::new();
    let mut checks = Vec::new();
    for (item, claim) in claimed {
        let found = validator(&claim);
        let known = found.and_then(|key| Some((key, *keys.own_share(&key)?, *keys.group(&key)?)));
        let Some((validator, own_share, group)) = known else {
            failures.push((item, format!("validator not found: {} is not one of this cluster", claim.index)));
            continue;
        };
        let root = claim.message.signing_root(chain);
        checks.push(Check { item, key: own_share, root, signature: claim.signature });
        if let Some((root, signature)) = inner_proof(&claim.message, chain) {
            checks.push(Check { item, key: group, root, signature });
        }
        let Claimed { index, message, signature } = claim;
        candidates.push((item, PartialSignature { validator, index, message, signature }));
    }
    let bad = failing(&checks);
    let (bad_ones, good): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|(item, _)| bad.contains(item));
    failures.extend(bad_ones.into_iter().map(|(item, _)| (item, "invalid signature".to_owned())));
    failures.sort_unstable();
    (good, failures)
}

/// The group's proof inside of a message.
fn inner_proof(message: &Message, chain: &ChainInfo) -> Option<(Root, SignatureBytes)> {
    match message {
        Message::Aggregate { fork: ForkName::Electra | ForkName::Fulu, aggregate } => {
            let slot = aggregate.aggregate.data.slot;
            let epoch = slot.epoch(chain.timing.slots_per_epoch);
            let root = slot.tree_hash_root().into();
            Some((signing_root_at(root, domain::SELECTION_PROOF, epoch, chain), aggregate.selection_proof))
        }
        Message::Contribution(signed) => {
            let (slot, subcommittee) = (signed.contribution.slot, signed.contribution.subcommittee_index);
            let root = Message::SyncSelection { slot, subcommittee }.signing_root(chain);
            Some((root, signed.selection_proof))
        }
        Message::Aggregate { .. }
        | Message::Attestation { .. }
        | Message::Block { .. }
        | Message::SyncVote { .. }
        | Message::Randao { .. }
        | Message::CommitteeSelection { .. }
        | Message::SyncSelection { .. }
        | Message::Exit(_) => None,
    }
}

/// Items with a signature that does not hold. All at once; one by one only to find who spoils it.
fn failing(checks: &[Check]) -> BTreeSet<usize> {
    let mut bad = BTreeSet::new();
    let mut parsed = Vec::with_capacity(checks.len());
    for check in checks {
        match Signature::parse(&check.signature) {
            Ok(signature) => parsed.push((check, signature)),
            Err(_) => drop(bad.insert(check.item)),
        }
    }
    let items: Vec<BatchItem<'_>> = parsed
        .iter()
        .map(|(check, signature)| BatchItem { key: &check.key, message: &check.root.0, signature })
        .collect();
    if !items.is_empty() && !batch_verify(&items, &mut rand::rng()) {
        let wrong = parsed.iter().filter(|(check, signature)| !verify(&check.key, &check.root.0, signature));
        bad.extend(wrong.map(|(check, _)| check.item));
    }
    bad
}
