//! `--exits`: owners let validators leave, as they do on the page, and the chain shows whether they left.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use chain::{PublicKeyBytes, Slot, ValidatorIndex};
use hw_tests::devnet::Devnet;
use hw_tests::devnet::duties::{Counts, EXIT, Source};
use hw_tests::devnet::witness::{Accepted, Handed};
use ipc::node::{ExitState, ExitStatus};
use ipc::owner::{ExitOrder, OwnerRules};
use serde_json::{Value, json};
use threshold::SecretKey;

use super::members::{Cluster, Seat};
use super::pause;
use crate::say;

/// From the last owner's word until the chain shows it: the signers' delay (two seconds here), the exchange, a block.
const PATIENCE_EPOCHS: u64 = 2;
/// Exits are signed with it (EIP-7044); of the local chain, where nobody knows it by the network's name.
const CAPELLA_FORK_VERSION: &str = "0x20000092";

/// What the beacon API calls a validator whose exit is on the chain.
const LEAVES: [&str; 4] = ["active_exiting", "exited_unslashed", "withdrawal_possible", "withdrawal_done"];

/// The last `count` validators.
pub(super) fn choose(
    keys: &BTreeMap<ValidatorIndex, SecretKey>,
    count: u32,
) -> BTreeMap<ValidatorIndex, PublicKeyBytes> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    keys.iter().rev().take(count).map(|(index, key)| (*index, key.public_key().to_bytes())).collect()
}

/// Every owner of a signer of ours orders the exits; counts those that the chain shows in time.
pub(super) fn run(
    chain: &mut Devnet,
    cluster: &mut Cluster,
    leaving: &BTreeMap<ValidatorIndex, PublicKeyBytes>,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let (first, per_epoch) = (chain.clock_slot()?, chain.config().slots_per_epoch);
    let epoch = first.0 / per_epoch;
    for seat in cluster.seats.iter().filter(|seat| seat.occupant.has_signer() && seat.is_on()) {
        let page = seat.page()?.context("a member's page went missing")?;
        let rules = OwnerRules {
            lock: seat.lock_json()?,
            capella_fork_version: Some(CAPELLA_FORK_VERSION.to_owned()),
            payments: Vec::new(),
        };
        page.set_rules(&rules).with_context(|| format!("telling {} the chain's rules", seat.name))?;
        for key in leaving.values() {
            let order =
                ExitOrder { validator: key.to_string(), typed_again: key.to_string(), epoch, delay_s: None };
            page.order_exit(&order).with_context(|| format!("ordering an exit at {}", seat.name))?;
        }
        say::detail(&format!("the owner of {} lets {} of the validators leave", seat.name, leaving.len()));
    }
    let deadline = first.0 + PATIENCE_EPOCHS * per_epoch;
    let left = loop {
        pause(chain, cluster)?;
        let all = chain.api().validators()?;
        let leaves = |index: &ValidatorIndex| {
            all.iter().any(|info| info.index == *index && LEAVES.contains(&info.status.as_str()))
        };
        let left: Vec<ValidatorIndex> = leaving.keys().copied().filter(leaves).collect();
        if left.len() == leaving.len() || chain.clock_slot()?.0 > deadline {
            break left;
        }
    };
    let asked = leaving.keys().map(|index| {
        let exit = Accepted { slot: Slot(0), validator: *index, what: Handed::Exit };
        (exit, left.contains(index))
    });
    counts.note(EXIT, Source::Chain, &cluster.handed_in(), asked);
    say::good(&format!("{} of {} validators are leaving, says the chain", left.len(), leaving.len()));
    ensure!(!left.is_empty(), "no exit reached the chain: {}", words_of(cluster));
    Ok(())
}

/// What the members say of their exits.
fn words_of(cluster: &Cluster) -> String {
    let said = cluster.seats.iter().filter_map(|seat| {
        let exits = seat.status()?.node?.exits;
        let exits: Vec<String> = exits
            .iter()
            .map(|exit| format!("{:?} {}", exit.state, exit.message.as_deref().unwrap_or("")))
            .collect();
        Some(format!("{}: {}", seat.name, exits.join(", ")))
    });
    said.collect::<Vec<_>>().join(" | ")
}

/// What a member says of the exits that its owner ordered: those in which its own partial signature is.
pub(super) fn of_member(seat: &Seat) -> Value {
    let exits = seat.status().and_then(|status| status.node).map(|node| node.exits).unwrap_or_default();
    count(&exits, seat.number)
}

/// By validator, for one exit may be listed as ordered here and as it came from others.
fn count(exits: &[ExitStatus], member: u8) -> Value {
    let ordered = exits.iter().filter(|exit| exit.state != ExitState::AskedByOthers);
    let tried: BTreeSet<&str> = ordered.map(|exit| exit.validator.as_str()).collect();
    let signed = exits.iter().filter(|exit| exit.partials_from.contains(&member));
    let signed: BTreeSet<&str> = signed.map(|exit| exit.validator.as_str()).collect();
    json!({"tried": tried.len(), "succeeded": tried.intersection(&signed).count(), "source": "own_record"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_a_member_s_when_its_own_partial_signature_is_in_it() {
        let exit = |validator: &str, state, partials_from: &[u8]| ExitStatus {
            validator: validator.to_owned(),
            epoch: 4,
            state,
            partials_from: partials_from.to_vec(),
            needed: 3,
            not_before_ms: None,
            message: None,
        };
        let exits = [
            exit("0xa", ExitState::Published, &[1, 3, 4]),
            exit("0xa", ExitState::Asking, &[]),
            exit("0xb", ExitState::AskedByOthers, &[1]),
            exit("0xc", ExitState::Signed, &[2]),
        ];
        assert_eq!(count(&exits, 2), json!({"tried": 2, "succeeded": 1, "source": "own_record"}));
        assert_eq!(count(&exits, 3)["succeeded"], 1);
    }
}
