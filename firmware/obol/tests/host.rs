//! Hosts on loopback: what members can do to each other, and what strangers cannot.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(clippy::wildcard_enum_match_arm, reason = "each test looks for one event among many")]

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{IdentityKey, PeerId};
use obol::host::{OwnInfo, RefusedWhy, RequestError};
use obol::{Host, HostConfig, HostEvent, HostHandle, Inbound, Member, Multiaddr, Protocol};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    id: PeerId,
    addr: Multiaddr,
    handle: HostHandle,
    events: mpsc::Receiver<HostEvent>,
}

fn secret(seed: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([seed; 32])
}

fn peer_id(seed: u8) -> PeerId {
    PeerId::from_public_key(&IdentityKey::from_bytes(secret(seed)).unwrap().public_key())
}

/// A host that listens on loopback; `members` are the seeds of the others and where to dial them.
async fn start(seed: u8, members: &[(u8, Option<&Multiaddr>)]) -> Node {
    let members = members.iter().map(|(seed, addr)| Member {
        peer_id: peer_id(*seed),
        addrs: addr.iter().map(|addr| (*addr).clone()).collect(),
    });
    let (handle, mut events) = Host::spawn(HostConfig {
        identity: secret(seed),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        external: Vec::new(),
        members: members.collect(),
        accepts: obol::host::Accepts::Ceremonies,
        info: OwnInfo {
            charon_version: "v1.10.3".into(),
            lock_hash: [9; 32],
            git_hash: "unknown".into(),
            nickname: format!("node {seed}"),
            builder_api_enabled: false,
        },
    })
    .unwrap();
    let addr = until(&mut events, |event| match event {
        HostEvent::Listening { addr } => Some(addr),
        _ => None,
    })
    .await;
    Node { id: peer_id(seed), addr, handle, events }
}

/// The first event that `pick` likes; the others are dropped.
async fn until<T>(events: &mut mpsc::Receiver<HostEvent>, pick: impl Fn(HostEvent) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("the host runs")) {
                return found;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("in vain: an event of the host"))
}

async fn next_inbound(node: &mut Node) -> Inbound {
    until(&mut node.events, |event| match event {
        HostEvent::Inbound(inbound) => Some(inbound),
        _ => None,
    })
    .await
}

async fn connected(node: &mut Node, to: PeerId) {
    until(&mut node.events, |event| {
        matches!(event, HostEvent::PeerConnected { peer, .. } if peer == to).then_some(())
    })
    .await;
}

