//! Builds the libp2p node and starts the tasks around it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::core::upgrade::Version;
use libp2p::identity::{self, Keypair, secp256k1};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, connection_limits, dcutr, identify, noise, ping, relay, swarm,
    tcp, yamux,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::dials::{Dials, is_loopback};
use super::door::Door;
use super::peer::{Inboxes, Peer};
use super::relay::MAX_RELAYS;
use super::reservations::Shown;
use super::streams::Streams;
use super::swarm::{Behaviour, Loop};
use super::{
    HostConfig, HostError, HostEvent, HostHandle, INCOMING_MESSAGES, INCOMING_QUEUE,
    MAX_CONNECTIONS_PER_PEER, incoming, legacy, outgoing, unix_ms,
};
use crate::peerinfo;
use crate::protocol::Protocol;

/// What identify says we speak, as the reference's library does.
const IDENTIFY_PROTOCOL: &str = "ipfs/0.1.0";
/// Pings of one connection.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A ping unanswered for this long closes its connection.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions of relays who we are that wait to be answered.
const RELAY_QUESTIONS: usize = 16;
/// Members stay connected.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Streams one connection may have open: a burst of messages on new streams, twice.
const MAX_STREAMS: usize = 512;

pub(super) fn spawn(config: HostConfig) -> Result<(HostHandle, mpsc::Receiver<HostEvent>), HostError> {
    let HostConfig { identity: mut secret, listen, external, members, info, accepts } = config;
    let secret =
        secp256k1::SecretKey::try_from_bytes(secret.as_mut_slice()).map_err(|_| HostError::Identity)?;
    let keypair = Keypair::from(secp256k1::Keypair::from(secret));
    let own = cluster::PeerId::from_bytes(&keypair.public().to_peer_id().to_bytes())
        .map_err(|_| HostError::Identity)?;

    let mut peers = BTreeMap::new();
    let mut by_libp2p = BTreeMap::new();
    let mut inboxes = Vec::new();
    let mut addrs = Vec::new();
    for member in members {
        let libp2p =
            identity::PeerId::from_bytes(&member.peer_id.to_bytes()).map_err(|_| HostError::Identity)?;
        let (peer, boxes) = Peer::new(member.peer_id, libp2p);
        by_libp2p.insert(libp2p, Arc::clone(&peer));
        addrs.push((libp2p, member.addrs));
        inboxes.push((Arc::clone(&peer), boxes));
        if member.peer_id == own || peers.insert(member.peer_id, peer).is_some() {
            return Err(HostError::Members(member.peer_id));
        }
    }

    let (opens, open_requests) = mpsc::channel(64);
    let (questions, asked) = mpsc::channel(RELAY_QUESTIONS);
    let parts = Parts {
        agent: format!("obolnetwork-charon/{}", info.charon_version),
        streams: Streams::new(by_libp2p.clone(), accepts, open_requests, questions),
        members: by_libp2p.keys().copied().collect(),
        addrs: addrs.iter().flat_map(|(_, addrs)| addrs.clone()).collect(),
    };
    let mut swarm = build_swarm(&keypair, parts)?;
    let loopback = listen.iter().chain(&external).any(is_loopback);
    for addr in listen {
        swarm
            .listen_on(addr.clone())
            .map_err(|source| HostError::Listen { addr, source: Box::new(source) })?;
    }
    external.into_iter().for_each(|addr| swarm.add_external_address(addr));

    // A place for every message all peers may have under way, so that no peer ever waits for another's.
    let (events, received) = mpsc::channel(by_libp2p.len().max(1) * INCOMING_MESSAGES + 64);
    let (commands, command_requests) = mpsc::channel(16);
    let relays = Shown::default();
    let handle = HostHandle { own, peers: Arc::new(peers), opens, commands, relays: relays.clone() };
    let tasks = start_tasks(&handle, inboxes, asked, &events, Arc::new(info));
    let dials = Dials::new(*swarm.local_peer_id(), addrs, loopback, tokio::time::Instant::now());
    tokio::spawn(Loop::new(swarm, by_libp2p, dials, relays, events).run(command_requests, tasks));
    Ok((handle, received))
}

/// What the behaviour is made of.
struct Parts {
    agent: String,
    streams: Streams,
    members: BTreeSet<PeerId>,
    /// Where members are configured to be.
    addrs: Vec<Multiaddr>,
}

