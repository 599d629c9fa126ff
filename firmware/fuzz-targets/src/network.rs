//! Proposed values as the duty engine reads them, what the signer is asked for them, and what is published.

use std::collections::BTreeMap;

use chain::{ForkName, PublicKeyBytes, SignatureBytes};
use duty::{Aggregate, Duty, DutyKind, Given, Known, Network as _, Payload, Task};
use dv_node::obol_network::{
    ObolNetwork, Place, agreed_block, agreed_vote, describe, encode_partials, facts_of, from_wire, published,
};
use obol::consensus::value_of;
use obol::unsigned::{Unsigned, write_set};
use obol::wire::PriorityResult;
use prost::Message as _;

use crate::key_shares::clock;
use crate::ssz_forms::{self, KEY, SLOT};
use crate::world::{GENESIS_ROOT, schedule, timing};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[Target {
    name: "duty_value",
    about: "a proposed value of any duty (a peer): our signer reads the request as we do, nothing of another slot is signed",
    max_bytes: 16_384,
    run: value,
    seeds: value_seeds,
}];

const KINDS: [DutyKind; 11] = [
    DutyKind::Proposer,
    DutyKind::Attester,
    DutyKind::Aggregator,
    DutyKind::SyncContribution,
    DutyKind::SyncMessage,
    DutyKind::Randao,
    DutyKind::PrepareAggregator,
    DutyKind::PrepareSyncContribution,
    DutyKind::Exit,
    DutyKind::BuilderRegistration,
    DutyKind::InfoSync,
];

fn network(choice: u8) -> ObolNetwork {
    let newest = if choice & 1 == 0 { ForkName::Electra } else { ForkName::Fulu };
    ObolNetwork { timing: timing(), schedule: schedule(newest), genesis_validators_root: GENESIS_ROOT }
}

fn known_as(kind: DutyKind) -> BTreeMap<PublicKeyBytes, Payload> {
    let attester = ssz_forms::attester_duty();
    let description = match kind {
        DutyKind::Proposer | DutyKind::Randao => describe(&serde_json::json!({
            "pubkey": KEY, "validator_index": "11", "slot": SLOT.to_string()})),
        DutyKind::SyncMessage | DutyKind::PrepareSyncContribution | DutyKind::SyncContribution => {
            describe(&serde_json::json!({"pubkey": KEY, "validator_index": "11",
                "validator_sync_committee_indices": ["1", "300"]}))
        }
        DutyKind::Exit => describe(&ssz_forms::exit()),
        DutyKind::BuilderRegistration => describe(&ssz_forms::registration()),
        DutyKind::Attester | DutyKind::Aggregator | DutyKind::PrepareAggregator | DutyKind::InfoSync => {
            describe(&attester)
        }
    };
    BTreeMap::from([(KEY, description)])
}

/// What the members' earlier duties of the slot gave: proofs that do not select, and an agreed vote.
fn given(network: &ObolNetwork) -> Given {
    let mut given = Given::new();
    for kind in [DutyKind::PrepareAggregator, DutyKind::PrepareSyncContribution, DutyKind::Randao] {
        let duty = Duty::new(SLOT, kind);
        let (validators, nothing) = (known_as(kind), Given::new());
        let tasks =
            network.read(duty, &[], &Known { validators: &validators, given: &nothing }).unwrap_or_default();
        for task in tasks {
            let aggregate = Aggregate {
                id: task.id,
                message_root: task.message_root,
                data: task.data.clone(),
                signature: SignatureBytes([0xb5; 96]),
                from: Vec::new(),
            };
            given.insert((kind, task.id), aggregate);
        }
    }
    given
}

fn value(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 22) else { return Verdict::Refused };
    let (network, kind) = (network(choice & 1), KINDS[usize::from(choice / 2)]);
    let duty = Duty::new(SLOT, kind);
    let mut verdict = Verdict::Refused;
    for validators in [known_as(kind), BTreeMap::new()] {
        let given = given(&network);
        let known = Known { validators: &validators, given: &given };
        let Ok(tasks) = network.read(duty, bytes, &known) else { continue };
        verdict = Verdict::Taken;
        for task in &tasks {
            check_task(&network, duty, task);
        }
    }
    let _vote = agreed_vote(bytes);
    if let Some(block) = agreed_block(bytes) {
        let _facts = facts_of(&block);
    }
    verdict
}

fn check_task(network: &ObolNetwork, duty: Duty, task: &Task) {
    let signature = SignatureBytes([0xc1; 96]);
    let partial =
        duty::Partial { id: task.id, message_root: task.message_root, signature, data: task.data.clone() };
    let messages = encode_partials(duty, 2, &[partial]).expect("a task can be sent");
    assert_eq!(messages.len(), 1);
    let root = network.signing_root(duty, task.message_root);
    if let Ok(request) = network.sign_request(duty, &task.data) {
        let text = serde_json::to_vec(&request).expect("a request has a JSON form");
        let read: ipc::SignRequest = serde_json::from_slice(&text).expect("our own JSON is readable");
        assert_eq!(read, request);
        // The signer works the root out itself; what it reads must be what the members vote on.
        let asked = signer::outside::sign_request(&read, GENESIS_ROOT, &clock());
        let asked = asked.expect("our own signer cannot read our request");
        if duty.kind != DutyKind::Exit && duty.kind != DutyKind::BuilderRegistration {
            assert_eq!(asked.signing_root, root, "the signer signs something else");
        }
        if let Some(slot) = asked.block {
            assert_eq!((slot, duty.kind), (duty.slot, DutyKind::Proposer), "a block of another slot");
        }
        if let Some((source, target)) = asked.attestation {
            assert_eq!(duty.kind, DutyKind::Attester);
            assert!(source <= target && target == network.timing.epoch_of(duty.slot));
            let vote = task.vote.expect("an attestation's task says what it votes for");
            assert_eq!((vote.source.epoch, vote.target.epoch), (source, target));
        }
    }
    let result = Aggregate {
        id: task.id,
        message_root: task.message_root,
        data: task.data.clone(),
        signature,
        from: Vec::new(),
    };
    let attester = ssz_forms::attester_duty();
    let _published = published(duty, &result, Place { attester: Some(&attester), ..Place::default() });
    let _without = published(duty, &result, Place::default());
    let _on_the_wire = dv_node::obol_network::to_wire(duty).ok().and_then(from_wire);
}

fn value_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let wire = |unsigned: &Unsigned| value_of(&write_set([(&KEY, unsigned)])).1;
    for (place, kind) in (0..).zip(KINDS) {
        let choice = 2 * place + 1;
        let own: Vec<Unsigned> = ssz_forms::unsigned_objects()
            .into_iter()
            .filter(|(wire, _)| i32::from(kind.row().number) == wire.number())
            .map(|(_, unsigned)| unsigned)
            .collect();
        seeds.extend(own.iter().map(|unsigned| chosen(choice, wire(unsigned))));
        match kind {
            DutyKind::SyncMessage => seeds.push(chosen(choice, [4; 32])),
            DutyKind::InfoSync => seeds.push(chosen(choice, PriorityResult::default().encode_to_vec())),
            DutyKind::Proposer
            | DutyKind::Attester
            | DutyKind::Aggregator
            | DutyKind::SyncContribution
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::PrepareSyncContribution
            | DutyKind::Exit
            | DutyKind::BuilderRegistration => {
                if own.is_empty() {
                    seeds.push(chosen(choice, []));
                }
            }
        }
    }
    seeds
}
