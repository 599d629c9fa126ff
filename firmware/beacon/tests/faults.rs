//! Beacon nodes that are slow, broken, behind, on another chain, or hostile.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod fake;

use std::time::{Duration, Instant};

use beacon::{BeaconError, BeaconNodes, Cause, ChainEvent, ChainMismatch, ExpectedChain, Health, Timeouts};
use chain::{
    AttestationData, Epoch, ForkName, ForkVersion, PublicKeyBytes, Root, SingleAttestation, Slot, SlotTiming,
    ValidatorIndex,
};
use fake::{FakeChain, FakeNode, Fault};
use serde_json::json;

fn keys() -> Vec<PublicKeyBytes> {
    (0..4).map(|byte| PublicKeyBytes([byte; 48])).collect()
}

fn client(nodes: &[&FakeNode]) -> BeaconNodes {
    client_that_waits(nodes, 1_000)
}

fn client_that_waits(nodes: &[&FakeNode], at_most_ms: u64) -> BeaconNodes {
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let timeouts =
        Timeouts { read_ms: at_most_ms, submit_ms: at_most_ms, hedge_ms: 100, ..Timeouts::default() };
    let expected =
        ExpectedChain { fork_version: Some(ForkVersion([0x20, 0, 0, 0x89])), ..ExpectedChain::default() };
    BeaconNodes::new(&urls, timeouts, expected).unwrap()
}

fn healths(nodes: &BeaconNodes) -> Vec<Health> {
    nodes.statuses().into_iter().map(|status| status.health).collect()
}

fn attestation(slot: u64) -> SingleAttestation {
    let data = AttestationData { slot: Slot(slot), ..AttestationData::default() };
    SingleAttestation { data, ..SingleAttestation::default() }
}

#[tokio::test]
async fn a_submission_is_not_given_up_while_one_node_may_still_take_it_whoever_answers_last() {
    let nodes =
        [FakeNode::start(FakeChain::new(keys())).await, FakeNode::start(FakeChain::new(keys())).await];
    let client = client(&[&nodes[0], &nodes[1]]);
    client.refresh().await;
    for statuses in [[500, 400], [400, 500]].into_iter().cycle().take(20) {
        for (node, status) in nodes.iter().zip(statuses) {
            let said = json!({"code": status, "message": "no"}).to_string().into_bytes();
            node.fault("pool/attestations", Fault::Says(status, said));
        }
        let list = [attestation(1), attestation(2)];
        let sent = client.submit_attestations(ForkName::Electra, &list).await;
        assert!(sent.unwrap_err().is_temporary());
    }
}

#[tokio::test]
async fn a_healthy_node_answers_everything() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    node.inner.lock().unwrap().statuses.insert(3, "pending_queued".to_owned());
    let client = client(&[&node]);
    client.refresh().await;
    assert_eq!(healths(&client), [Health::Ready]);
    assert_eq!(client.chain().unwrap().timing.slot_ms, 600_000);
    assert_eq!(client.statuses()[0].peers, Some(5));
    assert_eq!(client.preferred_version().as_deref(), Some("Fake/v1"));

    let unknown = PublicKeyBytes([0xee; 48]);
    let validators = client.validators(&[keys()[1], keys()[3], unknown]).await.unwrap();
    assert_eq!(validators.len(), 2);
    assert!(validators[0].active_at(Epoch(5)));
    assert!(!validators[1].active_at(Epoch(5)));
    assert!(client.validators(&[]).await.unwrap().is_empty());

    let duties = client.attester_duties(Epoch(9), &[ValidatorIndex(0), ValidatorIndex(2)]).await.unwrap();
    assert_eq!(duties.duties.len(), 2);
    assert!(client.attester_duties(Epoch(9), &[]).await.unwrap().duties.is_empty());
    assert_eq!(node.hits("duties"), 1, "an empty list is never posted");

    let slot = Slot(node.inner.lock().unwrap().chain.slot_now());
    assert_eq!(client.attestation_data(slot).await.unwrap().slot, slot);
    assert!(client.block(Root([9; 32])).await.unwrap().unwrap().canonical);
    assert!(client.block(Root([8; 32])).await.unwrap().is_none());

    let sent = client.submit_attestations(ForkName::Electra, &[attestation(slot.0)]).await.unwrap();
    assert!(sent.rejected.is_empty());
    assert_eq!(node.submitted()[0].1[0]["data"]["slot"], slot.0.to_string());
    let clock = client.statuses()[0].clock.unwrap();
    assert!(!clock.surely_beyond(1_000), "{clock:?}");
}

