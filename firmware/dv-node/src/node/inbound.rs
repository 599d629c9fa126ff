//! What other members say. Every message is checked in full before the engine hears of it.

use std::time::Instant;

use duty::{Duty, DutyKind};
use obol::duty::{Now, SlotLengths};
use obol::host::RefusedWhy;
use obol::{DutyType, HostEvent, Inbound, Protocol, consensus, parsigex};
use qbft::Member;

use super::combine::signatures_of;
use super::{Node, wall};
use crate::board::RefusedLabels;
use crate::obol_network::{AGREED_HERE, SIGNED_HERE, from_wire, partials_of};

impl Node {
    /// Something from the host.
    pub(crate) fn on_host(&mut self, event: HostEvent) {
        match event {
            HostEvent::Listening { addr } => tracing::info!(%addr, "listening for the other members"),
            HostEvent::PeerConnected { peer, addr } => {
                if let Some(member) = self.membership.member_of(&peer) {
                    tracing::info!(member = self.membership.name_of(member), %addr, "member connected");
                    let state = self.peers.entry(member).or_default();
                    state.connected = true;
                    state.address = Some(addr.to_string());
                    state.why_not = None;
                    let name = self.membership.name_of(member).to_owned();
                    self.monitoring
                        .p2p_peer_connection
                        .get_or_create(&crate::monitoring::Peer { peer: name })
                        .inc();
                    self.listening.connected(member, Instant::now());
                    self.tell_what_is_remembered(member);
                    self.resend_partials(&peer);
                    self.resend_exits(&peer);
                }
            }
            HostEvent::PeerConnectedAgain { peer } => {
                if let Some(member) = self.membership.member_of(&peer) {
                    self.tell_what_is_remembered(member);
                }
                self.resend_partials(&peer);
                self.resend_exits(&peer);
            }
            HostEvent::PeerDisconnected { peer, why } => {
                if let Some(member) = self.membership.member_of(&peer) {
                    tracing::warn!(member = self.membership.name_of(member), why, "member disconnected");
                    let state = self.peers.entry(member).or_default();
                    state.connected = false;
                    state.why_not = Some(why);
                }
            }
            HostEvent::DialFailed { peer, why } => {
                if let Some(member) = self.membership.member_of(&peer) {
                    tracing::debug!(
                        member = self.membership.name_of(member),
                        why,
                        "member cannot be reached"
                    );
                    self.peers.entry(member).or_default().why_not = Some(why);
                }
            }
            HostEvent::Refused { peer_id, addr, why } => {
                tracing::warn!(?peer_id, %addr, %why, "a connection was turned away");
                match why {
                    RefusedWhy::OurOwnIdentity => self.own_identity_seen = Some(Instant::now()),
                    RefusedWhy::NotAMember => {}
                }
            }
            HostEvent::Inbound(message) => self.on_message(message),
            HostEvent::PeerInfo { peer, info } => {
                let Some(member) = self.membership.member_of(&peer) else { return };
                let monotonic_ms = self.monotonic_ms();
                self.clock.member(member.0, info.clock_offset_ms, info.round_trip_ms, monotonic_ms);
                let peer = self.peers.entry(member).or_default();
                peer.was_hearth |= info.dv_client == obol::peerinfo::DV_CLIENT;
                peer.info = Some(info);
                self.update_trust();
            }
        }
    }

    fn on_message(&mut self, message: Inbound) {
        let Some(sender) = self.membership.member_of(&message.peer) else { return };
        match message.protocol {
            Protocol::Qbft => self.on_agreement(sender, &message.bytes),
            Protocol::ParSigEx => self.on_partials(sender, &message.bytes),
            Protocol::Priority => self.on_priority_request(sender, &message.bytes, message.responder),
            // The host answers these by itself.
            Protocol::PeerInfo => {}
            // There is a cluster already: whoever still speaks of its making gets no answer.
            Protocol::DkgSync
            | Protocol::DkgSignV1
            | Protocol::DkgBroadcastV1
            | Protocol::DkgSignV2
            | Protocol::DkgBroadcastV2
            | Protocol::DkgShare
            | Protocol::DkgDeal
            | Protocol::DkgResponse
            | Protocol::DkgJustification
            | Protocol::DkgPublicShare => {}
        }
    }

