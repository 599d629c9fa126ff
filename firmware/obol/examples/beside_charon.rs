//! Puts our host in the place of one operator of a cluster whose other operators run Charon, and says what happens:
//! connections, peerinfo, a priority exchange. For a developer with a Charon binary; `docs/conformance-obol.md` says how.
//!
//! `cargo run -p obol --example beside_charon -- LOCK KEY RELAY-DESCRIPTION LISTEN SECONDS GENESIS-TIME SLOT-SECONDS
//! SLOTS-PER-EPOCH [CAPTURE-FOLDER]`

#![expect(clippy::print_stdout, reason = "a tool for a developer's terminal")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::{IdentityKey, Lock, Network, PeerId};
use obol::duty::{Now, SlotLengths};
use obol::host::{OwnInfo, read_description};
use obol::{Duty, DutyType, Host, HostConfig, HostEvent, Member, Protocol, infosync, peerinfo, priority};
use prost::Message as _;

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lock, key, relay, listen, seconds, genesis, slot_s, per_epoch, rest @ ..] = args.as_slice() else {
        return Err("see the head of this file for the arguments".into());
    };
    let chain = Chain { genesis_s: genesis.parse()?, slot_s: slot_s.parse()?, per_epoch: per_epoch.parse()? };
    let capture = rest.first().map(PathBuf::from);
    let lock = Lock::from_value(serde_json::from_slice(&std::fs::read(lock)?)?)?;
    let key = IdentityKey::from_file_text(&std::fs::read_to_string(key)?)?;
    let network = Network {
        name: "devnet".to_owned(),
        chain_id: 1337,
        genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
        genesis_time: 0,
    };
    let view = lock.verify(&[network])?;
    let own = PeerId::from_public_key(&key.public_key());
    let others: Vec<_> = view.operators.iter().filter(|operator| operator.peer_id != own).collect();
    let members = others.iter().map(|operator| Member { peer_id: operator.peer_id, addrs: Vec::new() });
    let listen = if listen == "none" { Vec::new() } else { vec![listen.parse()?] };
    let (handle, mut events) = Host::spawn(HostConfig {
        identity: key.secret_bytes().clone(),
        listen,
        external: Vec::new(),
        members: members.collect(),
        accepts: obol::host::Accepts::RunMode,
        info: OwnInfo {
            charon_version: "v1.10.3".to_owned(),
            lock_hash: view.lock_hash,
            git_hash: "unknown".to_owned(),
            nickname: "beside".to_owned(),
            builder_api_enabled: false,
        },
    })?;
    handle.set_relays(vec![read_description(&std::fs::read(relay)?, true)?]).await?;
    println!("own {own}");
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut look = tokio::time::interval(Duration::from_secs(1));
    let mut last_asked = None;
    while Instant::now() < end {
        tokio::select! {
            event = events.recv() => match event {
                Some(HostEvent::Inbound(mut message)) => {
                    println!("inbound {} {:?} {} bytes", message.peer, message.protocol, message.bytes.len());
                    let kind = duty_of(message.protocol, &message.bytes).map_or(0, |duty| duty.r#type);
                    let name = format!("{:?}-{kind}-{}", message.protocol, message.peer);
                    keep(capture.as_ref(), &name, &message.bytes)?;
                    if message.protocol == Protocol::Priority
                        && let (Some(now), Some(responder)) = (chain.now(), message.responder.take())
                    {
                        let checked = priority::receive(&message.bytes, &message.peer, now);
                        println!("asked for {:?}", checked.as_ref().map(|(duty, _)| duty));
                        if let Ok((duty, _)) = checked {
                            let own = priority::sign(duty, &infosync::own_topics(false), &key);
                            responder.respond(own.encode_to_vec());
                        }
                    }
                }
                Some(event) => println!("{event:?}"),
                None => return Err("the host has stopped".into()),
            },
            _ = look.tick() => {
                let Some(slot) = chain.now().map(|now| now.since_genesis_ns / now.lengths.slot_ns) else { continue };
                if !infosync::is_due(slot, chain.per_epoch) || last_asked == Some(slot) {
                    continue;
                }
                last_asked = Some(slot);
                println!("slot {slot}; relays {:?}", handle.relays());
                for peer in handle.peers() {
                    println!("{} {:?} {:?}", peer.peer, peer.state, peer.counters);
                }
                let duty = Duty::new(slot, DutyType::InfoSync);
                let message = priority::sign(duty, &infosync::own_topics(false), &key);
                for operator in &others {
                    let (handle, to, bytes) = (handle.clone(), operator.peer_id, message.encode_to_vec());
                    let (capture, hash) = (capture.clone(), view.lock_hash);
                    tokio::spawn(async move {
                        let info = handle.request(&to, Protocol::PeerInfo, &[]).await;
                        if let Ok(info) = &info {
                            let _ = keep(capture.as_ref(), &format!("peerinfo-answer-{to}"), info);
                            println!("{to} peerinfo {:?}", peerinfo::check(info, &hash, unix_ms(), 0));
                        }
                        let answer = handle.request(&to, Protocol::Priority, &bytes).await;
                        if let (Ok(answer), Some(now)) = (&answer, chain.now()) {
                            let _ = keep(capture.as_ref(), &format!("priority-answer-{to}"), answer);
                            let checked = priority::receive(answer, &to, now);
                            return println!("{to} priority {:?}", checked.map(|(duty, said)| (duty, said.topics.len())));
                        }
                        println!("{to} priority {:?}", answer.map(|answer| answer.len()));
                    });
                }
            }
        }
    }
    Ok(())
}

/// The duty that a message is about.
fn duty_of(protocol: Protocol, bytes: &[u8]) -> Option<obol::wire::Duty> {
    if protocol == Protocol::Qbft {
        return obol::consensus::decode(bytes, 16).ok()?.msg?.duty;
    }
    if protocol == Protocol::ParSigEx {
        return obol::wire::ParSigExMsg::decode(bytes).ok()?.duty;
    }
    None
}

fn keep(folder: Option<&PathBuf>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    match folder {
        Some(folder) => std::fs::write(folder.join(name), bytes),
        None => Ok(()),
    }
}

/// Where the chain is.
#[derive(Clone, Copy)]
struct Chain {
    genesis_s: u64,
    slot_s: u64,
    per_epoch: u64,
}

impl Chain {
    fn now(self) -> Option<Now> {
        let since_genesis_ms = unix_ms().checked_sub(self.genesis_s.checked_mul(1000)?)?;
        let lengths =
            SlotLengths { slot_ns: self.slot_s.checked_mul(1_000_000_000)?, slots_per_epoch: self.per_epoch };
        Some(Now { since_genesis_ns: since_genesis_ms.checked_mul(1_000_000)?, lengths })
    }
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
