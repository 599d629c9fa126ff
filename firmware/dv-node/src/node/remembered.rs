//! What members remember of what was signed in our name before this box started, and waiting for it (decision 0375).
//!
//! An old copy of the disk that was put back together with what vouches for its age believes that it is the newest. The other
//! members know better: they hold the votes that it has forgotten. So each keeps the last one of every member and sends it back
//! when that one connects, in the ordinary message and unchanged; and before its first vote a box gives those that are connected
//! a moment to do so. Whatever they say can stop a share or make it wait; nothing they say, and no silence, allows anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain::Slot;
use duty::{Duty, DutyKind, SignError, Task};
use ipc::ClientError;
use ipc::web3signer::SeenSignature;
use obol::{Protocol, parsigex};
use qbft::Member;

use super::sign::Results;
use super::{Event, Node};

/// The largest message that is kept. A slot's votes of a thousand validators take a fifth of it.
const MOST_BYTES: usize = 1024 * 1024;
/// How long a member may take to send back what it remembers, from the moment it is connected; less where slots are short.
const PATIENCE: Duration = Duration::from_secs(2);
/// What one member remembers is listened to this often.
const LISTEN_EVERY: Duration = Duration::from_secs(10);
/// What is sent back is of use before the first vote.
const LASTS: Duration = Duration::from_secs(12);
/// A signer that cannot take it in yet is told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The last votes of each member, as they came. Blocks are not kept: of the validators of a box that has forgotten a block, one
/// has voted since or shortly before, and a block of a past slot is signed by nobody any more.
#[derive(Debug, Default)]
pub(super) struct LastVotes(BTreeMap<Member, (Slot, Arc<[u8]>)>);

impl LastVotes {
    /// Keeps a message unless one of a later slot is here.
    pub(super) fn keep(&mut self, member: Member, duty: Duty, bytes: &[u8]) {
        let is_older = self.0.get(&member).is_some_and(|(slot, _)| *slot > duty.slot);
        if duty.kind == DutyKind::Attester && bytes.len() <= MOST_BYTES && !is_older {
            self.0.insert(member, (duty.slot, bytes.into()));
        }
    }

    fn of(&self, member: Member) -> Option<Arc<[u8]>> {
        self.0.get(&member).map(|(_, bytes)| Arc::clone(bytes))
    }
}

/// Whom the first vote of this run waits for. Pure.
#[derive(Debug, Default)]
pub(super) struct Listening {
    connected: BTreeMap<Member, Instant>,
    answered: BTreeSet<Member>,
    heard: BTreeMap<Member, Instant>,
    /// Whose memory the signer is being told of: that of each member once at a time.
    telling: BTreeSet<Member>,
    first_asked: Option<Instant>,
    is_over: bool,
}

impl Listening {
    /// A member is connected. Only the first time counts: one that comes and goes holds nothing up.
    pub(super) fn connected(&mut self, member: Member, now: Instant) {
        self.connected.entry(member).or_insert(now);
    }

    /// Whether a vote has to wait for what these members remember. While the signer cannot be told it could not sign either;
    /// for everything else the wait is bounded, and once it is over it is over for this run.
    fn must_wait(&mut self, members: impl Iterator<Item = Member>, patience: Duration, now: Instant) -> bool {
        if self.is_over {
            return false;
        }
        let first_asked = *self.first_asked.get_or_insert(now);
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < patience;
        let mut awaited = members.filter(|member| {
            !self.answered.contains(member) && self.connected.get(member).is_some_and(is_new)
        });
        let waits = !self.telling.is_empty() || (is_new(&first_asked) && awaited.next().is_some());
        self.is_over = !waits;
        waits
    }

    fn listens_to(&self, sender: Member, now: Instant) -> bool {
        self.heard.get(&sender).is_none_or(|at| now.saturating_duration_since(*at) >= LISTEN_EVERY)
    }
}

impl Node {
    /// A member has connected: it may have forgotten what it signed.
    pub(super) fn tell_what_is_remembered(&self, member: Member) {
        // Other software takes a member's signatures from that member alone.
        if !self.peers.get(&member).is_some_and(|peer| peer.was_hearth) {
            return;
        }
        let operator = self.membership.view.operators.get(usize::from(member.0));
        if let (Some(host), Some(operator), Some(bytes)) = (&self.host, operator, self.last_votes.of(member))
        {
            let _only_strangers_fail = host.send_within(&operator.peer_id, Protocol::ParSigEx, &bytes, LASTS);
        }
    }

    /// A message whose time is over: perhaps what its sender remembers of us. Says whether it is.
    pub(super) fn on_late_partials(&mut self, sender: Member, bytes: &[u8]) -> bool {
        if !self.listening.listens_to(sender, Instant::now()) {
            return false;
        }
        let Some((_, seen)) = self.read_our_name(bytes, parsigex::receive_remembered) else { return false };
        self.on_remembered(sender, seen);
        true
    }