fn behaviour(keypair: &Keypair, relay: relay::client::Behaviour, parts: Parts) -> Behaviour {
    let per_peer = u32::try_from(MAX_CONNECTIONS_PER_PEER).unwrap_or(2);
    // Direct ones and relayed ones, and one more of each than we keep: the newest takes the place of the oldest once it is
    // established.
    let per_peer = 2 * (per_peer + 1);
    let peers = u32::try_from(parts.members.len() + MAX_RELAYS).unwrap_or(u32::MAX);
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established_per_peer(Some(per_peer))
        .with_max_established(Some(peers.saturating_mul(per_peer)));
    Behaviour {
        door: Door::new(parts.members, parts.addrs.iter()),
        limits: connection_limits::Behaviour::new(limits),
        streams: parts.streams,
        relay,
        hole_punching: dcutr::Behaviour::new(keypair.public().to_peer_id()),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
                .with_agent_version(parts.agent)
                .with_push_listen_addr_updates(true)
                .with_cache_size(0), // What a peer announces is dialled by our own rules only (`dials`).
        ),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT),
        ),
    }
}

fn build_swarm(keypair: &Keypair, parts: Parts) -> Result<Swarm<Behaviour>, HostError> {
    let transport = |error: Box<dyn std::error::Error + Send + Sync>| HostError::Transport(error);
    let yamux = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        legacy::Config(config)
    };
    let config = |config: swarm::Config| {
        config
            .with_idle_connection_timeout(IDLE_TIMEOUT)
            .with_max_negotiating_inbound_streams(INCOMING_QUEUE)
            .with_notify_handler_buffer_size(NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))
            // One name is offered: the message goes out with the negotiation, which saves a round trip.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
    };
    let base = || {
        SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux)
            .map_err(|error| transport(Box::new(error)))
    };
    match base()?.with_dns() {
        Ok(builder) => {
            let builder = builder
                .with_relay_client(noise::Config::new, yamux)
                .map_err(|error| transport(Box::new(error)))?
                .with_behaviour(|keypair, relay| behaviour(keypair, relay, parts));
            Ok(builder.map_err(|error| transport(error.into()))?.with_swarm_config(config).build())
        }
        Err(error) => {
            // Most members have numeric addresses; they must not suffer from a resolver that is not set up.
            tracing::warn!(%error, "no DNS: members with a host name as address cannot be dialled");
            let builder = base()?
                .with_relay_client(noise::Config::new, yamux)
                .map_err(|error| transport(Box::new(error)))?
                .with_behaviour(|keypair, relay| behaviour(keypair, relay, parts));
            Ok(builder.map_err(|error| transport(error.into()))?.with_swarm_config(config).build())
        }
    }
}

fn start_tasks(
    handle: &HostHandle,
    inboxes: Vec<(Arc<Peer>, Inboxes)>,
    asked: mpsc::Receiver<swarm::Stream>,
    events: &mpsc::Sender<HostEvent>,
    info: Arc<super::OwnInfo>,
) -> JoinSet<()> {
    let started_ms = unix_ms();
    let answer: incoming::AnswerInfo = {
        let info = Arc::clone(&info);
        Arc::new(move || peerinfo::encode(&info, unix_ms(), started_ms))
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(incoming::answer_relays(asked, Arc::clone(&answer)));
    for (peer, boxes) in inboxes {
        for (protocol, accepted) in boxes {
            tasks.spawn(incoming::run(
                Arc::clone(&peer),
                protocol,
                accepted,
                events.clone(),
                Arc::clone(&answer),
            ));
        }
        tasks.spawn(outgoing::run(Arc::clone(&peer), handle.opens.clone()));
        tasks.spawn(ask_info(
            peer,
            handle.opens.clone(),
            events.clone(),
            Arc::clone(&answer),
            info.lock_hash,
        ));
    }
    tasks
}

/// Asks a member for its peerinfo when it connects and every minute from then on.
async fn ask_info(
    peer: Arc<Peer>,
    opens: mpsc::Sender<super::streams::Open>,
    events: mpsc::Sender<HostEvent>,
    question: incoming::AnswerInfo,
    lock_hash: [u8; 32],
) {
    let mut minute = tokio::time::interval(Duration::from_secs(peerinfo::INTERVAL_S));
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = peer.connected.notified() => minute.reset(),
            _ = minute.tick() => {}
        }
        if peer.state().addr.is_none() {
            continue;
        }
        let asked = Instant::now();
        let Ok(answer) = outgoing::request(&peer, &opens, Protocol::PeerInfo, &question()).await else {
            continue;
        };
        let round_trip_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        match peerinfo::check(&answer, &lock_hash, unix_ms(), round_trip_ms) {
            Ok(info) => {
                if events.send(HostEvent::PeerInfo { peer: peer.id, info }).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(peer = %peer.id, %error, "peerinfo ignored"),
        }
    }
}
