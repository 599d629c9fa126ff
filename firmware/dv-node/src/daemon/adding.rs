//! The daemon's part in adding validators to a cluster of this box: the key generation runs beside the cluster's node, which goes
//! on as it was, and the node serves the new lock after it.

use std::time::Duration;

use ipc::dkg::{Adding, KeyGeneration};
use ipc::{ClusterSetup, Problem, Sensitive};

use super::seat::Seat;
use super::{Daemon, disk};
use crate::folders::Room;
use crate::sealed;
use crate::setup::Membership;

/// A node that starts anew is silent about the slot in which it does, and needs a part of the next one to find its beacon node.
const SLOTS_APART: u64 = 2;
/// No node tells of proposals further ahead.
const LONGEST_PROPOSAL_SLOTS: u64 = 4;

/// A new lock of a cluster that can be served as soon as the node of before has ended.
pub(super) struct Ready {
    number: u8,
    setup: ClusterSetup,
    membership: Membership,
    room: Room,
}

impl Daemon {
    /// Our identity in the cluster that is to get validators. It is the one that this box serves.
    pub(super) fn identity_in(&self, adding: &Adding) -> Result<Sensitive, Problem> {
        let seat = self.seat_of(adding)?;
        if let Some(problem) = seat.halted() {
            return Err(problem.clone());
        }
        match &seat.membership {
            Some(membership) => Ok(Sensitive::new(membership.identity.to_file_text().to_string())),
            None => Err(Problem::new(
                "cluster_unreadable",
                "The files of this cluster cannot be used.",
                "Join it again with its lock and identity key, then add the validators.",
            )),
        }
    }

    /// Refuses addresses and relays at which the members' running nodes are met. The ceremony has the identity of this cluster's node:
    /// whoever it connects to there would take it for that node, and send it what is meant for the duties.
    pub(super) fn is_apart_from_nodes(&self, wanted: &KeyGeneration, adding: &Adding) -> Result<(), Problem> {
        let present = self.seat_of(adding)?.place.store.load_cluster().map_err(|error| disk(&error))?;
        let Some(present) = present else { return Err(gone()) };
        let usual = || obol::host::DEFAULT_RELAYS.map(str::to_owned).to_vec();
        let relays = present.relays.unwrap_or_else(usual);
        let shared = |ours: &[String], theirs: &[String]| {
            let plain = |text: &str| text.trim().trim_end_matches('/').to_ascii_lowercase();
            ours.iter().find(|ours| theirs.iter().any(|theirs| plain(theirs) == plain(ours))).cloned()
        };
        let peer = shared(&wanted.peers, &present.peers);
        let relay = shared(wanted.relays.as_deref().unwrap_or_default(), &relays);
        match peer.or(relay) {
            None => Ok(()),
            Some(address) => Err(Problem::new(
                "address_of_the_cluster",
                format!(
                    "The cluster's running nodes meet at {address}; the ceremony there would be taken for one of them."
                ),
                "Give the addresses at which the members' ceremonies listen, of a Hearth the port of its next free place, and no relay that the cluster uses.",
            )),
        }
    }

    /// Whether this box has the cluster that a key generation was for, as it is after it.
    pub(super) fn has_come_of(&self, request: &KeyGeneration) -> bool {
        match &request.adding {
            None => self.cluster_with(&request.identity_key).is_some(),
            // In the cluster, but not any more by the lock of before.
            Some(adding) => {
                self.cluster_with(&request.identity_key).is_some() && self.seat_of(adding).is_err()
            }
        }
    }

    /// How long this box waits after everybody has the new lock, so that one node starts anew at a time: by its own place in the
    /// cluster. None when its node does no duties anyway. Members on either lock agree with each other meanwhile, for it says the
    /// same of the present validators.
    pub(super) fn turn_of(&self, adding: &Adding) -> Option<Duration> {
        let seat = self.seat_of(adding).ok()?;
        let pace = seat.place.board.pace().filter(|_| seat.is_running())?;
        let before = u64::from(seat.membership.as_ref()?.share_index.saturating_sub(1));
        let wait = Duration::from_millis(before.saturating_mul(SLOTS_APART).saturating_mul(pace.slot_ms));
        (!wait.is_zero()).then_some(wait)
    }

    /// How long until the proposals of its near future are over, when there are some: a vote that is missed costs cents, a block
    /// does not.
    pub(super) fn until_proposed(&self, adding: &Adding) -> Option<Duration> {
        let seat = self.seat_of(adding).ok()?;
        let pace = seat.place.board.pace().filter(|_| seat.is_running())?;
        let ms = pace.proposes_until?.0.saturating_sub(crate::node::wall().0);
        (ms > 0).then(|| Duration::from_millis(ms.min(LONGEST_PROPOSAL_SLOTS.saturating_mul(pace.slot_ms))))
    }

    /// Everything that may fail before the node of now has to end: what is wrong with the new lock or with the disk costs no duty.
    pub(super) async fn ready_for_more_validators(
        &self,
        made: ClusterSetup,
        adding: &Adding,
    ) -> Result<Ready, Problem> {
        let seat = self.seat_of(adding)?;
        let number = seat.place.number;
        let present = seat.place.store.load_cluster().map_err(|error| disk(&error))?;
        let Some(present) = present else { return Err(gone()) };
        // Everything but the lock is the owner's, and stays.
        let setup = ClusterSetup { lock: made.lock, identity_key: made.identity_key, ..present };
        let (membership, setup) = self.verify_stored(setup).await?;
        self.room_beside_others(&membership, number)?;
        let bytes = serde_json::to_vec(&setup.lock).map_or(0, |lock| lock.len());
        let room = self.folders.take_room(number, bytes).map_err(|error| disk(&error))?;
        Ok(Ready { number, setup, membership, room })
    }

    /// Everybody has the new lock, and the signer its shares: the node goes on with it. May be repeated after a crash.
    pub(super) async fn take_more_validators(&mut self, ready: Ready) -> Result<(), Problem> {
        let Ready { number, setup, membership, room } = ready;
        sealed::seal(&self.config.signer_socket, &setup.identity_key).await?;
        let Some(seat) = self.seats.get_mut(&number) else { return Err(gone()) };
        seat.end().await?;
        drop(room);
        if let Err(problem) = self.take_new_lock(number, &setup, &membership) {
            // What was served before goes on as it was.
            self.start_again(number);
            return Err(problem);
        }
        tracing::warn!(cluster = %membership.view.name, validators = membership.keys.len(), place = number, "the cluster has more validators");
        self.hand_identity_over(&setup, &membership);
        self.seat_and_start(number, membership);
        Ok(())
    }

    fn seat_of(&self, adding: &Adding) -> Result<&Seat, Problem> {
        let hash = adding.lock.get("lock_hash").and_then(serde_json::Value::as_str).unwrap_or_default();
        let number = self.places.of_cluster(hash)?.number;
        self.seats.get(&number).ok_or_else(gone)
    }
}

fn gone() -> Problem {
    Problem::new(
        "cluster_unknown",
        "This box is not in the cluster any more that was to get validators.",
        "Discard the key generation.",
    )
}

#[cfg(test)]
mod tests;
