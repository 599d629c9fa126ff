//! One agreement: its events, its outputs, and the way every event takes through it.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::heard::Heard;
use crate::{
    Ballot, Decision, Digest, Journal, Kind, MAX_MEMBERS, MAX_ROUND, Member, Message, RoundTimer, Size, Vote,
    justify,
};

/// What an instance must know about the world.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Who takes part.
    pub size: Size,
    /// Which of them we are.
    pub me: Member,
    /// Member `(leader_offset + round) mod n` leads a round.
    pub leader_offset: u64,
    /// How long rounds last.
    pub timer: RoundTimer,
}

/// Everything that can happen to an instance.
#[derive(Clone, Debug)]
pub enum Event<S> {
    /// The duty begins, or we are back after a restart.
    Start,
    /// We know our own value; from now on we can propose.
    Input(Digest),
    /// A member said something. Its seal, and those of its justification, have been verified.
    Message(Message<S>),
    /// The timer of this round fired.
    RoundTimeout(u64),
}

/// What the caller must now do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<S> {
    /// Make this durable before doing anything that follows.
    Persist(Journal<S>),
    /// Sign this (and our own ballots in its justification) and send it to all other members. We heard it already.
    Broadcast(Message<S>),
    /// Wake us with [`Event::RoundTimeout`] at this Unix time; replaces the timer before. The past means at once.
    SetTimer {
        /// The round it ends.
        round: u64,
        /// When.
        at_ms: u64,
    },
    /// No timer is needed any more.
    StopTimer,
    /// Agreement. Said once (and once more after a restart).
    Decided(Decision<S>),
}

/// Why a message was not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody by that index.
    #[error("member {0} does not exist in this cluster")]
    UnknownMember(Member),
    /// Round 0, or beyond what the wire can carry.
    #[error("round {0} does not exist")]
    BadRound(u64),
    /// More justifications than two per member.
    #[error("{0} justifications are more than two per member")]
    TooManyJustifications(usize),
    /// A proposal, vote or decision about nothing.
    #[error("the message names no value")]
    NoValue,
    /// A proposal by somebody whose turn it is not.
    #[error("member {author} proposed in round {round}, which it does not lead")]
    NotTheLeader {
        /// Who proposed.
        author: Member,
        /// In which round.
        round: u64,
    },
    /// The justification does not prove the claim.
    #[error("the justification does not prove the message")]
    Unjustified,
    /// We have decided; only ROUND-CHANGEs are still answered.
    #[error("this instance has decided")]
    AlreadyDecided,
    /// The instance has not been started.
    #[error("this instance has not started")]
    NotStarted,
}

/// A rule of the protocol; each fires at most once per message round between two round changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    QuorumPrepares,
    QuorumCommits,
    RoundChangesAhead,
    QuorumRoundChanges,
}

/// One agreement on one digest.
pub struct Instance<S> {
    pub(crate) config: Config,
    pub(crate) journal: Journal<S>,
    /// What the caller last made durable.
    saved: Journal<S>,
    started: bool,
    pub(crate) input: Option<Digest>,
    /// We lead this round and would propose our own value, with this justification, if we had one.
    pub(crate) waiting_for_input: Option<Vec<Vote<S>>>,
    pub(crate) heard: Heard<S>,
    fired: BTreeSet<(Rule, u64)>,
    /// The round whose timer was last started: a second start extends it.
    pub(crate) timed_round: u64,
    /// Our own words on their way back to us.
    echo: VecDeque<Message<S>>,
    /// Per member: highest ROUND-CHANGE answered with the decision, and how many answers it had.
    pub(crate) answered: [(u64, u8); MAX_MEMBERS],
    /// Who has been heard at all, for whoever must explain a missed duty.
    authors: crate::heard::Members,
}

impl<S: Clone + PartialEq> Instance<S> {
    /// A fresh instance in round 1 that has said nothing.
    pub fn new(config: Config) -> Self {
        Instance::restore(config, Journal::new())
    }

    /// An instance that continues where `journal` ends. It never contradicts what the journal says was sent.
    pub fn restore(config: Config, journal: Journal<S>) -> Self {
        Instance {
            config,
            saved: journal.clone(),
            journal,
            started: false,
            input: None,
            waiting_for_input: None,
            heard: Heard::new(config.size),
            fired: BTreeSet::new(),
            timed_round: 0,
            echo: VecDeque::new(),
            answered: [(0, 0); MAX_MEMBERS],
            authors: crate::heard::Members::default(),
        }
    }

    /// Takes one event; appends what the caller must now do to `out`, in order.
    pub fn step(&mut self, event: Event<S>, out: &mut Vec<Output<S>>) -> Result<(), Refusal> {
        let result = match event {
            Event::Start => {
                self.start(out);
                Ok(())
            }
            Event::Input(value) => self.on_input(value, out),
            Event::Message(message) => self.on_message(message, out),
            Event::RoundTimeout(round) => {
                self.on_round_timeout(round, out);
                Ok(())
            }
        };
        while let Some(own) = self.echo.pop_front() {
            // Our own words pass the same checks; a refusal only means that we moved on while saying them.
            let _moved_on = self.on_message(own, out);
        }
        result
    }

    /// The round we are in.
    pub fn round(&self) -> u64 {
        self.journal.round
    }