#[tokio::test]
async fn attestation_data_is_asked_again_when_the_slot_has_not_started_there() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    let client = client(&[&node]);
    client.refresh().await;
    let chain = node.inner.lock().unwrap().chain.clone();
    let early = br#"{"message":"invalid request: slot 5 is not the current slot 4","code":400}"#.to_vec();
    node.fault("attestation_data", Fault::SaysFirst(2, 400, early));
    let slot = Slot(chain.slot_now());
    assert!(client.attestation_data(slot).await.is_ok());
    assert_eq!(node.hits("attestation_data"), 3);

    node.heal();
    let far = client.attestation_data(Slot(slot.0 + 100)).await.unwrap_err();
    assert!(
        matches!(&far, BeaconError::AllFailed { last, .. } if matches!(last.cause, Cause::NotCurrentSlot(_))),
        "{far}"
    );
    assert!(far.is_temporary());
}

#[tokio::test]
async fn a_node_on_another_chain_is_named_and_never_used() {
    let good = FakeNode::start(FakeChain::new(keys())).await;
    let other_chain = FakeChain { genesis_validators_root: Root([66; 32]), ..FakeChain::new(keys()) };
    let other = FakeNode::start(other_chain).await;
    let client = client(&[&good, &other]);
    client.refresh().await;
    // Both answer at once, so either may be taken for the chain when nothing is pinned: exactly one is refused.
    let wrong = healths(&client)
        .iter()
        .filter(|health| matches!(health, Health::WrongChain(ChainMismatch::GenesisRoot { .. })))
        .count();
    assert_eq!(wrong, 1);

    let urls = [good.url.clone(), other.url.clone()];
    let expected = ExpectedChain { genesis_validators_root: Some(Root([7; 32])), ..ExpectedChain::default() };
    let client = BeaconNodes::new(&urls, Timeouts::default(), expected).unwrap();
    client.refresh().await;
    assert!(matches!(healths(&client)[..], [Health::Ready, Health::WrongChain(_)]));
    client.submit_attestations(ForkName::Electra, &[attestation(1)]).await.unwrap();
    client.refresh().await;
    assert_eq!((good.submitted().len(), other.submitted().len()), (1, 0));

    let lock_for_mainnet =
        ExpectedChain { fork_version: Some(ForkVersion([0; 4])), ..ExpectedChain::default() };
    let client = BeaconNodes::new(&urls[..1], Timeouts::default(), lock_for_mainnet).unwrap();
    client.refresh().await;
    let text = client.statuses()[0].health.describe();
    assert!(text.contains("on another chain") && text.contains("0x00000000"), "{text}");
    let error = client.validators(&keys()).await.unwrap_err();
    assert!(matches!(error, BeaconError::NoneReady { .. }), "{error}");
    assert_eq!(good.hits("validators"), 0);
}

#[tokio::test]
async fn a_node_that_is_behind_is_not_asked_for_duties() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    node.inner.lock().unwrap().sync_distance = 117;
    let client = client(&[&node]);
    client.refresh().await;
    assert!(matches!(healths(&client)[0], Health::Syncing { distance: 117, .. }));
    assert!(client.attestation_data(Slot(1)).await.unwrap_err().to_string().contains("117 slots behind"));
    node.inner.lock().unwrap().sync_distance = 0;
    client.refresh().await;
    assert_eq!(healths(&client), [Health::Ready]);
}

