//! What members remember of what was signed in our name before this box started, and waiting for it (decision 0375).
//!
//! An old copy of the disk that was put back together with what vouches for its age believes that it is the newest. The other
//! members know better: they hold the votes that it has forgotten. So each keeps the last one of every member and sends it back
//! when that one connects, in the ordinary message and unchanged; and before its first vote a box gives those that are connected
//! a moment to do so. Whatever they say can stop a share or make it wait; nothing they say, and no silence, allows anything.
//! The chain itself is asked in the same moment which validators have voted (decision 0402).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beacon::{BeaconError, BeaconNodes};
use chain::{Epoch, PublicKeyBytes, Slot, ValidatorIndex};
use duty::{Duty, DutyKind, SignError, Task};
use ipc::ClientError;
use ipc::web3signer::{ChainMark, SeenSignature};
use obol::Protocol;
use qbft::Member;

use super::sign::Results;
use super::{Event, Node, wall};
use crate::signer::Signer;

/// The largest message that is kept. A slot's votes of a thousand validators take a fifth of it.
const MOST_BYTES: usize = 1024 * 1024;
/// How long a member may take to send back what it remembers, from the moment it is connected; less where slots are short.
const PATIENCE: Duration = Duration::from_secs(2);
/// What one member remembers is listened to this often.
const LISTEN_EVERY: Duration = Duration::from_secs(10);
/// What is sent back is of use before the first vote.
const LASTS: Duration = Duration::from_secs(12);
/// A beacon node that does not say who has voted is asked again after this time, for about a minute; then in the next epoch.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_TIMES: u32 = 30;
/// A signer that cannot take it in yet is told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The last votes of each member, as they came. Blocks are not kept: of the validators of a box that has forgotten a block, one
/// has voted since or shortly before, and a block of a past slot is signed by nobody any more.
#[derive(Debug, Default)]
pub(super) struct LastVotes(BTreeMap<Member, (Slot, Arc<[u8]>)>);

impl LastVotes {
    /// Keeps a message unless one of a later slot is here. What comes before its time could keep honest ones out.
    pub(super) fn keep(&mut self, member: Member, duty: Duty, current: Slot, bytes: &[u8]) {
        if duty.slot > current {
            return;
        }
        let is_older = self.0.get(&member).is_some_and(|(slot, _)| *slot > duty.slot);
        if duty.kind == DutyKind::Attester && bytes.len() <= MOST_BYTES && !is_older {
            self.0.insert(member, (duty.slot, bytes.into()));
        }
    }

    fn of(&self, member: Member) -> Option<Arc<[u8]>> {
        self.0.get(&member).map(|(_, bytes)| Arc::clone(bytes))
    }
}

/// Who remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Witness {
    /// A member, what was signed with our share.
    Member(Member),
    /// The chain, which validators have voted.
    Chain,
}

/// How far the chain has been heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Chain {
    #[default]
    NotAsked,
    Asked,
    Answered,
}

/// Whom the first vote of this run waits for. Pure.
#[derive(Debug, Default)]
pub(super) struct Listening {
    connected: BTreeMap<Member, Instant>,
    answered: BTreeSet<Member>,
    heard: BTreeMap<Member, Instant>,
    /// Whose memory the signer is being told of, that of each once at a time; and why it has not taken it in yet.
    telling: BTreeMap<Witness, Option<String>>,
    chain: Chain,
    first_asked: Option<Instant>,
    is_over: bool,
}

impl Listening {
    /// A member is connected. Only the first time counts: one that comes and goes holds nothing up.
    pub(super) fn connected(&mut self, member: Member, now: Instant) {
        self.connected.entry(member).or_insert(now);
    }

    /// Whether a vote has to wait for what these members remember, or the chain. While the signer cannot be told it could not sign
    /// either; for everything else the wait is bounded, and once it is over it is over for this run.
    fn must_wait(&mut self, members: impl Iterator<Item = Member>, patience: Duration, now: Instant) -> bool {
        if self.is_over {
            // What was told after all counts before the vote that is asked for when the signer opens.
            return self.telling.values().any(Option::is_some);
        }
        let first_asked = *self.first_asked.get_or_insert(now);
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < patience;
        let mut awaited = members.filter(|member| {
            !self.answered.contains(member) && self.connected.get(member).is_some_and(is_new)
        });
        let is_open = self.chain != Chain::Answered || awaited.next().is_some();
        let waits = !self.telling.is_empty() || (is_new(&first_asked) && is_open);
        self.is_over = !waits;
        waits
    }

