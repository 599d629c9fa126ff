//! Members that meet through a relay, on loopback: the relay is libp2p's own relay server.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(clippy::wildcard_enum_match_arm, reason = "each test looks for one event among many")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cluster::{IdentityKey, PeerId};
use futures::StreamExt as _;
use libp2p::identity::{Keypair, secp256k1};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, dcutr, identify, noise, ping, relay, tcp, yamux};
use obol::host::{OwnInfo, RefusedWhy, Relay, RequestError};
use obol::{Host, HostConfig, HostEvent, HostHandle, Inbound, Member, Protocol};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(180);

fn secret(seed: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([seed; 32])
}

fn keypair(seed: u8) -> Keypair {
    Keypair::from(secp256k1::Keypair::from(
        secp256k1::SecretKey::try_from_bytes(secret(seed).as_mut_slice()).unwrap(),
    ))
}

fn peer_id(seed: u8) -> PeerId {
    PeerId::from_public_key(&IdentityKey::from_bytes(secret(seed)).unwrap().public_key())
}

/// The seeds of two members, the one with the smaller identity first.
fn smaller_and_greater() -> (u8, u8) {
    if peer_id(1).to_bytes() < peer_id(2).to_bytes() { (1, 2) } else { (2, 1) }
}

#[derive(NetworkBehaviour)]
struct RelayServer {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The limits of the reference's relay.
fn as_the_reference_is() -> relay::Config {
    relay::Config {
        max_circuits: 512,
        max_circuits_per_peer: 512,
        max_circuit_duration: Duration::from_secs(3600),
        max_circuit_bytes: 32 << 20,
        ..relay::Config::default()
    }
}

struct RunningRelay {
    relay: Relay,
    /// Circuits opened: from whom to whom.
    circuits: mpsc::UnboundedReceiver<(String, String)>,
    task: JoinHandle<()>,
}

/// A relay on loopback; `port` 0 takes a free one.
async fn start_relay(port: u16) -> RunningRelay {
    start_relay_with(port, as_the_reference_is()).await
}

async fn start_relay_with(port: u16, limits: relay::Config) -> RunningRelay {
    let mut swarm = SwarmBuilder::with_existing_identity(keypair(200))
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|keypair| RelayServer {
            relay: relay::Behaviour::new(keypair.public().to_peer_id(), limits),
            identify: identify::Behaviour::new(identify::Config::new("x".to_owned(), keypair.public())),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.listen_on(format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(addr.clone());
    let relay = Relay { id: *swarm.local_peer_id(), addrs: vec![addr] };
    let (opened, circuits) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(RelayServerEvent::Relay(relay::Event::CircuitReqAccepted {
                src_peer_id,
                dst_peer_id,
            })) = swarm.select_next_some().await
            {
                let _ = opened.send((src_peer_id.to_base58(), dst_peer_id.to_base58()));
            }
        }
    });
    RunningRelay { relay, circuits, task }
}

struct Node {
    id: PeerId,
    handle: HostHandle,
    events: mpsc::Receiver<HostEvent>,
}