/// Two members that are connected.
async fn pair() -> (Node, Node) {
    let mut one = start(1, &[(2, None)]).await;
    let mut two = start(2, &[(1, Some(&one.addr))]).await;
    connected(&mut one, two.id).await;
    connected(&mut two, one.id).await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_members_hear_each_others_broadcasts() {
    let one = start(1, &[(2, None), (3, None), (4, None)]).await;
    let two = start(2, &[(1, Some(&one.addr)), (3, None), (4, None)]).await;
    let three = start(3, &[(1, Some(&one.addr)), (2, Some(&two.addr)), (4, None)]).await;
    let four = start(4, &[(1, Some(&one.addr)), (2, Some(&two.addr)), (3, Some(&three.addr))]).await;
    let mut nodes = [one, two, three, four];
    // Nobody waits for connections: messages wait for them, within their deadline.
    for node in &nodes {
        node.handle.broadcast(Protocol::Qbft, node.id.to_string().as_bytes());
    }
    for node in &mut nodes {
        let mut heard = BTreeMap::new();
        while heard.len() < 3 {
            let inbound = next_inbound(node).await;
            assert_eq!((inbound.protocol, inbound.responder.is_none()), (Protocol::Qbft, true));
            heard.insert(inbound.peer.to_string(), String::from_utf8(inbound.bytes.clone()).unwrap());
        }
        assert!(heard.iter().all(|(peer, said)| peer == said), "everyone speaks for itself");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_bursts_of_128_streams_lose_nothing() {
    let (mut one, two) = pair().await;
    for burst in 0..20_u8 {
        for number in 0..128_u8 {
            two.handle.send(&one.id, Protocol::ParSigEx, &[burst, number]).unwrap();
        }
        let mut seen = [false; 128];
        for _ in 0..128 {
            let inbound = next_inbound(&mut one).await;
            assert_eq!(inbound.bytes[0], burst);
            assert!(!std::mem::replace(&mut seen[usize::from(inbound.bytes[1])], true), "twice");
        }
    }
    let counters = one.handle.peers()[0].counters;
    assert_eq!((counters.inbound_reset, counters.inbound_refused), (0, 0));
    assert_eq!(two.handle.peers()[0].counters.send_failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_and_an_unanswered_one_fails() {
    let (mut one, two) = pair().await;
    let (handle, to) = (two.handle.clone(), one.id);
    let asked = tokio::spawn(async move { handle.request(&to, Protocol::Priority, b"question").await });
    let mut inbound = next_inbound(&mut one).await;
    assert_eq!((inbound.peer, inbound.bytes.as_slice()), (two.id, &b"question"[..]));
    inbound.responder.take().unwrap().respond(b"answer".to_vec());
    assert_eq!(asked.await.unwrap().unwrap(), b"answer");

    let (handle, to) = (two.handle.clone(), one.id);
    let asked = tokio::spawn(async move { handle.request(&to, Protocol::Priority, b"again").await });
    drop(next_inbound(&mut one).await); // We choose not to answer: it is asked once more, and then given up.
    drop(next_inbound(&mut one).await);
    assert_eq!(asked.await.unwrap(), Err(RequestError::Reset));
    assert_eq!(two.handle.peers()[0].counters.retried, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peerinfo_is_exchanged_on_connecting() {
    let (mut one, _two) = pair().await;
    let info = until(&mut one.events, |event| match event {
        HostEvent::PeerInfo { info, .. } => Some(info),
        _ => None,
    })
    .await;
    assert_eq!((info.nickname.as_str(), info.dv_client.as_str(), info.same_lock), ("node 2", "hearth", true));
    assert!(info.clock_offset_ms.abs() < 5_000, "one clock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_by_name_in_both_directions() {
    let mut one = start(1, &[(2, None)]).await;
    let stranger = start(7, &[(1, Some(&one.addr))]).await;
    let (peer_id, why) = until(&mut one.events, |event| match event {
        HostEvent::Refused { peer_id, why, .. } => Some((peer_id, why)),
        _ => None,
    })
    .await;
    assert_eq!((peer_id, why), (Some(stranger.id.to_string()), RefusedWhy::NotAMember));
    // Its message never arrives, and we do not even address it.
    assert_eq!(one.handle.send(&stranger.id, Protocol::Qbft, b"x"), Err(RequestError::NotAMember));
    assert!(one.handle.peers()[0].state.addr.is_none());

    // A stranger at a member's address is not taken for the member.
    let mut lured = start(3, &[(2, Some(&stranger.addr))]).await;
    let why = until(&mut lured.events, |event| match event {
        HostEvent::DialFailed { why, .. } => Some(why),
        _ => None,
    })
    .await;
    assert!(why.contains(&stranger.id.to_string()), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_restarts_is_connected_again() {
    let (mut one, two) = pair().await;
    drop(two);
    until(&mut one.events, |event| matches!(event, HostEvent::PeerDisconnected { .. }).then_some(())).await;
    let two = start(2, &[(1, Some(&one.addr))]).await;
    two.handle.send(&one.id, Protocol::Qbft, b"back").unwrap();
    assert_eq!(next_inbound(&mut one).await.bytes, b"back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_longer_deadline_waits_for_a_member_that_is_away() {
    let (one, mut two) = pair().await;
    drop(one.handle);
    drop(one.events);
    until(&mut two.events, |event| matches!(event, HostEvent::PeerDisconnected { .. }).then_some(())).await;
    let (within, short) = (Duration::from_secs(60), Duration::from_millis(100));
    two.handle.send_within(&one.id, Protocol::ParSigEx, b"too late", short).unwrap();
    two.handle.send_within(&one.id, Protocol::ParSigEx, b"kept", within).unwrap();
    // An attempt has failed: only a message that is queued again is still there.
    while two.handle.peers()[0].counters.send_failed < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut one = start(1, &[(2, Some(&two.addr))]).await;
    assert_eq!(next_inbound(&mut one).await.bytes, b"kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_member_costs_only_its_own_part() {
    let one = start(1, &[(2, None), (3, None)]).await;
    let flooder = start(2, &[(1, Some(&one.addr)), (3, None)]).await;
    let quiet = start(3, &[(1, Some(&one.addr)), (2, None)]).await;
    let mut one = one;
    for _ in 0..2 {
        until(&mut one.events, |event| matches!(event, HostEvent::PeerConnected { .. }).then_some(())).await;
    }
    // The daemon hangs on to everything the flooder says, so the flooder soon has no place left.
    let mut hoard = Vec::new();
    for _ in 0..200_u8 {
        flooder.handle.send(&one.id, Protocol::Qbft, &[0; 1000]).unwrap();
    }
    while hoard.len() < obol::host::INCOMING_MESSAGES {
        let inbound = next_inbound(&mut one).await;
        assert_eq!(inbound.peer, flooder.id);
        hoard.push(inbound);
    }
    quiet.handle.send(&one.id, Protocol::Qbft, b"still heard").unwrap();
    let inbound = next_inbound(&mut one).await;
    assert_eq!((inbound.peer, inbound.bytes.as_slice()), (quiet.id, &b"still heard"[..]));
    // As soon as the daemon is done with them, the flooder is heard again.
    hoard.clear();
    assert_eq!(next_inbound(&mut one).await.peer, flooder.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_member_holds_up_nobody() {
    let mut one = start(1, &[(2, None)]).await;
    let nowhere: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let mut two = start(2, &[(1, Some(&one.addr)), (3, Some(&nowhere))]).await;
    connected(&mut two, one.id).await;
    for number in 0..500_u16 {
        two.handle.send(&peer_id(3), Protocol::ParSigEx, b"into the void").unwrap();
        two.handle.send(&one.id, Protocol::ParSigEx, &number.to_le_bytes()).unwrap();
        let inbound = next_inbound(&mut one).await;
        assert_eq!(inbound.bytes, number.to_le_bytes());
    }
    let counters = |id| two.handle.peers().into_iter().find(|peer| peer.peer == id).unwrap().counters;
    assert_eq!(counters(one.id).send_dropped, 0);
    assert!(counters(peer_id(3)).send_dropped > 0, "the oldest gave way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_many_mebibytes_arrives_whole() {
    let (mut one, two) = pair().await;
    let large: Vec<u8> = (0..12_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
    two.handle.send(&one.id, Protocol::Qbft, &large).unwrap();
    assert!(next_inbound(&mut one).await.bytes == large);
    assert!(matches!(
        two.handle.request(&one.id, Protocol::PeerInfo, &vec![0; 2 << 20]).await,
        Err(RequestError::Reset)
    ));
    assert!(one.handle.peers()[0].counters.inbound_refused >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_protocol_leaves_the_host_running() {
    let (mut one, two) = pair().await;
    for protocol in [Protocol::Qbft, Protocol::ParSigEx] {
        for length in [0_usize, 1, 5, 300] {
            two.handle.send(&one.id, protocol, &vec![0xff; length]).unwrap();
            // The host carries any bytes; the codecs refuse them without a panic.
            let bytes = next_inbound(&mut one).await.bytes.clone();
            assert_eq!(bytes.len(), length);
            assert!(obol::consensus::decode(&bytes, 4).is_err() || bytes.is_empty());
        }
    }
    assert!(
        two.handle.request(&one.id, Protocol::PeerInfo, &[0xff; 100]).await.is_ok(),
        "the question has no content"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_list_with_ourselves_is_refused() {
    let config = |members: Vec<u8>| HostConfig {
        identity: secret(1),
        listen: Vec::new(),
        external: Vec::new(),
        members: members
            .into_iter()
            .map(|seed| Member { peer_id: peer_id(seed), addrs: Vec::new() })
            .collect(),
        accepts: obol::host::Accepts::Ceremonies,
        info: OwnInfo {
            charon_version: "v1.10.3".into(),
            lock_hash: [0; 32],
            git_hash: "unknown".into(),
            nickname: String::new(),
            builder_api_enabled: false,
        },
    };
    assert!(Host::spawn(config(vec![2, 1])).is_err());
    assert!(Host::spawn(config(vec![2, 2])).is_err());
    assert!(Host::spawn(config(vec![2, 3])).is_ok());
}