    /// Who leads `round`.
    pub fn leader(&self, round: u64) -> Member {
        self.config.size.leader(self.config.leader_offset, round)
    }

    /// The decision, once there is one.
    pub fn decision(&self) -> Option<&Decision<S>> {
        self.journal.decided.as_ref()
    }

    /// How many members, ourselves included, have been heard with an acceptable message.
    pub fn members_heard(&self) -> usize {
        self.authors.len()
    }

    fn start(&mut self, out: &mut Vec<Output<S>>) {
        if core::mem::replace(&mut self.started, true) {
            return;
        }
        if let Some(decision) = self.journal.decided.clone() {
            out.push(Output::Decided(decision));
            return;
        }
        self.set_timer(out);
        self.repeat_after_restart(out);
        if self.journal.round == 1 && self.leads(1) {
            self.propose_own(Vec::new(), out);
        }
    }

    fn on_message(&mut self, message: Message<S>, out: &mut Vec<Output<S>>) -> Result<(), Refusal> {
        if !self.started {
            return Err(Refusal::NotStarted);
        }
        self.check(&message)?;
        let ballot = message.vote.ballot;
        if self.journal.decided.is_some() {
            return self.answer_after_deciding(&ballot, out);
        }
        self.check_justified(&message)?;
        self.authors.insert(ballot.author);
        if ballot.kind == Kind::Decided {
            self.on_decided(&message, out);
            return Ok(());
        }
        self.heard.remember(message.clone());
        match ballot.kind {
            Kind::PrePrepare => self.on_pre_prepare(&ballot, out),
            Kind::Prepare => self.on_prepare(&ballot, out),
            Kind::Commit => self.on_commit(&ballot, out),
            Kind::RoundChange => self.on_round_change(&ballot, out),
            Kind::Decided => {}
        }
        Ok(())
    }

    /// The checks that need no memory.
    fn check(&self, message: &Message<S>) -> Result<(), Refusal> {
        let size = self.config.size;
        if message.justification.len() > 2 * size.members() {
            return Err(Refusal::TooManyJustifications(message.justification.len()));
        }
        for vote in core::iter::once(&message.vote).chain(&message.justification) {
            let ballot = vote.ballot;
            if !size.contains(ballot.author) {
                return Err(Refusal::UnknownMember(ballot.author));
            }
            if ballot.round == 0 || ballot.round > MAX_ROUND || ballot.prepared_round > MAX_ROUND {
                return Err(Refusal::BadRound(ballot.round));
            }
        }
        Ok(())
    }

    /// Whether the message may say what it says.
    fn check_justified(&self, message: &Message<S>) -> Result<(), Refusal> {
        let ballot = message.vote.ballot;
        let proven = match ballot.kind {
            Kind::PrePrepare if ballot.value.is_zero() => return Err(Refusal::NoValue),
            Kind::PrePrepare if ballot.author != self.leader(ballot.round) => {
                return Err(Refusal::NotTheLeader { author: ballot.author, round: ballot.round });
            }
            Kind::PrePrepare => justify::pre_prepare(message, self.config.size),
            // Votes for nothing can never reach a quorum, because nobody may propose nothing; the reference keeps them.
            Kind::Prepare | Kind::Commit => true,
            Kind::RoundChange => justify::round_change(message, self.config.size),
            Kind::Decided if ballot.value.is_zero() => return Err(Refusal::NoValue),
            Kind::Decided => justify::decided(message, self.config.size),
        };
        proven.then_some(()).ok_or(Refusal::Unjustified)
    }

    pub(crate) fn leads(&self, round: u64) -> bool {
        self.leader(round) == self.config.me
    }

    /// Whether this rule fires for the first time since the last round change.
    pub(crate) fn first_time(&mut self, rule: Rule, round: u64) -> bool {
        self.fired.insert((rule, round))
    }

    /// Moves to a round; rules may fire again and an unsent proposal is void.
    pub(crate) fn enter_round(&mut self, round: u64) {
        if self.journal.round != round {
            self.journal.enter(round);
            self.fired.clear();
            self.waiting_for_input = None;
        }
    }

    /// Starts the timer of the current round; a second start for the same round extends it.
    pub(crate) fn set_timer(&mut self, out: &mut Vec<Output<S>>) {
        let round = self.journal.round;
        let timer = self.config.timer;
        let again = core::mem::replace(&mut self.timed_round, round) == round;
        let at_ms = if again { timer.extended_deadline_ms(round) } else { timer.round_deadline_ms(round) };
        out.push(Output::SetTimer { round, at_ms });
    }

    /// Says something: on disk first, then to the others, then to ourselves.
    pub(crate) fn say(&mut self, ballot: Ballot, justification: Vec<Vote<S>>, out: &mut Vec<Output<S>>) {
        self.save(out);
        let message = Message { vote: Vote { ballot, seal: None }, justification };
        out.push(Output::Broadcast(message.clone()));
        self.echo.push_back(message);
    }

    /// Asks for the journal to be made durable, if it changed.
    pub(crate) fn save(&mut self, out: &mut Vec<Output<S>>) {
        if self.saved != self.journal {
            self.saved = self.journal.clone();
            out.push(Output::Persist(self.journal.clone()));
        }
    }
}