    fn on_agreement(&mut self, sender: Member, bytes: &[u8]) {
        let Some(now) = self.obol_now() else { return };
        let context = consensus::Context {
            operators: &self.operators,
            validators: self.validators.len(),
            kinds: &AGREED_HERE,
            now,
        };
        match consensus::receive(bytes, &context) {
            Ok(received) => {
                let Some(duty) = from_wire(received.duty).filter(|duty| self.may_exist(*duty)) else {
                    return;
                };
                let values = received
                    .values
                    .into_iter()
                    .map(|(digest, bytes)| duty::Value { digest, bytes })
                    .collect();
                self.step(duty::Event::Agreement { duty, message: received.message, values });
            }
            // Members may do more than we do.
            Err(consensus::Refusal::NotDoneHere) => {}
            Err(refusal) => self.count_refused(sender, "qbft", &refusal),
        }
    }

    /// Info-sync belongs to the last slot of each epoch; agreements on it elsewhere would only cost memory.
    fn may_exist(&self, duty: Duty) -> bool {
        let Some(running) = &self.running else { return false };
        let timing = &running.chain.timing;
        duty.kind != DutyKind::InfoSync
            || timing.epoch_of(duty.slot.saturating_add(1)) != timing.epoch_of(duty.slot)
    }

    pub(super) fn on_partials(&mut self, sender: Member, bytes: &[u8]) {
        let Some(now) = self.obol_now() else { return self.early.keep(sender, bytes) };
        let Ok(members) = u8::try_from(self.operators.len()) else { return };
        let context = parsigex::Context {
            validators: &self.validators,
            members,
            kinds: &SIGNED_HERE,
            now,
            sender: sender.0.saturating_add(1),
        };
        match parsigex::receive(bytes, &context) {
            Ok(received) if received.duty.kind == DutyType::Exit => self.on_exit_partials(sender, &received),
            Ok(received) => {
                let Some(duty) = from_wire(received.duty) else { return };
                let set = partials_of(received);
                self.tell_what_was_heard(sender, duty, &set, bytes);
                let signatures = signatures_of(&set);
                self.step(duty::Event::Partials { duty, sender, set });
                self.expect_partials(duty, signatures);
            }
            Err(parsigex::Refusal::NotDoneHere) => {}
            // Told by a Hearth what came to it in our name.
            Err(parsigex::Refusal::NotTheSendersShare(share)) if share == self.membership.share_index => {
                self.on_our_name(sender, bytes);
            }
            // What it remembers of us may be of another day, when the cluster had more validators than this box knows of.
            Err(
                parsigex::Refusal::Expired
                | parsigex::Refusal::TooManyEntries
                | parsigex::Refusal::UnknownValidator,
            ) if self.on_late_partials(sender, bytes) => {}
            Err(refusal) => self.count_refused(sender, "parsigex", &refusal),
        }
    }

    pub(crate) fn count_refused(&self, sender: Member, protocol: &str, refusal: &dyn std::error::Error) {
        let member = self.membership.name_of(sender).to_owned();
        tracing::debug!(member, protocol, %refusal, "a message was refused");
        self.board
            .metrics
            .refused
            .get_or_create(&RefusedLabels { member, protocol: protocol.to_owned() })
            .inc();
    }

    /// The present as the codecs want it; `None` before the chain is known.
    pub(crate) fn obol_now(&self) -> Option<Now> {
        let timing = &self.running.as_ref()?.chain.timing;
        let since_genesis_ms = wall().0.saturating_sub(timing.genesis_ms);
        Some(Now {
            since_genesis_ns: since_genesis_ms.saturating_mul(1_000_000),
            lengths: SlotLengths {
                slot_ns: timing.slot_ms.saturating_mul(1_000_000),
                slots_per_epoch: timing.slots_per_epoch,
            },
        })
    }
}
