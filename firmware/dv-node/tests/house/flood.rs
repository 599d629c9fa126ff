//! A member that floods: it has its identity, keeps to the framing, and sends as much as one connection takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chain::{Epoch, SignatureBytes};
use obol::host::parse_member_address;
use obol::signed::{Signed, SignedRandao};
use obol::{Duty, DutyType, Host, HostConfig, HostEvent, Protocol, parsigex};

use super::House;

/// Messages put into the queue before it is looked at again: the queue's own length.
const BATCH: usize = obol::host::OUTGOING_QUEUE;

/// A member that floods until it is dropped.
pub struct Flood {
    task: tokio::task::JoinHandle<()>,
    queued: Arc<AtomicU64>,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flood {
    /// The last member of the cluster floods the first one. Its own program must not run.
    pub async fn start(house: &House) -> Self {
        let (hostile, target) = (house.members.last().unwrap(), &house.members[0]);
        let share_index = u8::try_from(house.members.len()).unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", target.port, target.peer_id);
        let (peer_id, address) = parse_member_address(&address).unwrap();
        let (host, mut events) = Host::spawn(HostConfig {
            identity: hostile.identity().secret_bytes().clone(),
            listen: Vec::new(),
            external: Vec::new(),
            members: vec![obol::Member { peer_id, addrs: vec![address] }],
            accepts: obol::host::Accepts::RunMode,
            info: obol::peerinfo::OwnInfo {
                charon_version: "v1.10.3".to_owned(),
                lock_hash: house.created.view.lock_hash,
                git_hash: "unknown".to_owned(),
                nickname: "flood".to_owned(),
                builder_api_enabled: false,
            },
        })
        .unwrap();
        let connected = async {
            while !matches!(events.recv().await.expect("the host runs"), HostEvent::PeerConnected { .. }) {}
        };
        assert!(tokio::time::timeout(super::PATIENCE, connected).await.is_ok(), "in vain: a connection");
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let queued = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&queued);
        let keys = house.created.group_public_keys();
        let chain = house.beacon.inner.lock().unwrap().chain.clone();
        let task = tokio::spawn(async move {
            let garbage = vec![0xa5; 4 << 10];
            let large = vec![0x5a; 1 << 20];
            let mut round = 0_u8;
            loop {
                round = round.wrapping_add(1);
                for number in 0..BATCH {
                    // Partial signatures that read well, of a share that is its own, for duties to come; each another one.
                    let salt = u8::try_from(number % 256).unwrap();
                    let slot = chain.slot_now() + u64::from(salt % 8);
                    let epoch = Epoch(slot / chain.slots_per_epoch);
                    let mut signature = SignatureBytes([round; 96]);
                    signature.0[0] = salt;
                    let signed = Signed::Randao(SignedRandao { epoch, signature });
                    let duty = Duty::new(slot, DutyType::Randao);
                    let partials = parsigex::encode(duty, share_index, keys.iter().map(|key| (key, &signed)));
                    let (protocol, message): (_, &[u8]) = match number % 8 {
                        0 => (Protocol::Qbft, &garbage),
                        1 => (Protocol::ParSigEx, &garbage),
                        2 if number < 16 => (Protocol::Qbft, &large),
                        _ => (Protocol::ParSigEx, &partials),
                    };
                    host.send(&peer_id, protocol, message).unwrap();
                }
                count.fetch_add(u64::try_from(BATCH).unwrap(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { task, queued }
    }

    /// Messages put into the queue so far; the oldest of them give way when it is full.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }
}