#[tokio::test]
async fn a_slow_node_is_hedged_and_a_dead_one_skipped() {
    let slow = FakeNode::start(FakeChain::new(keys())).await;
    let good = FakeNode::start(FakeChain::new(keys())).await;
    good.inner.lock().unwrap().chain = slow.inner.lock().unwrap().chain.clone();
    let client = client_that_waits(&[&slow, &good], 20_000);
    client.refresh().await;
    slow.fault("headers", Fault::Slow(Duration::from_secs(30)));
    let start = Instant::now();
    assert!(client.block(Root([9; 32])).await.unwrap().is_some());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(good.hits("headers"), 1);

    slow.fault("headers", Fault::Says(500, b"internal".to_vec()));
    assert!(client.block(Root([9; 32])).await.unwrap().is_some());
    slow.fault("headers", Fault::Endless);
    assert!(client.block(Root([9; 32])).await.unwrap().is_some());
    slow.fault("headers", Fault::Says(200, b"{\"data\": 7}".to_vec()));
    assert!(client.block(Root([9; 32])).await.unwrap().is_some());
}

#[tokio::test]
async fn broken_answers_are_typed_errors() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    let client = client(&[&node]);
    client.refresh().await;
    let cause = |error: BeaconError| match error {
        BeaconError::AllFailed { last, .. } => last.cause,
        BeaconError::NoneReady { states, .. } => panic!("{states}"),
    };
    node.fault("validators", Fault::Endless);
    assert!(matches!(cause(client.validators(&keys()).await.unwrap_err()), Cause::TooLarge { .. }));
    node.fault("validators", Fault::Says(200, b"<html>".to_vec()));
    assert!(matches!(cause(client.validators(&keys()).await.unwrap_err()), Cause::Unreadable(_)));
    node.fault("validators", Fault::Says(415, b"Unsupported media type: ".to_vec()));
    assert!(matches!(
        cause(client.validators(&keys()).await.unwrap_err()),
        Cause::Refused { status: 415, .. }
    ));
    node.fault("validators", Fault::Slow(Duration::from_secs(30)));
    assert!(matches!(
        cause(client.validators(&keys()).await.unwrap_err()),
        Cause::TimedOut { limit_ms: 1_000 }
    ));
    node.fault(
        "duties",
        Fault::Says(
            200,
            json!({"dependent_root": Root([1; 32]), "data": [{
        "pubkey": keys()[0], "validator_index": "0", "committee_index": "0", "committee_length": "4",
        "committees_at_slot": "1", "validator_committee_index": "1", "slot": "999999"}]})
            .to_string()
            .into_bytes(),
        ),
    );
    let error = client.attester_duties(Epoch(1), &[ValidatorIndex(0)]).await.unwrap_err();
    assert!(matches!(cause(error), Cause::Unfitting(_)));
}

