//! Four members on loopback: attesting, dying, coming back, lying, and being told nonsense.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fake::{FakeChain, FakeNode, Fault};
use house::{House, create_cluster, create_cluster_with, eventually};
use ipc::node::{DutyOutcome, NodeState};
use ipc::{ClientError, NodeStatus, Problem, Sensitive};

/// Nobody ever asked its signer for something slashable, and no validator has two votes for one target.
fn assert_nothing_slashable(house: &House) {
    for member in &house.members {
        let signer = member.signer.lock().unwrap();
        assert!(signer.refused.is_empty(), "refused by {}'s signer: {:#?}", member.peer_id, signer.refused);
    }
    let votes: BTreeSet<_> = house
        .published()
        .iter()
        .map(|vote| (vote.attester_index, vote.data.target.epoch, vote.data))
        .collect();
    let duties: BTreeSet<_> = votes.iter().map(|(validator, epoch, _)| (*validator, *epoch)).collect();
    assert_eq!(votes.len(), duties.len(), "a validator voted twice for one target");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_members_attest_and_any_one_of_them_may_die() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    house.attested_again().await;
    let status = house.members[0].status().await;
    assert_eq!(
        status.cluster.as_ref().unwrap().operators.iter().filter(|operator| operator.is_self).count(),
        1
    );

    // What goes with attestations is done too, and by the group: aggregates, sync votes and both contributions' seats.
    for path in [
        "/eth/v2/validator/aggregate_and_proofs",
        "/eth/v1/beacon/pool/sync_committees",
        "/eth/v1/validator/contribution_and_proofs",
    ] {
        eventually(path, || async { house.submitted_to(path) }).await;
    }

    // The power goes at one member; the others go on. Then it is back, and another one goes: it is needed now.
    for (gone, back) in [(3, 3), (0, 0)] {
        house.members[gone].kill();
        house.attested_again().await;
        house.members[back].start().await;
        house.attested_again().await;
    }
    house.members[1].kill();
    house.attested_again().await;
    assert_nothing_slashable(&house);

    let client = house.members[2].client();
    eventually("the page shows a duty that is done", || async {
        let status: NodeStatus = client.get(ipc::node::STATUS_PATH).await.unwrap();
        let active = status.cluster.is_some_and(|cluster| cluster.validators[0].status == "active_ongoing");
        let done =
            |duty: &ipc::node::DutyRecord| duty.outcome == DutyOutcome::Done && duty.partials_from.len() >= 3;
        active && status.duties.iter().any(done)
    })
    .await;
    let metrics = client.get_text("/metrics").await.unwrap();
    assert!(metrics.contains("hearth_dv_duties_total"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_is_unlocked_between_two_votes_of_a_validator_is_not_asked_for_the_first_after_the_second()
 {
    let mut house = House::build(4, 4).await;
    house.members[0].signer.lock().unwrap().locked = true;
    house.start().await;
    house.attested_again().await;
    // One validator votes in the last slot of this epoch and in the first of the next. Both votes are asked for again and
    // again, the second one more often: a little after it came up, its turn is before that of the first.
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let next_epoch = chain.slot_now() / chain.slots_per_epoch + 2;
    house.until(next_epoch * chain.slots_per_epoch).await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    house.members[0].signer.lock().unwrap().locked = false;
    // Until the first one is over, and everybody has voted.
    house.until((next_epoch + 1) * chain.slots_per_epoch + 2).await;
    eventually("it signs for everybody", || async {
        let signer = house.members[0].signer.lock().unwrap();
        let of_validators: BTreeSet<_> = signer.signed.iter().map(|(key, _)| *key).collect();
        of_validators.len() == 4
    })
    .await;
    assert_nothing_slashable(&house);
}

/// Who contributed in which slot, and for how many subcommittees.
fn contributions(house: &House) -> BTreeMap<(u64, u64), BTreeSet<u64>> {
    let mut seen: BTreeMap<(u64, u64), BTreeSet<u64>> = BTreeMap::new();
    let sent =
        house.beacon.submitted().into_iter().filter(|(path, _)| path.ends_with("contribution_and_proofs"));
    for (_, body) in sent {
        let list: Vec<chain::SignedContributionAndProof> = serde_json::from_value(body).unwrap();
        for chain::ContributionAndProof { aggregator_index, contribution, .. } in
            list.into_iter().map(|signed| signed.message)
        {
            let of = (contribution.slot.0, aggregator_index.0);
            seen.entry(of).or_default().insert(contribution.subcommittee_index);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_contribute_for_all_their_subcommittees_once_members_agreed_that_they_read_it() {
    // Each validator sits in two subcommittees and is selected for one in eight: of 24, one is selected for both in every
    // third slot or so.
    let mut house = House::build(4, 24).await;
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    // Nobody can have agreed before this epoch ends; when they do depends on how fast they start.
    let last_of_epoch = (chain.slot_now() / chain.slots_per_epoch + 1) * chain.slots_per_epoch - 1;
    house.start().await;
    eventually("a validator contributes for both", || async {
        contributions(&house).values().any(|subcommittees| subcommittees.len() == 2)
    })
    .await;
    for ((slot, validator), subcommittees) in contributions(&house) {
        let before_agreement = slot < last_of_epoch;
        assert!(!before_agreement || subcommittees.len() == 1, "{validator} in {slot}: {subcommittees:?}");
    }
    assert!(house.members[0].log().contains("the members agreed on versions"));
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_to_pay_is_told_in_each_epoch_and_builders_only_by_members_that_use_them() {
    const PREPARE: &str = "/eth/v1/validator/prepare_beacon_proposer";
    const REGISTER: &str = "/eth/v1/validator/register_validator";
    let mut house = House::build(4, 2).await;
    house.start().await;
    let told = |path: &'static str| -> Vec<serde_json::Value> {
        let all = house.beacon.submitted().into_iter().filter(|(to, _)| to == path);
        all.map(|(_, body)| body).collect()
    };
    // Each of four members in each of three epochs, and once when it began.
    eventually("three epochs are told", || async { told(PREPARE).len() >= 4 * 3 }).await;
    let address = "0x1111111111111111111111111111111111111111";
    let both = serde_json::json!([{"validator_index": "0", "fee_recipient": address},
        {"validator_index": "1", "fee_recipient": address}]);
    assert!(told(PREPARE).iter().all(|body| *body == both), "{:?}", told(PREPARE));
    assert_eq!(house.beacon.hits(REGISTER), 0, "nobody uses builders");

    // One member uses them and says so in its blocks; the beacon node has no builder, and that stops nothing.
    house.members[3].proposals = ipc::Proposals {
        builder_api: true,
        graffiti: vec!["first".to_owned(), "second".to_owned()],
        graffiti_alone: false,
    };
    house.set_up_again(3).await;
    eventually("a beacon node without builders is asked", || async { house.beacon.hits(REGISTER) > 0 }).await;
    house.members[0].kill();
    house.attested_again().await; // The one that was refused is needed, and goes on.
    eventually("it is told in the log", || async {
        house.members[3].log().contains("no beacon node has a builder to be told whom to pay")
    })
    .await;
    house.beacon.inner.lock().unwrap().has_builder = true;
    eventually("builders are told", || async { !told(REGISTER).is_empty() }).await;
    let registrations: Vec<chain::SignedValidatorRegistration> =
        serde_json::from_value(told(REGISTER).remove(0)).unwrap();
    let locked: Vec<_> =
        house.created.view.validators.iter().filter_map(|validator| validator.builder_registration).collect();
    assert_eq!(registrations, locked, "as the lock has them");
    let asked = || house.beacon.inner.lock().unwrap().blocks_asked.clone();
    let of_builder = |query: &str| query.contains(&format!("builder_boost_factor={}", u64::MAX));
    eventually("it asks for a block", || async { asked().iter().any(|(_, query)| of_builder(query)) }).await;
    for (slot, query) in asked() {
        if of_builder(&query) {
            // The test's beacon node deals slots out in turn, and calls itself something that has no token.
            let text = if slot % 2 == 0 { "firstOB" } else { "secondOB" };
            let graffiti = format!("&graffiti=0x{:0<64}", hex::encode(text));
            assert!(query.contains(&graffiti), "{slot}: {query}");
        } else {
            assert!(query.contains("builder_boost_factor=0") && !query.contains("graffiti"), "{query}");
        }
    }
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_beacon_node_is_away_goes_on_with_its_fallback_and_says_so() {
    let mut house = House::build(4, 1).await;
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let spare = FakeNode::start(chain).await;
    // Three of four are needed, and two have no other beacon node than the first.
    for member in [0, 1, 2] {
        house.members[member].fallbacks = vec![spare.url.clone()];
    }
    house.start().await;
    house.attested_again().await;
    // Now and then a question may take so long that it goes to the next one, too.
    assert!(spare.hits("attestation_data") * 4 < house.beacon.hits("attestation_data"));
    house.beacon.fault("/eth/", Fault::Says(502, Vec::new()));
    let attested = || spare.submitted().iter().any(|(path, _)| path.ends_with("pool/attestations"));
    eventually("votes reach the spare beacon node", || async { attested() }).await;
    // Beacon nodes are looked at every few seconds; until then the first one is as it was.
    let is_told =
        |status: &NodeStatus, code: &str| status.problems.iter().any(|problem| problem.code == code);
    eventually("it is told", || async {
        let status = house.members[0].status().await;
        is_told(&status, "beacon_fallback_in_use") && !is_told(&status, "beacon_node_unreachable")
    })
    .await;
    let status = house.members[0].status().await;
    let nodes: Vec<bool> = status.chain.unwrap().beacon_nodes.iter().map(|node| node.is_fallback).collect();
    assert_eq!(nodes, [false, true]);
    let metrics = house.members[0].client().get_text("/metrics").await.unwrap();
    assert!(metrics.lines().any(|line| line.starts_with("app_eth2_using_fallback{") && line.ends_with(" 1")));
    house.beacon.heal();
    house.attested_again().await;
    eventually("it is told no longer", || async {
        let problems = house.members[0].status().await.problems;
        problems.iter().all(|problem| problem.code != "beacon_fallback_in_use")
    })
    .await;
    assert_nothing_slashable(&house);
}

/// Tells of a block in the next slot; whether a vote of that slot was out before its third.
async fn votes_before_the_third(house: &House, block: u8) -> bool {
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let slot = chain.slot_now() + 1;
    house.until(slot).await;
    let root = chain::Root([block; 32]);
    let head = serde_json::json!({
        "slot": slot.to_string(), "block": root, "state": root, "epoch_transition": false, "execution_optimistic": false,
        "current_duty_dependent_root": root, "previous_duty_dependent_root": root,
    });
    let third = chain.genesis_time_s * 1_000 + slot * chain.slot_ms + chain.slot_ms / 3;
    // Told again and again, by however many nodes.
    while chain.now_ms() + 50 < third {
        house.beacon.emit("head", &head);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let is_out = house.published().iter().any(|vote| vote.data.slot.0 == slot);
        if is_out && chain.now_ms() < third {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_go_out_before_the_third_when_the_block_is_here_and_for_no_block_that_the_node_does_not_vote_for()
 {
    let mut house = House::build_with_slots(4, 4, 3_000).await;
    house.start().await;
    house.attested_again().await;
    for _ in 0..3 {
        assert!(!votes_before_the_third(&house, 7).await);
    }
    // The third came all the same.
    house.attested_again().await;
    let mut early = false;
    for _ in 0..30 {
        early = early || votes_before_the_third(&house, 9).await;
    }
    assert!(early, "in none of thirty slots");
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_own_beacon_node_confirms_no_vote_signs_none_early_or_late_and_the_others_do() {
    let mut house = House::build_with_slots(4, 4, 3_000).await;
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let blind = FakeNode::start(chain).await;
    blind.fault("attestation_data", Fault::Says(503, b"busy".to_vec()));
    for index in 0..4 {
        house.members[index].start().await;
        let mut setup = house.setup(index);
        if index == 0 {
            setup.beacon_nodes = vec![blind.url.clone()];
        }
        let _status: NodeStatus =
            house.members[index].client().put(ipc::node::CLUSTER_PATH, &setup).await.unwrap();
    }
    let signed = |house: &House| house.members[0].signer.lock().unwrap().signed.len();
    house.attested_again().await;
    let mut early = false;
    for _ in 0..30 {
        early = early || votes_before_the_third(&house, 9).await;
    }
    assert!(early, "in none of thirty slots");
    // Nor does it when it is needed and waited for, and then it says why.
    house.members[3].kill();
    let says_why = |log: String| {
        log.lines().any(|line| line.contains("/attester reason=\"view_unknown\"") && line.contains("missed"))
    };
    eventually("it says why", || async { says_why(house.members[0].log()) }).await;
    assert_eq!(signed(&house), 0);
    // It is for nothing but that: once its node answers, it signs.
    blind.heal();
    house.attested_again().await;
    assert!(signed(&house) > 0);
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_member_is_named_and_a_locked_signer_is_waited_for() {
    let mut house = House::build(4, 1).await;
    house.members[1].signer.lock().unwrap().lies = true;
    house.start().await;
    house.attested_again().await;
    let client = house.members[0].client();
    eventually("the liar is named", || async {
        let status: NodeStatus = client.get(ipc::node::STATUS_PATH).await.unwrap();
        status.problems.iter().any(|problem| problem.code == "member_wrong_signature")
    })
    .await;
    house.members[1].signer.lock().unwrap().lies = false;
    house.members[2].signer.lock().unwrap().locked = true;
    house.attested_again().await;
    house.members[2].signer.lock().unwrap().locked = false;
    house.members[3].kill();
    house.attested_again().await;
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beacon_node_that_goes_away_is_a_problem_until_it_is_back() {
    let mut house = House::build(4, 1).await;
    house.start().await;
    house.attested_again().await;
    house.beacon.fault("/eth/", Fault::Says(503, b"syncing".to_vec()));
    let client = house.members[0].client();
    let has_problem = |code: &'static str| {
        let client = &client;
        move || async move {
            let status: NodeStatus = client.get(ipc::node::STATUS_PATH).await.unwrap();
            status.problems.iter().any(|problem| problem.code == code && !problem.next_step.is_empty())
        }
    };
    eventually("the owner is told", has_problem("beacon_node_unreachable")).await;
    house.beacon.heal();
    house.attested_again().await;
    let other = house.beacon.inner.lock().unwrap().chain.genesis_validators_root;
    house.beacon.inner.lock().unwrap().chain.genesis_validators_root = chain::Root([66; 32]);
    eventually("the owner is told of the other chain", has_problem("beacon_node_wrong_chain")).await;
    house.beacon.inner.lock().unwrap().chain.genesis_validators_root = other;
    house.attested_again().await;
    assert_nothing_slashable(&house);
}

async fn refused(house: &House, change: impl FnOnce(&mut ipc::ClusterSetup)) -> Problem {
    let mut setup = house.setup(0);
    change(&mut setup);
    match house.members[0].client().put::<NodeStatus>(ipc::node::CLUSTER_PATH, &setup).await {
        Err(ClientError::Refused { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setup_is_refused_with_its_reason_and_changes_nothing() {
    let mut house = House::build(4, 1).await;
    house.members[0].start().await;
    let stranger = create_cluster(4, 1);
    let stranger_key = stranger.nodes[0].identity.to_file_text().to_string();
    let stranger_peer = cluster::PeerId::from_public_key(&stranger.nodes[1].identity.public_key());
    let other_chain = FakeNode::start(FakeChain { fork_prefix: 0x66, ..FakeChain::new(Vec::new()) }).await;

    let problem = refused(&house, |setup| setup.lock["lock_hash"] = "0x00".into()).await;
    assert_eq!(problem.code, "lock_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.lock["cluster_definition"]["name"] = "x".into()).await;
    assert_eq!(problem.code, "lock_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.lock = serde_json::json!([1, 2])).await;
    assert_eq!(problem.code, "lock_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.identity_key = Sensitive::new("zz".to_owned())).await;
    assert_eq!(problem.code, "identity_key_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.identity_key = Sensitive::new(stranger_key)).await;
    assert_eq!(problem.code, "identity_not_in_lock", "{problem}");
    let problem = refused(&house, |setup| {
        setup.peers.push(format!("/ip4/127.0.0.1/tcp/1/p2p/{stranger_peer}"));
    })
    .await;
    assert_eq!(problem.code, "peer_not_in_lock", "{problem}");
    assert!(problem.message.contains(&stranger_peer.to_string()));
    let problem = refused(&house, |setup| setup.peers.push("127.0.0.1:3610".to_owned())).await;
    assert_eq!(problem.code, "peer_address_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.beacon_nodes = vec!["nonsense".to_owned()]).await;
    assert_eq!(problem.code, "beacon_node_address_invalid", "{problem}");
    let problem = refused(&house, |setup| setup.beacon_nodes = vec!["http://127.0.0.1:1".to_owned()]).await;
    assert_eq!(problem.code, "beacon_node_unreachable", "{problem}");
    let problem = refused(&house, |setup| setup.beacon_nodes = vec![other_chain.url.clone()]).await;
    assert_eq!(problem.code, "beacon_node_wrong_chain", "{problem}");
    assert!(!problem.next_step.is_empty());

    assert_eq!(house.members[0].status().await.state, NodeState::WaitingForCluster);
    let _status: NodeStatus =
        house.members[0].client().put(ipc::node::CLUSTER_PATH, &house.setup(0)).await.unwrap();
    assert_ne!(house.members[0].status().await.state, NodeState::WaitingForCluster);
    let second_member = house.setup(1).identity_key;
    let problem = refused(&house, |setup| setup.identity_key = second_member).await;
    assert_eq!(problem.code, "already_in_a_cluster", "{problem}");
}

fn lock_of(created: &cluster::create::CreatedCluster) -> serde_json::Value {
    serde_json::from_slice(&created.lock.to_json().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_with_a_threshold_too_low_is_refused_at_setup_and_when_it_is_loaded() {
    let mut house = House::build(4, 1).await;
    house.members[0].start().await;
    let weak = create_cluster_with(5, 1, Some(3));
    let key = weak.nodes[0].identity.to_file_text().to_string();
    let problem = refused(&house, |setup| {
        setup.lock = lock_of(&weak);
        setup.identity_key = Sensitive::new(key.clone());
        setup.peers.clear();
    })
    .await;
    assert_eq!(problem.code, "threshold_too_low", "{problem}");
    assert!(problem.next_step.contains("at least 4"), "{problem}");

    house.members[0].kill();
    let state = house.members[0].dir.path().join("state");
    let stored =
        serde_json::json!({"lock": lock_of(&weak), "beacon_nodes": [house.beacon.url.clone()], "peers": []});
    std::fs::write(state.join("cluster.json"), stored.to_string()).unwrap();
    std::fs::write(state.join("identity.key"), key).unwrap();
    house.members[0].start().await;
    eventually("the owner is told", || async {
        let status = house.members[0].status().await;
        status.state == NodeState::Halted && status.problems[0].code == "threshold_too_low"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_cluster_and_no_other_member_takes_the_memory_of_a_cluster() {
    let mut house = House::build(4, 1).await;
    house.members[0].start().await;
    let _status: NodeStatus =
        house.members[0].client().put(ipc::node::CLUSTER_PATH, &house.setup(0)).await.unwrap();
    let state = house.members[0].dir.path().join("state");
    eventually("the chain is pinned", || async { state.join("chain.json").exists() }).await;
    house.members[0].kill();
    std::fs::write(state.join("cluster.json"), "{").unwrap();
    house.members[0].start().await;
    eventually("the damage is told", || async {
        let problems = house.members[0].status().await.problems;
        problems.first().is_some_and(|problem| problem.code == "cluster_file_damaged")
    })
    .await;
    // Another cluster must wait: nobody can tell now whether it has the same validators. The memory stays where it is.
    let other = create_cluster(4, 1);
    let problem = refused(&house, |setup| {
        setup.lock = lock_of(&other);
        setup.identity_key = Sensitive::new(other.nodes[0].identity.to_file_text().to_string());
        setup.peers.clear();
    })
    .await;
    assert_eq!(problem.code, "cluster_unreadable", "{problem}");
    assert_eq!(std::fs::read_to_string(state.join("cluster.json")).unwrap(), "{");
    assert!(!state.join("clusters/1/cluster.json").exists());
    let problem = refused(&house, |setup| {
        let another_member = house.setup(1);
        setup.identity_key = another_member.identity_key;
    })
    .await;
    assert_eq!(problem.code, "already_in_a_cluster", "{problem}");
    let _status: NodeStatus =
        house.members[0].client().put(ipc::node::CLUSTER_PATH, &house.setup(0)).await.unwrap();
    assert_ne!(house.members[0].status().await.state, NodeState::Halted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_with_the_same_files_is_refused_and_the_first_goes_on() {
    let mut house = House::build(4, 1).await;
    house.start().await;
    house.attested_again().await;
    let second = house.members[0].second_process();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process works with") && said.contains("end it first"), "{said}");
    house.members[3].kill();
    house.attested_again().await; // The first one is needed.
    // However a process ends, the next one need not wait.
    house.members[0].kill();
    house.members[0].start().await;
    house.attested_again().await;
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_journal_stays_silent_about_the_past_only() {
    let mut house = House::build(4, 1).await;
    house.start().await;
    house.attested_again().await;
    let (journal, lost) = (house.members[3].dir.path().join("state/journal"), "the journal was damaged");
    house.members[3].kill();
    std::fs::remove_file(&journal).unwrap();
    house.members[3].start().await;
    // The silence is remembered: what is there now is no damage, but holds what was said of it.
    eventually("the loss is noticed, and that is kept", || async {
        house.members[3].log().contains(lost) && std::fs::metadata(&journal).is_ok_and(|kept| kept.len() > 0)
    })
    .await;
    house.members[3].kill();
    house.members[3].start().await;
    house.members[0].kill();
    house.attested_again().await; // The silent one is needed again, and speaks.
    assert_eq!(house.members[3].log().matches(lost).count(), 1);
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_members_remember_reaches_the_signer_before_the_first_vote_of_a_run() {
    let mut house = House::build_with_slots(4, 1, 3_000).await;
    house.start().await;
    house.attested_again().await;
    house.attested_again().await;
    let last = house.attested_again().await;
    // What it has signed last is with the others by then.
    house.until(last + 1).await;
    house.members[0].kill();
    let before = {
        let mut signer = house.members[0].signer.lock().unwrap();
        assert!(signer.remembered.is_empty(), "{:?}", signer.remembered);
        signer.forget();
        signer.locked = true;
        signer.signed.clone()
    };
    // Longer than the members would take a vote for its duty.
    house.until(last + 6).await;
    house.members[0].start().await;
    // Locked it is told nothing, and asked for nothing.
    house.attested_again().await;
    {
        let mut signer = house.members[0].signer.lock().unwrap();
        assert_eq!((signer.remembered.len(), signer.signed.len()), (0, before.len()));
        signer.locked = false;
    }
    eventually("it votes again", || async {
        house.members[0].signer.lock().unwrap().signed.len() > before.len()
    })
    .await;
    let signer = house.members[0].signer.lock().unwrap();
    let told = &signer.remembered;
    assert!(told.len() >= 2, "no two of its members have told: {told:?}");
    let newest = before.iter().map(|(_, data)| data.slot).max().unwrap();
    for (signed_then, seen) in told {
        assert_eq!(*signed_then, before.len(), "it voted first");
        let data: chain::AttestationData =
            serde_json::from_value(seen.request.body["attestation"].clone()).unwrap();
        assert!(data.slot == newest && before.contains(&(seen.key, data)), "{data:?}");
        let fork_info = seen.request.fork_info.unwrap();
        let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info);
        let root = chain::domain::signing_root(&data, domain);
        let key = threshold::PublicKey::parse(&seen.key).unwrap();
        assert!(threshold::verify(&key, &root.0, &threshold::Signature::parse(&seen.signature).unwrap()));
    }
    drop(signer);
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chain_shows_reaches_the_signer_before_the_first_vote_of_a_run() {
    let mut house = House::build_with_slots(4, 2, 3_000).await;
    let (slot, per_epoch) = {
        let mut beacon = house.beacon.inner.lock().unwrap();
        let (slot, per_epoch) = (beacon.chain.slot_now(), beacon.chain.slots_per_epoch);
        beacon.voted = (slot / per_epoch - 1..slot / per_epoch + 50).map(|epoch| (epoch, vec![1])).collect();
        (slot, per_epoch)
    };
    let lock = |house: &House, locked| {
        house.members.iter().for_each(|member| member.signer.lock().unwrap().locked = locked);
    };
    lock(&house, true);
    house.start().await;
    // One that is locked is told nothing, and asked for nothing.
    house.until(slot + 2 * per_epoch).await;
    for member in &house.members {
        let signer = member.signer.lock().unwrap();
        assert_eq!((signer.chain_marks.len(), signer.signed.len()), (0, 0));
    }
    lock(&house, false);
    house.attested_again().await;
    let mut keys = std::collections::BTreeSet::new();
    for (number, member) in house.members.iter().enumerate() {
        let signer = member.signer.lock().unwrap();
        // Only the one that the chain shows, and told again where the answer was lost.
        let &(signed_then, mark) =
            signer.chain_marks.first().unwrap_or_else(|| panic!("{number} was not told"));
        assert!(signer.chain_marks.iter().all(|(_, other)| *other == mark), "{:?}", signer.chain_marks);
        assert_eq!(signed_then, 0, "{number} voted first");
        assert!(keys.insert(mark.key), "another member's share");
        assert!(mark.justified < mark.target && mark.target.0 >= slot / per_epoch, "{mark:?}");
    }
    assert_nothing_slashable(&house);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_that_enough_owners_have_confirmed_reaches_the_chain_and_no_other_does() {
    use ipc::node::{EXIT_FILES_PATH, EXITS_PATH, ExitFiles, ExitState, WantedExit};
    let mut house = House::build(4, 2).await;
    house.start().await;
    house.attested_again().await;
    let validator = house.created.group_public_keys()[0];
    let wanted = vec![WantedExit { validator: validator.to_string(), epoch: 0, not_before_ms: 0 }];
    let exits = || -> Vec<serde_json::Value> {
        let all = house.beacon.submitted().into_iter();
        all.filter(|(path, _)| path.ends_with("voluntary_exits")).map(|(_, body)| body).collect()
    };
    // Two owners confirm; at a third member dv-node asks and its owner has not confirmed.
    for member in 0..3 {
        house.members[member].signer.lock().unwrap().exits_confirmed = member < 2;
        let _status: NodeStatus = house.members[member].client().post(EXITS_PATH, &wanted).await.unwrap();
    }
    let late = house.members[3].client();
    let at_late = async || -> Option<ipc::node::ExitStatus> {
        let status: NodeStatus = late.get(ipc::node::STATUS_PATH).await.ok()?;
        status.exits.into_iter().next()
    };
    eventually("two partial exits are known at a member that was not asked", || async {
        at_late().await.is_some_and(|exit| {
            exit.partials_from == [1, 2] && exit.state == ExitState::AskedByOthers && exit.needed == 3
        })
    })
    .await;
    eventually("the refusal of the third is shown", || async {
        let exits = house.members[2].status().await.exits;
        exits.iter().any(|exit| exit.state == ExitState::Asking && exit.message.is_some())
    })
    .await;
    assert!(exits().is_empty(), "two of four are not enough");

    // A member away while it happens, and one that restarts: what was signed is not lost.
    house.members[0].kill();
    house.members[0].start().await;
    house.members[3].kill();
    house.members[2].signer.lock().unwrap().exits_confirmed = true;
    eventually("the exit is published", || async { !exits().is_empty() }).await;
    let exit: chain::SignedVoluntaryExit = serde_json::from_value(exits()[0].clone()).unwrap();
    assert_eq!(exit.message.epoch, chain::Epoch(0));
    let genesis_root = house.beacon.inner.lock().unwrap().chain.genesis_validators_root;
    let root = house::exit_root(&exit.message, genesis_root);
    assert!(threshold::verify_bytes(&validator, &root.0, &exit.signature).is_ok());
    house.members[3].start().await;
    eventually("the late member learns of it", || async {
        at_late()
            .await
            .is_some_and(|exit| exit.partials_from.len() == 3 && exit.state == ExitState::Published)
    })
    .await;

    // The same as files: what one box gives out, another one takes.
    // The first member has restarted since, and the others send it again what it missed.
    let given_out = async || house.members[0].client().get::<ExitFiles>(EXIT_FILES_PATH).await.unwrap();
    eventually("the first has it whole", || async { !given_out().await.whole.is_empty() }).await;
    let files = given_out().await;
    assert_eq!(files.whole[0].name, format!("exit-{validator}.json"));
    let lock_hash = house.lock_hash();
    let calls: Vec<(&str, String)> =
        files.obol_api.iter().map(|call| (call.method.as_str(), call.url.clone())).collect();
    let service = "https://api.obol.tech/exp";
    assert_eq!(
        calls,
        [
            ("POST", format!("{service}/partial_exits/{lock_hash}")),
            ("GET", format!("{service}/exit/{lock_hash}/1/{validator}")),
            ("DELETE", format!("{service}/partial_exits/{lock_hash}/1/{validator}")),
        ]
    );
    let token =
        cluster::exit::bearer(&house.members[0].identity(), &house.created.view.lock_hash, &validator, 1);
    assert_eq!(files.obol_api[1].authorization.as_ref(), Some(&token));
    // What that service would answer is taken as well, and a signature of nobody in it is not.
    let partial_of = |member: usize| {
        let share = &house.members[member].signer;
        let signed = share.lock().unwrap().sign_root(root);
        let own = house.created.view.validators[0].public_shares[member];
        signed.into_iter().find(|(key, _)| *key == own).unwrap().1.to_string()
    };
    let mut answer = serde_json::json!({"epoch": "0", "validator_index": exit.message.validator_index,
        "signatures": [partial_of(0), "", partial_of(2), partial_of(3)]});
    let _status: NodeStatus = house.members[3].client().post(EXIT_FILES_PATH, &answer).await.unwrap();
    eventually("the fourth's is known, which nobody had given", || async {
        at_late().await.is_some_and(|exit| exit.partials_from == [1, 2, 3, 4])
    })
    .await;
    // A file of another kind, perhaps a secret one, is not repeated.
    for wrong in [serde_json::json!("a secret"), serde_json::json!({ "signatures": { "a secret": 1 } })] {
        let refused = house.members[3].client().post::<NodeStatus>(EXIT_FILES_PATH, &wrong).await;
        let Err(ClientError::Refused { problem, .. }) = refused else { panic!("{refused:?}") };
        assert!(!format!("{problem:?}").contains("a secret"), "{problem:?}");
    }
    // The same one many times costs what one costs, and more than there are shares are refused.
    let many = |each: &dyn Fn(usize) -> String| {
        let mut answer = answer.clone();
        answer["signatures"] = (0..200).map(each).collect();
        answer
    };
    let same = many(&|_| partial_of(3));
    let _status: NodeStatus = house.members[3].client().post(EXIT_FILES_PATH, &same).await.unwrap();
    let others = many(&|number| format!("0x{}{:02x}", "ab".repeat(95), number));
    let refused = house.members[3].client().post::<NodeStatus>(EXIT_FILES_PATH, &others).await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 422, .. })), "{refused:?}");
    answer["signatures"][1] = "0x01".into();
    let refused = house.members[3].client().post::<NodeStatus>(EXIT_FILES_PATH, &answer).await;
    let Err(ClientError::Refused { problem, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.code, "exit_partial_wrong", "{problem}");
    let partial = files.partial.unwrap();
    let _status: NodeStatus = house.members[3].client().post(EXIT_FILES_PATH, &partial).await.unwrap();
    let mut forged = partial;
    forged["share_idx"] = 2.into();
    let refused = house.members[3].client().post::<NodeStatus>(EXIT_FILES_PATH, &forged).await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 422, .. })), "{refused:?}");
}

/// What a member's Obol API has: locks, and partial exits by share.
#[derive(Default)]
struct Service {
    locks: Vec<serde_json::Value>,
    partials: BTreeMap<u64, serde_json::Value>,
    asked: Vec<(String, String)>,
}

type SharedService = std::sync::Arc<std::sync::Mutex<Service>>;

/// Answers as the Obol API does (obol.md 12.5, 12.6).
async fn start_service(signatures: Vec<String>, takes_locks: bool) -> (SharedService, String) {
    use axum::routing::{get, post};
    let service = SharedService::default();
    let (locks, partials, asked) = (service.clone(), service.clone(), service.clone());
    let router = axum::Router::new()
        .route(
            "/lock",
            post(move |body: axum::Json<serde_json::Value>| async move {
                let mut service = locks.lock().unwrap();
                service.locks.push(body.0);
                // What is there already is a conflict, and as good.
                if !takes_locks {
                    axum::http::StatusCode::BAD_REQUEST
                } else if service.locks.len() > 1 {
                    axum::http::StatusCode::CONFLICT
                } else {
                    axum::http::StatusCode::CREATED
                }
            }),
        )
        .route(
            "/exp/partial_exits/{lock_hash}",
            post(move |body: axum::Json<serde_json::Value>| async move {
                let share = body.0["share_idx"].as_u64().unwrap();
                partials.lock().unwrap().partials.insert(share, body.0);
            }),
        )
        .route(
            "/exp/exit/{lock_hash}/{share}/{validator}",
            get(move |uri: axum::http::Uri, headers: axum::http::HeaderMap| async move {
                let token = headers["authorization"].to_str().unwrap().to_owned();
                let mut service = asked.lock().unwrap();
                service.asked.push((uri.path().to_owned(), token));
                if service.partials.is_empty() {
                    return Err(axum::http::StatusCode::NOT_FOUND);
                }
                Ok(axum::Json(
                    serde_json::json!({"epoch": "0", "validator_index": "0", "signatures": signatures}),
                ))
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (service, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_becomes_whole_by_the_obol_api_of_an_owner_who_wants_it_and_nothing_is_sent_for_another() {
    an_exit_becomes_whole_by_the_obol_api(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_takes_no_lock_and_has_a_wrong_signature_holds_no_exit_up() {
    an_exit_becomes_whole_by_the_obol_api(false).await;
}

async fn an_exit_becomes_whole_by_the_obol_api(all_is_well: bool) {
    use ipc::node::{EXITS_PATH, WantedExit};
    let mut house = House::build(4, 2).await;
    let validator = house.created.group_public_keys()[0];
    let message = chain::VoluntaryExit { epoch: chain::Epoch(0), validator_index: chain::ValidatorIndex(0) };
    let genesis_root = house.beacon.inner.lock().unwrap().chain.genesis_validators_root;
    let root = house::exit_root(&message, genesis_root);
    let partial_of = |member: usize| {
        let signed = house.members[member].signer.lock().unwrap().sign_root(root);
        let own = house.created.view.validators[0].public_shares[member];
        signed.into_iter().find(|(key, _)| *key == own).unwrap().1.to_string()
    };
    // Two members are not Hearths and left their exits at the service.
    let second = if all_is_well { String::new() } else { format!("0x{}", "ab".repeat(96)) };
    let (service, url) =
        start_service(vec![String::new(), second, partial_of(2), partial_of(3)], all_is_well).await;
    for member in 0..2 {
        house.members[member].signer.lock().unwrap().exits_confirmed = true;
    }
    // Both know the address of the service; only the first one's owner wants it.
    for member in 0..2 {
        house.members[member].obol_api = (Some(url.clone()), member == 0);
        house.members[member].start().await;
        house.set_up_again(member).await;
    }
    eventually("the lock is published", || async { service.lock().unwrap().locks == [house.lock()] }).await;
    assert!(service.lock().unwrap().partials.is_empty() && service.lock().unwrap().asked.is_empty());
    let refused = async || {
        let problems = house.members[0].status().await.problems;
        problems.iter().any(|problem| problem.code == "obol_api_lock_refused")
    };
    if !all_is_well {
        eventually("the refusal is told", &refused).await;
    }

    // Both sign; the third that is needed is to be had at the service alone.
    let wanted = vec![WantedExit { validator: validator.to_string(), epoch: 0, not_before_ms: 0 }];
    for member in 0..2 {
        let _status: NodeStatus = house.members[member].client().post(EXITS_PATH, &wanted).await.unwrap();
    }
    let exits = || -> Vec<serde_json::Value> {
        let all = house.beacon.submitted().into_iter();
        all.filter(|(path, _)| path.ends_with("voluntary_exits")).map(|(_, body)| body).collect()
    };
    eventually("the exit is published", || async { !exits().is_empty() }).await;
    let exit: chain::SignedVoluntaryExit = serde_json::from_value(exits()[0].clone()).unwrap();
    assert!(threshold::verify_bytes(&validator, &root.0, &exit.signature).is_ok());
    assert_eq!(refused().await, !all_is_well);
    let named = "not this cluster's in the place of ";
    assert_eq!(house.members[0].log().contains(named), !all_is_well, "whose signature is wrong");
    let service = service.lock().unwrap();
    let given: cluster::exit::PartialExits = serde_json::from_value(service.partials[&1].clone()).unwrap();
    // A lock that is refused is sent again after a while.
    assert!(if all_is_well { service.locks.len() == 1 } else { !service.locks.is_empty() });
    assert_eq!((service.partials.len(), given.partial_exits.len()), (1, 1));
    let lock_hash = house.created.view.lock_hash;
    let path = cluster::exit::full_exit_path(&lock_hash, &validator, 1);
    let token = cluster::exit::bearer(&house.members[0].identity(), &lock_hash, &validator, 1);
    let asked = (path, token);
    assert!(service.asked.contains(&asked) && service.asked.iter().all(|other| *other == asked));
}
