//! Telling members what is sent in their name, and hearing what is sent in ours (decision 0284).
//!
//! Whoever runs a second box with a member's identity and share sends partial signatures in that member's name to everybody but
//! that member. So a Hearth sends back to each other Hearth what it has received in its name: the first vote of each validator in
//! each epoch, and whatever is not what it had heard before. The other side compares with what it has sent. What it did not send goes to its
//! signer, which alone knows what the share has signed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

use chain::{Epoch, SignatureBytes};
use duty::{Duty, Partial};
use ipc::web3signer::SeenSignature;
use obol::{DutyType, Protocol, parsigex};
use qbft::Member;

use super::{Node, wall};
use crate::obol_network::{from_wire, partials_of, to_wire};

/// Messages sent back to one member in an epoch at most, besides one for each slot: in an honest epoch a member votes in each
/// slot for the validators of that slot.
const MORE_IN_AN_EPOCH: u64 = 5;
/// Duties of a member that are remembered, to tell what differs.
const DUTIES_KEPT: usize = 4;
/// What one member says was sent in our name is listened to this often, and so many signatures of it: each costs the signer a
/// verification, and fifteen hostile members shall not cost it a duty.
const LISTEN_EVERY: Duration = Duration::from_secs(10);
const LISTEN_TO: usize = 8;
/// What is sent back is worth little later.
const LASTS: Duration = Duration::from_secs(12);

/// What each member has signed lately, and how much of it was sent back. Pure.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    members: BTreeMap<Member, Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    epoch: Option<Epoch>,
    sent_back: u64,
    /// The validators of which a vote of this epoch was sent back, as numbers.
    watched: BTreeSet<u64>,
    /// By duty, oldest first: for each task what was signed. Numbers for bytes: whoever finds two that collide hides from this
    /// watch what it could also have not sent.
    duties: VecDeque<(Duty, BTreeMap<u64, u64>)>,
}

impl Echo {
    /// Takes note of votes that came in a member's name, and says whether they are to be sent back. `slots` is how many an
    /// epoch has.
    pub(crate) fn wants(
        &mut self,
        member: Member,
        duty: Duty,
        (epoch, slots): (Epoch, u64),
        set: &[Partial],
    ) -> bool {
        let heard = self.members.entry(member).or_default();
        let is_other = heard.note(duty, set);
        if heard.epoch < Some(epoch) {
            (heard.epoch, heard.sent_back) = (Some(epoch), 0);
            heard.watched.clear();
        }
        if heard.sent_back >= slots.saturating_add(MORE_IN_AN_EPOCH) {
            return false;
        }
        // What is of an earlier epoch is not the first of this one.
        let validators = set.iter().map(|partial| number(&partial.id.validator));
        let is_first =
            heard.epoch == Some(epoch) && validators.filter(|it| heard.watched.insert(*it)).count() > 0;
        if is_first || is_other {
            heard.sent_back += 1;
        }
        is_first || is_other
    }
}

impl Heard {
    /// Whether any of it is not what was heard before.
    fn note(&mut self, duty: Duty, set: &[Partial]) -> bool {
        let at = self.duties.iter().position(|(known, _)| *known == duty).unwrap_or_else(|| {
            if self.duties.len() == DUTIES_KEPT {
                self.duties.pop_front();
            }
            self.duties.push_back((duty, BTreeMap::new()));
            self.duties.len() - 1
        });
        let mut is_other = false;
        for partial in set {
            let task = number(&(partial.id.validator, partial.id.subcommittee));
            let signed = number(&(partial.message_root, partial.signature));
            if let Some((_, tasks)) = self.duties.get_mut(at) {
                is_other |= *tasks.entry(task).or_insert(signed) != signed;
            }
        }
        is_other
    }
}