#[tokio::test]
async fn a_submission_succeeds_when_one_node_takes_it() {
    let chain = FakeChain::new(keys());
    let (bad, good) = (FakeNode::start(chain.clone()).await, FakeNode::start(chain).await);
    let client = client(&[&bad, &good]);
    client.refresh().await;
    bad.fault("pool", Fault::Says(400, br#"{"message":"x","code":400}"#.to_vec()));
    assert!(
        client.submit_attestations(ForkName::Electra, &[attestation(1)]).await.unwrap().rejected.is_empty()
    );

    let partly = br#"{"message":"One or more messages failed validation","code":400,"failures":[{"index":1,"message":"bad signature"}]}"#;
    good.fault("pool", Fault::Says(400, partly.to_vec()));
    let sent =
        client.submit_attestations(ForkName::Electra, &[attestation(1), attestation(2)]).await.unwrap();
    assert_eq!(sent.rejected.into_iter().collect::<Vec<_>>(), [(1, "bad signature".to_owned())]);

    // Where another one may take it yet, it is sent again; but not for ever: the rest is out, and that is said.
    bad.fault("pool", Fault::Says(503, b"syncing".to_vec()));
    let both = [attestation(1), attestation(2)];
    for list in [&both[..], &[attestation(3), attestation(2)]] {
        for _ in 0..3 {
            let sent = client.submit_attestations(ForkName::Electra, list).await;
            assert!(sent.unwrap_err().is_temporary());
        }
    }
    assert!(client.submit_attestations(ForkName::Electra, &both).await.is_err(), "another list");
    for _ in 0..2 {
        assert!(client.submit_attestations(ForkName::Electra, &both).await.unwrap_err().is_temporary());
    }
    let sent = client.submit_attestations(ForkName::Electra, &both).await.unwrap();
    assert_eq!(sent.rejected.into_keys().collect::<Vec<_>>(), [1]);
    bad.fault("pool", Fault::Says(400, br#"{"message":"x","code":400}"#.to_vec()));

    let known = br#"{"message":"x","code":400,"failures":[{"index":0,"message":"PriorAttestationKnown"}]}"#;
    good.fault("pool", Fault::Says(400, known.to_vec()));
    assert!(
        client.submit_attestations(ForkName::Electra, &[attestation(1)]).await.unwrap().rejected.is_empty()
    );

    good.fault("pool", Fault::Says(404, b"404 page not found\n".to_vec()));
    assert!(client.submit_attestations(ForkName::Electra, &[attestation(1)]).await.is_err());
}

/// One node of the owner's and one for emergencies, both examined.
async fn with_fallback() -> (FakeNode, FakeNode, BeaconNodes) {
    let chain = FakeChain::new(keys());
    let (own, fallback) = (FakeNode::start(chain.clone()).await, FakeNode::start(chain).await);
    let timeouts = Timeouts { read_ms: 2_000, submit_ms: 2_000, hedge_ms: 20, ..Timeouts::default() };
    let urls = |node: &FakeNode| vec![node.url.clone()];
    let client =
        BeaconNodes::with_fallbacks(&urls(&own), &urls(&fallback), timeouts, ExpectedChain::default())
            .unwrap();
    client.refresh().await;
    assert_eq!(healths(&client), [Health::Ready, Health::Ready]);
    assert!(!client.uses_fallback());
    (own, fallback, client)
}

#[tokio::test]
async fn a_fallback_is_asked_only_when_all_others_failed_and_not_when_they_refuse() {
    let (own, fallback, client) = with_fallback().await;
    let ask = || async { client.block(Root([9; 32])).await };
    let examined = fallback.hits("");
    for _ in 0..5 {
        client.refresh().await;
        assert!(ask().await.unwrap().is_some());
    }
    assert_eq!(fallback.hits(""), examined, "not even to be examined");

    // Slow is not failed, and a refusal is an answer.
    own.fault("headers", Fault::Slow(Duration::from_millis(200)));
    assert!(ask().await.unwrap().is_some());
    own.fault("headers", Fault::Says(404, b"Block not found".to_vec()));
    assert!(ask().await.unwrap().is_none());
    own.fault("headers", Fault::Says(400, b"bad root".to_vec()));
    assert!(ask().await.is_err());
    assert_eq!(fallback.hits("headers"), 0);

    let failures = [
        ("a proxy before a dead node", Fault::Says(502, b"bad gateway".to_vec())),
        ("syncing", Fault::Says(503, b"syncing".to_vec())),
        ("no answer", Fault::Slow(Duration::from_secs(30))),
        ("no sense", Fault::Says(200, b"<html>".to_vec())),
    ];
    for (number, (what, fault)) in (1..).zip(failures) {
        own.fault("headers", fault);
        assert!(ask().await.unwrap().is_some(), "{what}");
        assert_eq!(fallback.hits("headers"), number, "{what}");
        own.heal();
        client.refresh().await;
        assert!(ask().await.unwrap().is_some());
        assert_eq!(fallback.hits("headers"), number, "and back again");
    }
}

#[tokio::test]
async fn while_no_other_node_is_there_fallbacks_do_everything() {
    let (own, fallback, client) = with_fallback().await;
    let mut events = client.events();
    assert!(
        matches!(events.recv().await.unwrap(), ChainEvent::StreamOpen { endpoint } if endpoint == own.url)
    );
    own.stop();
    own.fault("/eth/", Fault::Says(502, Vec::new()));
    client.refresh().await;
    assert!(client.uses_fallback() && client.any_ready());
    let asked = own.hits("headers");
    assert!(client.block(Root([9; 32])).await.unwrap().is_some());
    assert_eq!(
        (own.hits("headers"), fallback.hits("headers")),
        (asked, 1),
        "no time is lost with the dead one"
    );
    let opened = async {
        while !matches!(events.recv().await.unwrap(), ChainEvent::StreamOpen { endpoint } if endpoint == fallback.url)
        {
        }
    };
    tokio::time::timeout(Duration::from_secs(20), opened).await.expect("its events are followed");
}

/// What happens to a node while nobody looks.
type Change = fn(&FakeNode);

#[tokio::test]
async fn a_fallback_shows_again_that_it_is_on_the_chain_and_follows_it_before_it_is_used() {
    let chain = FakeChain::new(keys());
    let changes: [(&str, bool, Change); 4] = [
        ("it has fallen behind", true, |node| node.inner.lock().unwrap().sync_distance = 117),
        ("it does not show its genesis", false, |node| node.fault("genesis", Fault::Says(404, Vec::new()))),
        ("another chain's node has its address", false, |node| {
            node.inner.lock().unwrap().chain.genesis_validators_root = Root([66; 32]);
        }),
        ("it is silent about how it does", true, |node| node.fault("syncing", Fault::Says(500, Vec::new()))),
    ];
    for (what, shows_its_chain, change) in changes {
        let (own, fallback) = (FakeNode::start(chain.clone()).await, FakeNode::start(chain.clone()).await);
        // What it showed when it was examined counts for no time at all.
        let timeouts = Timeouts { read_ms: 2_000, submit_ms: 2_000, hedge_ms: 20, fallback_fresh_ms: 0 };
        let (first, fallbacks) = ([own.url.clone()], [fallback.url.clone()]);
        let client =
            BeaconNodes::with_fallbacks(&first, &fallbacks, timeouts, ExpectedChain::default()).unwrap();
        client.refresh().await;
        assert_eq!(healths(&client), [Health::Ready, Health::Ready]);
        own.fault("/eth/", Fault::Says(502, Vec::new()));
        assert!(client.block(Root([9; 32])).await.is_ok(), "unchanged it is used");
        let asked = fallback.hits("headers");
        change(&fallback);
        let block = || client.block(Root([9; 32]));
        // Both at once: the second one does not go out on what is not known yet.
        let (one, two) = tokio::join!(block(), block());
        for refused in [one, two] {
            let error = refused.unwrap_err();
            assert!(error.is_temporary(), "{what}: it says nothing about the question: {error}");
        }
        assert_eq!(fallback.hits("headers"), asked, "{what}");
        // What is signed goes to one that is behind or does not say how it does, and never to one that does not show its chain.
        let sent = client.submit_attestations(ForkName::Electra, &[attestation(1)]).await;
        assert_eq!(sent.is_ok(), shows_its_chain, "{what}");
        assert_eq!(fallback.submitted().len(), usize::from(shows_its_chain), "{what}");
    }
}

#[tokio::test]
async fn a_fallback_on_another_chain_gets_nothing_even_when_it_is_the_only_one_left() {
    let own = FakeNode::start(FakeChain::new(keys())).await;
    let other = FakeChain { genesis_validators_root: Root([66; 32]), ..FakeChain::new(keys()) };
    let other = FakeNode::start(other).await;
    let timeouts = Timeouts { read_ms: 2_000, submit_ms: 2_000, hedge_ms: 20, ..Timeouts::default() };
    let (first, fallbacks) = ([own.url.clone()], [other.url.clone()]);
    let client = BeaconNodes::with_fallbacks(&first, &fallbacks, timeouts, ExpectedChain::default()).unwrap();
    client.refresh().await;
    assert!(matches!(healths(&client)[..], [Health::Ready, Health::WrongChain(_)]));
    own.fault("/eth/", Fault::Says(502, Vec::new()));
    for _ in 0..2 {
        assert!(client.block(Root([9; 32])).await.is_err());
        assert!(client.submit_attestations(ForkName::Electra, &[attestation(1)]).await.is_err());
        client.refresh().await;
        assert!(!client.any_ready() && !client.uses_fallback());
    }
    assert_eq!((other.hits("headers"), other.submitted().len()), (0, 0));
}

#[tokio::test]
async fn what_is_signed_goes_to_fallbacks_only_when_no_other_node_took_or_refused_it() {
    let (own, fallback, client) = with_fallback().await;
    let send = || async { client.submit_attestations(ForkName::Electra, &[attestation(1)]).await };
    send().await.unwrap();
    own.fault("pool", Fault::Says(400, b"bad signature".to_vec()));
    assert!(send().await.is_err());
    assert_eq!((own.submitted().len(), fallback.submitted().len()), (1, 0));
    own.fault("pool", Fault::Slow(Duration::from_secs(30)));
    send().await.unwrap();
    assert_eq!(fallback.submitted().len(), 1);

    // Whom to pay a fallback must know before it is needed.
    own.heal();
    let preparation = chain::ProposerPreparation {
        validator_index: ValidatorIndex(1),
        fee_recipient: chain::ExecutionAddress([2; 20]),
    };
    client.prepare_proposers(&[preparation]).await.unwrap();
    let told = async {
        while fallback.submitted().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("the fallback is told");
    // That it knows does not hide that the owner's own node does not.
    own.fault("prepare", Fault::Says(500, b"out of order".to_vec()));
    let error = client.prepare_proposers(&[preparation]).await.unwrap_err();
    assert!(error.to_string().contains("out of order"), "{error}");
}

#[tokio::test]
async fn which_chain_it_is_fallbacks_never_say_first_and_not_any_more_once_an_own_node_has() {
    // The fallback knows of a fork to come that the owner's node does not know.
    let chain = FakeChain::new(keys());
    let own = FakeNode::start(chain.clone()).await;
    let fallback = FakeNode::start(FakeChain { fulu_epoch: Some(1_000), ..chain.clone() }).await;
    let timeouts = Timeouts { read_ms: 2_000, submit_ms: 2_000, hedge_ms: 20, ..Timeouts::default() };
    let (first, fallbacks) = ([own.url.clone()], [fallback.url.clone()]);
    let new = |expected| BeaconNodes::with_fallbacks(&first, &fallbacks, timeouts, expected).unwrap();
    let forks = |client: &BeaconNodes| client.chain().unwrap().schedule.forks().len();

    // Nothing is known, and the owner's node is away: nobody else pins the chain.
    own.fault("/eth/", Fault::Says(502, Vec::new()));
    let client = new(ExpectedChain::default());
    client.refresh().await;
    assert!(client.chain().is_none() && !client.any_ready());
    own.heal();
    client.refresh().await;
    client.refresh().await;
    let known = forks(&client);

    // A box that knows its chain starts with a fallback, and follows the owner's node as soon as that is there.
    own.fault("/eth/", Fault::Says(502, Vec::new()));
    let knows = |slot_ms: Option<u64>| ExpectedChain {
        genesis_validators_root: Some(chain.genesis_validators_root),
        genesis_time_s: Some(chain.genesis_time_s),
        timing: slot_ms.map(|slot_ms| {
            SlotTiming::new(chain.genesis_time_s * 1_000, slot_ms, chain.slots_per_epoch).unwrap()
        }),
        ..ExpectedChain::default()
    };
    // Nor does a fallback say when the slots of a chain start of which only the genesis is known, as of a private one.
    for wrong in [None, Some(chain.slot_ms / 2)] {
        let client = new(knows(wrong));
        client.refresh().await;
        assert!(client.chain().is_none() && !client.any_ready(), "{wrong:?}");
        assert!(client.statuses()[1].health.describe().contains("slots start"), "{:?}", client.statuses());
    }
    let client = new(knows(Some(chain.slot_ms)));
    client.refresh().await;
    assert!(client.uses_fallback());
    assert_eq!(forks(&client), known + 1);
    own.heal();
    client.refresh().await;
    assert_eq!((healths(&client).remove(0), forks(&client)), (Health::Ready, known));
}

#[tokio::test]
async fn a_node_that_went_away_comes_back() {
    let chain = FakeChain::new(keys());
    // A bound port that nobody serves: connections are accepted by the kernel and never answered.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let timeouts = Timeouts { read_ms: 1_000, submit_ms: 1_000, hedge_ms: 100, ..Timeouts::default() };
    let client = BeaconNodes::new(&[url], timeouts, ExpectedChain::default()).unwrap();
    client.refresh().await;
    assert!(matches!(healths(&client)[0], Health::Failing(_)));
    assert!(client.chain().is_none());
    let node = FakeNode::start_on(listener, chain);
    client.refresh().await;
    assert_eq!(healths(&client), [Health::Ready]);
    drop(node);
}

#[tokio::test]
async fn events_arrive_and_the_stream_is_opened_again() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    node.fault("events", Fault::SaysFirst(1, 400, b"bad".to_vec()));
    let client = client(&[&node]);
    let mut events = client.events();
    assert!(matches!(events.recv().await.unwrap(), ChainEvent::StreamLost(_)));
    assert!(matches!(events.recv().await.unwrap(), ChainEvent::StreamOpen { .. }));
    node.emit("block", &json!({"slot": "5", "block": Root([5; 32])}));
    assert_eq!(events.recv().await.unwrap(), ChainEvent::Block { slot: Slot(5), block: Root([5; 32]) });
}

#[tokio::test]
async fn one_slow_answer_does_not_take_the_only_node_away() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    let client = client(&[&node]);
    client.refresh().await;
    for path in ["genesis", "syncing", "version"] {
        node.fault(path, Fault::Slow(Duration::from_secs(30)));
        client.refresh().await;
        assert!(matches!(healths(&client)[0], Health::Failing(_)), "{path}");
        assert_eq!(client.validators(&keys()).await.unwrap().len(), 4, "it is asked as a last resort");
        let slot = Slot(node.inner.lock().unwrap().chain.slot_now());
        client.submit_attestations(ForkName::Electra, &[attestation(slot.0)]).await.unwrap();
        node.heal();
        client.refresh().await;
        assert_eq!(healths(&client), [Health::Ready]);
    }
}

#[tokio::test]
async fn a_node_that_stays_away_must_show_its_chain_again() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    let client = client(&[&node]);
    client.refresh().await;
    node.stop();
    let gone = async {
        while !matches!(client.validators(&keys()).await, Err(BeaconError::NoneReady { .. })) {
            client.refresh().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}

fn fulu_known(client: &BeaconNodes) -> Option<Epoch> {
    let chain = client.chain().unwrap();
    chain.schedule.forks().iter().find(|fork| fork.name == ForkName::Fulu).map(|fork| fork.epoch)
}

fn update(node: &FakeNode, version: &str, fulu_epoch: Option<u64>) {
    let chain = &mut node.inner.lock().unwrap().chain;
    chain.version = version.to_owned();
    chain.fulu_epoch = fulu_epoch;
}

#[tokio::test]
async fn forks_to_come_are_learnt_when_a_node_is_updated() {
    let chain = FakeChain::new(keys());
    let (one, two) = (FakeNode::start(chain.clone()).await, FakeNode::start(chain).await);
    let client = client(&[&one, &two]);
    client.refresh().await;
    assert_eq!(fulu_known(&client), None);
    update(&two, "Fake/v2", Some(50));
    client.refresh().await;
    assert_eq!(fulu_known(&client), Some(Epoch(50)), "more forks to come win");
    assert_eq!(healths(&client), [Health::Ready, Health::Ready], "forks to come may differ");
    update(&one, "Fake/v3", Some(60));
    client.refresh().await;
    assert_eq!(fulu_known(&client), Some(Epoch(60)), "among equals the owner's order holds");
    let hits = one.hits("config/spec");
    client.refresh().await;
    assert_eq!(one.hits("config/spec"), hits, "nothing new: nothing is asked again");
}

#[tokio::test]
async fn a_node_with_another_past_is_named() {
    let chain = FakeChain::new(keys());
    let (one, two) = (FakeNode::start(chain.clone()).await, FakeNode::start(chain).await);
    let client = client(&[&one, &two]);
    client.refresh().await;
    update(&two, "Fake/v2", Some(0));
    client.refresh().await;
    let [first, second] = &healths(&client)[..] else { panic!() };
    assert_eq!(first, &Health::Ready);
    assert!(matches!(second, Health::WrongChain(ChainMismatch::Fork { epoch: Epoch(0), .. })), "{second:?}");
    assert_eq!(fulu_known(&client), None);
}

#[tokio::test]
async fn the_only_node_may_be_updated_after_the_fork() {
    let node = FakeNode::start(FakeChain::new(keys())).await;
    let client = client(&[&node]);
    client.refresh().await;
    update(&node, "Fake/v2", Some(0));
    client.refresh().await;
    assert_eq!((healths(&client), fulu_known(&client)), (vec![Health::Ready], Some(Epoch(0))));
    node.inner.lock().unwrap().chain.slot_ms = 300_000;
    update(&node, "Fake/v3", Some(0));
    client.refresh().await;
    assert!(matches!(healths(&client)[0], Health::WrongChain(ChainMismatch::Parameters(_))));
}
