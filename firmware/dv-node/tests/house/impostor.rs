//! A member in the test's hands: its identity, the framing, and whatever the test sends and hears.

use obol::host::parse_member_address;
use obol::{Host, HostConfig, HostEvent, HostHandle, Protocol};
use tokio::sync::mpsc;

use super::House;

/// Speaks with the first member as the last one. That one's own program must not run.
pub struct Impostor {
    host: HostHandle,
    events: mpsc::Receiver<HostEvent>,
    target: cluster::PeerId,
}

impl Impostor {
    /// Connects.
    pub async fn connect(house: &House) -> Self {
        let (member, first) = (house.members.last().unwrap(), &house.members[0]);
        let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", first.port, first.peer_id);
        let (target, address) = parse_member_address(&address).unwrap();
        let (host, mut events) = Host::spawn(HostConfig {
            identity: member.identity().secret_bytes().clone(),
            listen: Vec::new(),
            external: Vec::new(),
            members: vec![obol::Member { peer_id: target, addrs: vec![address] }],
            accepts: obol::host::Accepts::RunMode,
            info: obol::peerinfo::OwnInfo {
                charon_version: "v1.10.3".to_owned(),
                lock_hash: house.created.view.lock_hash,
                git_hash: "unknown".to_owned(),
                nickname: "impostor".to_owned(),
                builder_api_enabled: false,
            },
        })
        .unwrap();
        let connected = async {
            while !matches!(events.recv().await.expect("the host runs"), HostEvent::PeerConnected { .. }) {}
        };
        assert!(tokio::time::timeout(super::PATIENCE, connected).await.is_ok(), "in vain: a connection");
        Self { host, events, target }
    }

    /// The next message with partial signatures from the first member.
    pub async fn partials(&mut self) -> Vec<u8> {
        loop {
            if let HostEvent::Inbound(message) = self.events.recv().await.unwrap()
                && message.protocol == Protocol::ParSigEx
            {
                return message.bytes.clone();
            }
        }
    }

    /// Sends one.
    pub fn send_partials(&self, bytes: &[u8]) {
        self.host.send(&self.target, Protocol::ParSigEx, bytes).unwrap();
    }
}