fn number(of: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The duties whose signatures the signer's ledger can tell from others'.
const RECORDED: [DutyType; 2] = [DutyType::Attester, DutyType::Proposer];

fn is_recorded(duty: Duty) -> bool {
    to_wire(duty).is_ok_and(|duty| RECORDED.contains(&duty.kind))
}

impl Node {
    /// Votes came in a member's name.
    pub(super) fn tell_what_was_heard(&mut self, member: Member, duty: Duty, set: &[Partial], bytes: &[u8]) {
        let Some(running) = &self.running else { return };
        let timing = &running.chain.timing;
        let epoch = (timing.epoch_of(duty.slot), timing.slots_per_epoch);
        let current = timing.slot_at(wall()).unwrap_or_default();
        self.last_votes.keep(member, duty, current, bytes);
        // Other software takes a member's signatures from that member alone. Of two boxes with one identity another may have
        // answered last, so what was once a Hearth counts as one.
        if !is_recorded(duty) || !self.peers.get(&member).is_some_and(|peer| peer.was_hearth) {
            return;
        }
        if !self.echo.wants(member, duty, epoch, set) {
            return;
        }
        let operator = self.membership.view.operators.get(usize::from(member.0));
        if let (Some(host), Some(operator)) = (&self.host, operator) {
            let _only_strangers_fail = host.send_within(&operator.peer_id, Protocol::ParSigEx, bytes, LASTS);
        }
    }

    /// A member says that this came in our name.
    pub(super) fn on_our_name(&mut self, sender: Member, bytes: &[u8]) {
        let heard = self.our_name_heard.get(&sender);
        if heard.is_some_and(|at| at.elapsed() < LISTEN_EVERY) {
            return;
        }
        let Some((duty, seen)) = self.read_our_name(bytes) else { return };
        let Some(running) = &self.running else { return };
        // Of a duty from before this run nobody here knows what was sent.
        if running.chain.timing.start_of(duty.slot) < running.since {
            return self.on_remembered(sender, seen);
        }
        if seen.is_empty() {
            return;
        }
        self.our_name_heard.insert(sender, Instant::now());
        let (signer, member) = (self.signer.clone(), self.membership.name_of(sender).to_owned());
        tokio::spawn(async move {
            match signer.seen(&seen).await {
                Ok(answer) if answer.stopped.is_empty() => {
                    tracing::debug!(member, %duty, "what was sent in our name is known");
                }
                Ok(answer) => tracing::error!(
                    member,
                    %duty,
                    shares = answer.stopped.len(),
                    "somebody else signs with shares of this box: they are stopped until the owner decides"
                ),
                Err(error) => {
                    tracing::warn!(member, %error, "the signer was not told what is sent in our name")
                }
            }
        });
    }
}

impl Node {
    /// What of a message in our name was not sent in this run; nothing when it is no such message. Its duty may be over.
    pub(super) fn read_our_name(&self, bytes: &[u8]) -> Option<(Duty, Vec<SeenSignature>)> {
        let context = parsigex::Context {
            validators: &self.validators,
            members: u8::try_from(self.operators.len()).ok()?,
            kinds: &RECORDED,
            now: self.obol_now()?,
            sender: self.membership.share_index,
        };
        let received = parsigex::receive_remembered(bytes, &context).ok()?;
        let duty = from_wire(received.duty).filter(|duty| is_recorded(*duty))?;
        let running = self.running.as_ref()?;
        let sent = running.sent_partials.get(&duty);
        if sent.is_some_and(|sent| sent.iter().any(|ours| **ours == *bytes)) {
            return Some((duty, Vec::new())); // As we have sent it.
        }
        let network = running.engine.network();
        // What came besides what we sent is heard first: only so much of it is.
        let ours: BTreeSet<SignatureBytes> = sent
            .into_iter()
            .flatten()
            .filter_map(|ours| parsigex::receive_remembered(ours, &context).ok())
            .flat_map(partials_of)
            .map(|partial| partial.signature)
            .collect();
        let seen = |partial: Partial| {
            let keys = self.membership.keys.get(&partial.id.validator)?;
            let request = network.sign_request(duty, &partial.data).ok()?;
            Some(SeenSignature { key: keys.own_share, request, signature: partial.signature })
        };
        let seen = partials_of(received)
            .into_iter()
            .filter(|partial| !ours.contains(&partial.signature))
            .filter_map(seen)
            .take(LISTEN_TO)
            .collect();
        Some((duty, seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{PublicKeyBytes, Root, Slot};
    use duty::{DutyKind, Payload, TaskId};

    fn set(root: u8) -> Vec<Partial> {
        set_of(1, root)
    }

    fn set_of(validator: u8, root: u8) -> Vec<Partial> {
        vec![Partial {
            id: TaskId::from(PublicKeyBytes([validator; 48])),
            message_root: Root([root; 32]),
            signature: SignatureBytes([root; 96]),
            data: Payload::from([root]),
        }]
    }

    fn duty(slot: u64) -> Duty {
        Duty::new(Slot(slot), DutyKind::Attester)
    }

    #[test]
    fn the_first_of_an_epoch_and_whatever_differs_is_sent_back_and_never_much() {
        let mut echo = Echo::default();
        let mut wants =
            |member, slot, root| echo.wants(Member(member), duty(slot), (Epoch(slot / 8), 8), &set(root));
        assert!(wants(1, 8, 1) && !wants(1, 8, 1), "the same again");
        assert!(!wants(1, 9, 1) && wants(1, 9, 2), "another one for a duty");
        assert!(wants(2, 9, 1), "another member");
        assert!(wants(1, 16, 1) && !wants(1, 17, 1), "the next epoch");
        assert!(!wants(1, 15, 1), "an earlier one is not the next");
        let sent_back = (0..200).filter(|root| wants(1, 18, *root)).count();
        assert_eq!(sent_back, 8 + 5 - 1);
        for slot in 0..1_000 {
            wants(3, slot, 1);
        }
        assert!(echo.members[&Member(3)].duties.len() <= DUTIES_KEPT);
    }

    #[test]
    fn what_the_ledger_records_is_watched_and_nothing_else() {
        let watched = |kind| is_recorded(Duty::new(Slot(1), kind));
        assert!(watched(DutyKind::Attester) && watched(DutyKind::Proposer));
        assert!(!watched(DutyKind::Randao) && !watched(DutyKind::Exit));
    }

    #[test]
    fn every_validator_is_watched_in_every_epoch() {
        let mut echo = Echo::default();
        let mut wants =
            |slot, validator| echo.wants(Member(1), duty(slot), (Epoch(slot / 8), 8), &set_of(validator, 1));
        // A message holds the validators of one slot.
        assert!((8..16).all(|slot| wants(slot, u8::try_from(slot).unwrap())));
        assert!((8..16).all(|slot| !wants(slot, u8::try_from(slot).unwrap())));
        assert!((8..16).all(|validator| wants(16, validator)), "the next epoch");
    }
}