    /// What an owner is told who asks why nothing is signed yet.
    fn why_waiting(&self) -> SignError {
        match self.telling.values().flatten().next() {
            Some(signer_says) => SignError::Unavailable(signer_says.clone()),
            None => SignError::HeldBack(
                "the other members are heard first: they may remember what this box has forgotten".to_owned(),
            ),
        }
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
        let Some((_, seen)) = self.read_our_name(bytes) else { return false };
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
        if !seen.is_empty() {
            let member = self.membership.name_of(sender).to_owned();
            self.tell(Witness::Member(sender), member, Memory::Votes(seen));
        }
    }

    /// Asks the chain which of our validators have voted lately, unless it has answered in this run: what this box has forgotten
    /// is from before.
    pub(super) fn ask_the_chain(&mut self) {
        let Some(running) = self.running.as_ref().filter(|_| self.listening.chain == Chain::NotAsked) else {
            return;
        };
        let (Some(epoch), None) = (running.chain.timing.epoch_at(wall()), &self.client) else { return };
        self.listening.chain = Chain::Asked;
        let ours: BTreeMap<ValidatorIndex, PublicKeyBytes> = self
            .duties
            .validators
            .iter()
            .filter_map(|(key, info)| Some((info.index, self.membership.keys.get(key)?.own_share)))
            .collect();
        let (beacon, events) = (self.beacon.clone(), self.events.clone());
        self.spawn(async move {
            for time in 0..ASK_TIMES {
                match marks_of(&beacon, epoch, &ours).await {
                    Ok(marks) => return Event::ChainMarks(Some(marks)),
                    Err(_) if events.is_closed() => break,
                    Err(error) if time == 0 => {
                        tracing::warn!(%error, "not known yet which validators have voted lately");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Event::ChainMarks(None)
        });
    }

    /// The chain has answered, or nobody knows.
    pub(super) fn on_chain_marks(&mut self, marks: Option<Vec<ChainMark>>) {
        self.listening.chain = if marks.is_some() { Chain::Answered } else { Chain::NotAsked };
        if let Some(marks) = marks.filter(|marks| !marks.is_empty()) {
            self.tell(Witness::Chain, "the beacon chain".to_owned(), Memory::Marks(marks));
        }
    }

    /// Tells the signer, once at a time of each witness, until it has taken it in or refused it.
    fn tell(&mut self, witness: Witness, name: String, memory: Memory) {
        if self.client.is_some() || self.listening.telling.contains_key(&witness) {
            return;
        }
        self.listening.telling.insert(witness, None);
        let (signer, events) = (self.signer.clone(), self.events.clone());
        self.spawn(async move {
            loop {
                match memory.tell(&signer).await {
                    Ok(0) => tracing::debug!(witness = name, "what is remembered of us is known"),
                    Ok(stopped) => tracing::error!(
                        witness = name,
                        shares = stopped,
                        "a member remembers votes of this box that its signer has no record of: the shares are stopped"
                    ),
                    Err(ClientError::Refused { status, problem }) if status != UNAVAILABLE => {
                        tracing::warn!(witness = name, code = %problem.code, "the signer does not take what is remembered of us");
                    }
                    // Locked, or not up yet: it signs nothing either.
                    Err(error) => {
                        let why = match error {
                            ClientError::Refused { problem, .. } => problem.message,
                            ClientError::Unreachable { .. }
                            | ClientError::Broken { .. }
                            | ClientError::Timeout { .. }
                            | ClientError::Malformed { .. } => error.to_string(),
                        };
                        if events.send(Event::RememberedUntold(witness, why)).await.is_err() {
                            return Event::RememberedTold(witness); // The node has ended.
                        }
                        tokio::time::sleep(TELL_AGAIN).await;
                        continue;
                    }
                }
                return Event::RememberedTold(witness);
            }
        });
    }

    /// The signer knows.
    pub(super) fn on_remembered_told(&mut self, witness: Witness) {
        self.listening.telling.remove(&witness);
    }

    /// The signer cannot be told yet.
    pub(super) fn on_remembered_untold(&mut self, witness: Witness, why: String) {
        if let Some(known) = self.listening.telling.get_mut(&witness) {
            *known = Some(why);
        }
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
        let why = self.listening.why_waiting();
        Err(tasks.into_iter().map(|task| (task.id, Err(why.clone()))).collect())
    }
}

/// What a witness remembers.
enum Memory {
    Votes(Vec<SeenSignature>),
    Marks(Vec<ChainMark>),
}

impl Memory {
    /// How many shares the signer stopped because of it.
    async fn tell(&self, signer: &Signer) -> Result<usize, ClientError> {
        match self {
            Self::Votes(seen) => signer.remembered(seen).await.map(|answer| answer.stopped.len()),
            Self::Marks(marks) => signer.chain_marks(marks).await.map(|()| 0),
        }
    }
}

/// The last epoch in which each of these validators was seen, this one or the one before.
async fn marks_of(
    beacon: &BeaconNodes,
    epoch: Epoch,
    ours: &BTreeMap<ValidatorIndex, PublicKeyBytes>,
) -> Result<Vec<ChainMark>, BeaconError> {
    let indices: Vec<_> = ours.keys().copied().collect();
    let last = epoch.saturating_sub(1);
    let (finality, before, now) = tokio::try_join!(
        beacon.finality(),
        beacon.seen_live(last, &indices),
        beacon.seen_live(epoch, &indices),
    )?;
    let justified = finality.current_justified.epoch;
    let mark = |(index, key): (&ValidatorIndex, &PublicKeyBytes)| {
        let target = if now.contains(index) { epoch } else { last };
        (now.contains(index) || before.contains(index)).then_some(ChainMark { key: *key, target, justified })
    };
    Ok(ours.iter().filter_map(mark).collect())
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
        last.keep(Member(1), attester(5), Slot(9), b"five");
        last.keep(Member(2), attester(9), Slot(9), b"nine");
        last.keep(Member(1), attester(4), Slot(9), b"four");
        last.keep(Member(1), Duty::new(Slot(7), DutyKind::Proposer), Slot(9), b"block");
        assert_eq!(last.of(Member(1)).as_deref(), Some(&b"five"[..]));
        last.keep(Member(1), attester(6), Slot(9), b"six");
        last.keep(Member(1), attester(7), Slot(9), &vec![0; MOST_BYTES + 1]);
        assert_eq!(last.of(Member(1)).as_deref(), Some(&b"six"[..]));
        assert_eq!(last.of(Member(2)).as_deref(), Some(&b"nine"[..]));
        assert_eq!(last.of(Member(3)), None);
        last.keep(Member(2), attester(10), Slot(9), b"ten");
        assert_eq!(last.of(Member(2)).as_deref(), Some(&b"nine"[..]), "it is not time for that");
    }

    fn heard_by_the_chain() -> Listening {
        Listening { chain: Chain::Answered, ..Listening::default() }
    }

    #[test]
    fn the_first_vote_waits_for_who_may_remember_and_never_for_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let members = || [Member(1), Member(2)].into_iter();
        // Both answer.
        let mut listening = heard_by_the_chain();
        listening.connected(Member(1), at(0));
        listening.connected(Member(2), at(0));
        assert!(listening.must_wait(members(), PATIENT, at(100)));
        listening.answered.insert(Member(1));
        assert!(listening.must_wait(members(), PATIENT, at(200)));
        listening.answered.insert(Member(2));
        assert!(matches!(listening.why_waiting(), SignError::HeldBack(_)));
        listening.telling.insert(Witness::Member(Member(1)), None);
        listening.telling.insert(Witness::Chain, Some("type your passphrase".to_owned()));
        assert!(listening.must_wait(members(), PATIENT, at(60_000)), "the signer has not been told");
        assert_eq!(listening.why_waiting(), SignError::Unavailable("type your passphrase".to_owned()));
        listening.telling.clear();
        assert!(!listening.must_wait(members(), PATIENT, at(60_001)));
        // Over is over.
        listening.connected(Member(3), at(60_002));
        listening.telling.insert(Witness::Member(Member(3)), None);
        assert!(!listening.must_wait([Member(3)].into_iter(), PATIENT, at(60_003)));
        // But for a signer that cannot hear yet, and so signs nothing.
        listening.telling.insert(Witness::Chain, Some("type your passphrase".to_owned()));
        assert!(listening.must_wait(std::iter::empty(), PATIENT, at(60_004)));
        listening.telling.clear();

        // Nobody answers, and one comes and goes.
        let mut listening = heard_by_the_chain();
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
        let mut listening = heard_by_the_chain();
        listening.connected(Member(1), at(0));
        assert!(!listening.must_wait(members(), PATIENT, at(5_000)));
        assert!(!heard_by_the_chain().must_wait(std::iter::empty(), PATIENT, at(0)), "nobody is there");

        // The chain has as long.
        let mut listening = Listening { chain: Chain::Asked, ..Listening::default() };
        assert!(listening.must_wait(std::iter::empty(), PATIENT, at(0)));
        assert!(!listening.must_wait(std::iter::empty(), PATIENT, at(2_000)), "it does not answer");
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