    /// A member remembers these votes of ours, of which this run has sent none.
    pub(super) fn on_remembered(&mut self, sender: Member, seen: Vec<SeenSignature>) {
        let now = Instant::now();
        if !self.listening.listens_to(sender, now) {
            return;
        }
        self.listening.heard.insert(sender, now);
        self.listening.answered.insert(sender);
        if seen.is_empty() || self.client.is_some() || !self.listening.telling.insert(sender) {
            return;
        }
        let (signer, member) = (self.signer.clone(), self.membership.name_of(sender).to_owned());
        self.spawn(async move {
            loop {
                match signer.remembered(&seen).await {
                    Ok(answer) if answer.stopped.is_empty() => {
                        tracing::debug!(member, "what is remembered of us is known");
                    }
                    Ok(answer) => tracing::error!(
                        member,
                        shares = answer.stopped.len(),
                        "a member remembers votes of this box that its signer has no record of: the shares are stopped"
                    ),
                    Err(ClientError::Refused { status, problem }) if status != UNAVAILABLE => {
                        tracing::warn!(member, code = %problem.code, "the signer does not take what is remembered of us");
                    }
                    // Locked, or not up yet: it signs nothing either.
                    Err(
                        ClientError::Refused { .. }
                        | ClientError::Unreachable { .. }
                        | ClientError::Broken { .. }
                        | ClientError::Timeout { .. }
                        | ClientError::Malformed { .. },
                    ) => {
                        tokio::time::sleep(TELL_AGAIN).await;
                        continue;
                    }
                }
                return Event::RememberedTold(sender);
            }
        });
    }

    /// The signer knows.
    pub(super) fn on_remembered_told(&mut self, member: Member) {
        self.listening.telling.remove(&member);
    }

    /// All of these tasks, held back, while members are listened to first.
    pub(super) fn hold_until_heard(&mut self, duty: Duty, tasks: Vec<Task>) -> Result<Vec<Task>, Results> {
        let slot_ms = self.running.as_ref().map_or(u64::MAX, |running| running.chain.timing.slot_ms);
        let patience = PATIENCE.min(Duration::from_millis(slot_ms / 3));
        let may_be_hearth = |info: &obol::peerinfo::Report| info.dv_client == obol::peerinfo::DV_CLIENT;
        let members = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.connected && peer.info.as_ref().is_none_or(may_be_hearth))
            .map(|(member, _)| *member);
        // A block waits for nobody: blocks are not remembered, and on short slots one that is held comes too late.
        if duty.kind != DutyKind::Attester || !self.listening.must_wait(members, patience, Instant::now()) {
            return Ok(tasks);
        }
        let why = "the other members are heard first: they may remember what this box has forgotten";
        Err(tasks.into_iter().map(|task| (task.id, Err(SignError::HeldBack(why.to_owned())))).collect())
    }
}

/// HTTP: come again.
const UNAVAILABLE: u16 = 503;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Duration = Duration::from_secs(2);

    fn attester(slot: u64) -> Duty {
        Duty::new(Slot(slot), DutyKind::Attester)
    }

    #[test]
    fn the_newest_votes_of_each_member_are_kept() {
        let mut last = LastVotes::default();
        last.keep(Member(1), attester(5), b"five");
        last.keep(Member(2), attester(9), b"nine");
        last.keep(Member(1), attester(4), b"four");
        last.keep(Member(1), Duty::new(Slot(7), DutyKind::Proposer), b"block");
        assert_eq!(last.of(Member(1)).as_deref(), Some(&b"five"[..]));
        last.keep(Member(1), attester(6), b"six");
        last.keep(Member(1), attester(7), &vec![0; MOST_BYTES + 1]);
        assert_eq!(last.of(Member(1)).as_deref(), Some(&b"six"[..]));
        assert_eq!(last.of(Member(2)).as_deref(), Some(&b"nine"[..]));
        assert_eq!(last.of(Member(3)), None);
    }

    #[test]
    fn the_first_vote_waits_for_who_may_remember_and_never_for_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let members = || [Member(1), Member(2)].into_iter();
        // Both answer.
        let mut listening = Listening::default();
        listening.connected(Member(1), at(0));
        listening.connected(Member(2), at(0));
        assert!(listening.must_wait(members(), PATIENT, at(100)));
        listening.answered.insert(Member(1));
        assert!(listening.must_wait(members(), PATIENT, at(200)));
        listening.answered.insert(Member(2));
        listening.telling.insert(Member(1));
        assert!(listening.must_wait(members(), PATIENT, at(60_000)), "the signer has not been told");
        listening.telling.clear();
        assert!(!listening.must_wait(members(), PATIENT, at(60_001)));
        // Over is over.
        listening.connected(Member(3), at(60_002));
        listening.telling.insert(Member(3));
        assert!(!listening.must_wait([Member(3)].into_iter(), PATIENT, at(60_003)));

        // Nobody answers, and one comes and goes.
        let mut listening = Listening::default();
        listening.connected(Member(1), at(0));
        assert!(listening.must_wait(members(), PATIENT, at(1_900)));
        listening.connected(Member(1), at(1_950));
        listening.connected(Member(2), at(1_950));
        assert!(listening.must_wait(members(), PATIENT, at(3_800)));
        for number in 3..20 {
            listening.connected(Member(number), at(3_890));
        }
        assert!(
            !listening.must_wait((1..20).map(Member), PATIENT, at(3_900)),
            "two seconds after the first vote"
        );

        // They were connected long before it.
        let mut listening = Listening::default();
        listening.connected(Member(1), at(0));
        assert!(!listening.must_wait(members(), PATIENT, at(5_000)));
        assert!(!Listening::default().must_wait(std::iter::empty(), PATIENT, at(0)), "nobody is there");
    }

    #[test]
    fn a_member_is_listened_to_now_and_then() {
        let start = Instant::now();
        let mut listening = Listening::default();
        assert!(listening.listens_to(Member(1), start));
        listening.heard.insert(Member(1), start);
        assert!(!listening.listens_to(Member(1), start + Duration::from_secs(9)));
        assert!(
            listening.listens_to(Member(2), start) && listening.listens_to(Member(1), start + LISTEN_EVERY)
        );
    }
}