/// A member that knows the others by name only. Without `listen` nobody can dial it directly.
async fn start(seed: u8, others: &[u8], relay: &Relay, listen: &[&str]) -> Node {
    let members = others.iter().map(|seed| Member { peer_id: peer_id(*seed), addrs: Vec::new() });
    let (handle, events) = Host::spawn(HostConfig {
        identity: secret(seed),
        listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(),
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
    handle.set_relays(vec![relay.clone()]).await.unwrap();
    Node { id: peer_id(seed), handle, events }
}

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

/// Waits until something that the host shows is true.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !holds() {
            look.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

fn is_reserved(node: &Node) -> bool {
    node.handle.relays().iter().any(|relay| relay.reserved)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_cannot_be_dialled_meet_through_a_relay_and_lose_nothing() {
    let mut relay = start_relay(0).await;
    let (small, great) = smaller_and_greater();
    let mut one = start(small, &[great], &relay.relay, &[]).await;
    let mut two = start(great, &[small], &relay.relay, &[]).await;
    let meet = || [&one, &two].iter().all(|node| node.handle.peers()[0].state.relayed);
    eventually("they meet", meet).await;
    for burst in 0..20_u8 {
        for number in 0..128_u8 {
            one.handle.send(&two.id, Protocol::ParSigEx, &[burst, number]).unwrap();
            two.handle.send(&one.id, Protocol::ParSigEx, &[burst, number]).unwrap();
        }
        for node in [&mut one, &mut two] {
            let mut seen = [false; 128];
            for _ in 0..128 {
                let inbound = next_inbound(node).await;
                assert_eq!(inbound.bytes[0], burst);
                assert!(!std::mem::replace(&mut seen[usize::from(inbound.bytes[1])], true), "twice");
            }
        }
    }
    let (handle, to) = (two.handle.clone(), one.id);
    let asked = tokio::spawn(async move { handle.request(&to, Protocol::Priority, b"question").await });
    next_inbound(&mut one).await.responder.take().unwrap().respond(b"answer".to_vec());
    assert_eq!(asked.await.unwrap().unwrap(), b"answer");
    let state = one.handle.peers()[0].state.clone();
    assert!(state.relayed && state.direct_connections == 0, "{state:?}");
    for node in [&one, &two] {
        assert_eq!(node.handle.peers()[0].counters.inbound_reset, 0);
    }
    // The one with the smaller identity went through the relay, and nobody else.
    while let Ok((from, to)) = relay.circuits.try_recv() {
        assert_eq!((from, to), (one.id.to_string(), two.id.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_restarts_is_used_again() {
    let relay = start_relay(0).await;
    let (small, great) = smaller_and_greater();
    let one = start(small, &[great], &relay.relay, &[]).await;
    let mut two = start(great, &[small], &relay.relay, &[]).await;
    eventually("they meet", || one.handle.peers()[0].state.relayed).await;
    one.handle.send(&two.id, Protocol::Qbft, b"before").unwrap();
    assert_eq!(next_inbound(&mut two).await.bytes, b"before");
    let port = relay.relay.addrs[0].iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    relay.task.abort();
    let _ = relay.task.await;
    until(&mut two.events, |event| matches!(event, HostEvent::PeerDisconnected { .. }).then_some(())).await;
    eventually("the reservation is known to be lost", || !is_reserved(&one) && !is_reserved(&two)).await;
    let why = one.handle.relays()[0].why_not.clone();
    assert!(why.is_some(), "it says why");

    let again = start_relay(port.unwrap()).await;
    assert_eq!(again.relay, relay.relay);
    eventually("both reserve again", || is_reserved(&one) && is_reserved(&two)).await;
    one.handle.send(&two.id, Protocol::Qbft, b"after").unwrap();
    assert_eq!(next_inbound(&mut two).await.bytes, b"after");
}

/// A relay ends a circuit that has carried its measure, in the middle of whatever is on it (obol.md 4.2, 4.4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_a_relay_reset_is_tried_once_more_and_only_once() {
    const MEASURE: usize = 512 << 10;
    let limits =
        relay::Config { max_circuit_bytes: u64::try_from(MEASURE).unwrap(), ..as_the_reference_is() };
    let mut relay = start_relay_with(0, limits).await;
    let (small, great) = smaller_and_greater();
    let one = start(small, &[great], &relay.relay, &[]).await;
    let mut two = start(great, &[small], &relay.relay, &[]).await;
    let to = two.id;
    tokio::spawn(async move {
        while let Some(event) = two.events.recv().await {
            if let HostEvent::Inbound(mut inbound) = event {
                let length = u32::try_from(inbound.bytes.len()).unwrap();
                inbound.responder.take().unwrap().respond(length.to_be_bytes().to_vec());
            }
        }
    });
    let retried = || one.handle.peers()[0].counters.retried;
    let ask = |length: usize| {
        let handle = one.handle.clone();
        async move { handle.request(&to, Protocol::Priority, &vec![7; length]).await }
    };
    let large = MEASURE * 5 / 8;
    let answered = Ok(u32::try_from(large).unwrap().to_be_bytes().to_vec());
    eventually("they meet", || one.handle.peers()[0].state.relayed).await;
    assert_eq!((ask(large).await, retried()), (answered.clone(), 0), "the first fits");
    assert_eq!(
        (ask(large).await, retried()),
        (answered, 1),
        "the second breaks the circuit and goes on a new one"
    );

    // What fits on no circuit breaks two, and is given up.
    let refused = ask(MEASURE * 2).await;
    assert!(matches!(refused, Err(RequestError::Reset)), "{refused:?}");
    assert_eq!(retried(), 2);
    let mut opened = 0;
    while let Ok((from, _)) = relay.circuits.try_recv() {
        assert_eq!(from, one.id.to_string());
        opened += 1;
    }
    assert!((2..=4).contains(&opened), "{opened} circuits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_turned_away_through_relays_too() {
    let relay = start_relay(0).await;
    let mut one = start(1, &[2], &relay.relay, &[]).await;
    eventually("reserved", || is_reserved(&one)).await;
    // A stranger that knows the member and has the smaller identity, so that it goes through the relay.
    let smaller = (3..100).find(|seed| peer_id(*seed).to_bytes() < peer_id(1).to_bytes()).unwrap();
    let stranger = start(smaller, &[1], &relay.relay, &[]).await;
    let (peer, why) = until(&mut one.events, |event| match event {
        HostEvent::Refused { peer_id, why, addr } => Some((peer_id.unwrap_or(addr.to_string()), why)),
        _ => None,
    })
    .await;
    assert!(peer.contains(&stranger.id.to_string()), "{peer}");
    assert_eq!(why, RefusedWhy::NotAMember);
    assert!(stranger.handle.peers()[0].counters.sent == 0);

    // A relay that is named no more is a stranger too.
    one.handle.set_relays(Vec::new()).await.unwrap();
    eventually("gone", || one.handle.relays().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_met_through_a_relay_go_on_directly() {
    let relay = start_relay(0).await;
    let loopback = ["/ip4/127.0.0.1/tcp/0"];
    let mut one = start(1, &[2], &relay.relay, &loopback).await;
    let two = start(2, &[1], &relay.relay, &loopback).await;
    let direct = |node: &Node| {
        let state = node.handle.peers()[0].state.clone();
        state.direct_connections > 0 && !state.relayed
    };
    eventually("both are connected directly", || direct(&one) && direct(&two)).await;
    two.handle.send(&one.id, Protocol::Qbft, b"without the relay").unwrap();
    relay.task.abort();
    assert_eq!(next_inbound(&mut one).await.bytes, b"without the relay");
    assert!(direct(&one));
}

#[derive(NetworkBehaviour)]
struct Puncher {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    hole_punching: dcutr::Behaviour,
}

/// A member of the library's own making, which announces no address of its own in identify.
fn puncher(seed: u8) -> Swarm<Puncher> {
    let mut swarm = SwarmBuilder::with_existing_identity(keypair(seed))
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|keypair, relay| Puncher {
            relay,
            identify: identify::Behaviour::new(
                identify::Config::new("x".to_owned(), keypair.public()).with_hide_listen_addrs(true),
            ),
            ping: ping::Behaviour::default(),
            hole_punching: dcutr::Behaviour::new(keypair.public().to_peer_id()),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    swarm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_punching_leads_to_a_direct_connection() {
    let relay = start_relay(0).await;
    let (small, great) = smaller_and_greater();
    let one = start(small, &[great], &relay.relay, &["/ip4/127.0.0.1/tcp/0"]).await;
    let mut other = puncher(great);
    let mut circuit = relay.relay.addrs[0].clone();
    circuit.push(libp2p::multiaddr::Protocol::P2p(relay.relay.id));
    circuit.push(libp2p::multiaddr::Protocol::P2pCircuit);
    other.listen_on(circuit).unwrap();
    tokio::spawn(async move {
        loop {
            // The library tries three times in a circuit, and both sides dial at once: where all three collided, anew.
            if let SwarmEvent::Behaviour(PuncherEvent::HolePunching(event)) = other.select_next_some().await
                && event.result.is_err()
            {
                let _gone_already = other.disconnect_peer_id(event.remote_peer_id);
            }
        }
    });
    eventually("direct", || one.handle.peers()[0].state.direct_connections > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_may_ask_who_we_are_and_nothing_else() {
    // Another host plays the relay: it is connected as one, and speaks as a member would.
    let nobody = start_relay(0).await;
    let mut host = start(50, &[1], &nobody.relay, &["/ip4/127.0.0.1/tcp/0"]).await;
    let addr = until(&mut host.events, |event| match event {
        HostEvent::Listening { addr } => Some(addr),
        _ => None,
    })
    .await;
    let as_relay = Relay { id: libp2p::PeerId::from_bytes(&host.id.to_bytes()).unwrap(), addrs: vec![addr] };
    let one = start(1, &[2], &as_relay, &[]).await;
    until(&mut host.events, |event| matches!(event, HostEvent::PeerConnected { .. }).then_some(())).await;
    assert!(host.handle.request(&one.id, Protocol::PeerInfo, b"").await.is_ok());
    for protocol in [Protocol::Priority, Protocol::Qbft, Protocol::ParSigEx] {
        let refused = host.handle.request(&one.id, protocol, b"x").await;
        assert!(matches!(refused, Err(RequestError::Unsupported | RequestError::Reset)), "{refused:?}");
    }
    assert!(one.handle.peers()[0].state.addr.is_none(), "it is no member");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_hold_half_open_connections_keep_no_member_out() {
    let nobody = start_relay(0).await;
    // The member is configured to be at 127.0.0.1 and dials us from there.
    let members = vec![Member { peer_id: peer_id(2), addrs: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()] }];
    let info = OwnInfo {
        charon_version: "v1.10.3".into(),
        lock_hash: [9; 32],
        git_hash: "unknown".into(),
        nickname: String::new(),
        builder_api_enabled: false,
    };
    let (handle, mut events) = Host::spawn(HostConfig {
        identity: secret(1),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        external: Vec::new(),
        members,
        accepts: obol::host::Accepts::Ceremonies,
        info,
    })
    .unwrap();
    let addr = until(&mut events, |event| match event {
        HostEvent::Listening { addr } => Some(addr),
        _ => None,
    })
    .await;
    let port = addr
        .iter()
        .find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        })
        .unwrap();
    // Forty strangers with forty addresses open connections and say nothing.
    let mut silent: Vec<TcpStream> = Vec::new();
    for host in 2..42_u8 {
        for _ in 0..10 {
            silent.extend(connect_from(host, port).await);
        }
    }
    assert!(silent.len() > 100);
    let mut two = start(2, &[1], &nobody.relay, &[]).await;
    two.handle.set_addresses(&peer_id(1), vec![addr]).await.unwrap();
    until(&mut two.events, |event| matches!(event, HostEvent::PeerConnected { .. }).then_some(())).await;
    assert!(
        timeout(PATIENCE, async {
            while handle.peers()[0].state.addr.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .is_ok()
    );
    drop(silent);
}

/// Connects from 127.0.0.`host`.
async fn connect_from(host: u8, port: u16) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).ok()?;
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.ok()?;
    stream.into_std().ok()
}
