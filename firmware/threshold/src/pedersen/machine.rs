//! One member's run for one validator: deal, respond, justify, finish.
//!
//! Every phase ends when all that is awaited is there, or when the caller says that its time is up. What a member does wrong
//! is never an error of ours: it is told to the caller as an [`Accusation`] and the run goes on without that member where it
//! can. A bundle that was here before is dropped without a word, since a transport may deliver twice.

use std::collections::{BTreeMap, BTreeSet};

use rand::CryptoRng;

use super::Session;
use super::bundle::{DealBundle, JustificationBundle, ResponseBundle};
use super::ecies::{EphemeralKey, signed_by};
use super::finish::Outcome;
use super::setup::{Own, Setup, SetupError};
use crate::keys::{PublicKey, SecretKey};
use crate::shamir::{Commitments, Polynomial};

/// A bundle of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bundle {
    /// Commitments and shares.
    Deal(DealBundle),
    /// What a receiver says of them.
    Response(ResponseBundle),
    /// Answers to complaints.
    Justification(JustificationBundle),
}

/// Why the machine is woken.
#[derive(Clone, Debug)]
pub enum Event {
    /// A bundle from the member it names.
    Received(Bundle),
    /// The time for the current phase is up.
    Timeout,
}

/// What the caller has to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Send this to all other members.
    Send(Bundle),
    /// A new phase began: the phase timer starts anew.
    Entered(Phase),
    /// A member did something wrong.
    Accused(Accusation),
    /// The run is over.
    Finished(Box<Outcome>),
    /// The run is over without a result.
    Failed(Failure),
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Deals are awaited.
    Deal,
    /// Responses are awaited.
    Response,
    /// Justifications are awaited.
    Justification,
    /// Nothing is awaited any more.
    Finished,
}

/// Which member did what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The side the index belongs to.
    pub fault: Fault,
    /// The index, of a dealer or a receiver as the fault says.
    pub index: u32,
}

/// What a member did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A dealer's bundle is of another run.
    DealerWrongSession,
    /// A dealer sent two different bundles.
    DealerEquivocated,
    /// A dealer's bundle has another number of commitments than the threshold, or one that is no point.
    DealerCommitments,
    /// A dealer does not deal the share that the cluster lock says it has.
    DealerOtherShare,
    /// A dealer names receivers that do not exist, or one twice.
    DealerIndices,
    /// A dealer's share for us is missing, does not open or does not match its commitments.
    DealerBadShare,
    /// A dealer sent nothing in time.
    DealerSilent,
    /// A dealer was complained of by as many receivers as could rebuild its secret.
    DealerComplaints,
    /// A dealer justified itself with a wrong value.
    DealerBadJustification,
    /// A dealer did not answer complaints.
    DealerUnjustified,
    /// A receiver's bundle is of another run.
    ReceiverWrongSession,
    /// A receiver sent two different bundles.
    ReceiverEquivocated,
    /// A receiver names dealers that do not exist, or one twice.
    ReceiverIndices,
    /// A receiver sent nothing in time.
    ReceiverSilent,
    /// A receiver complained of a share, ours or another's; the dealer's answer will show who lies.
    ReceiverComplained,
    /// A bundle is not signed by the member it names.
    NotSigned,
    /// We dealt to so many complainers that answering all would give our secret away.
    TooManyComplaints,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too few dealers are left.
    #[error("only {qualified} members dealt shares that hold; {needed} are needed")]
    TooFewDealers {
        /// Who is left.
        qualified: usize,
        /// Who must be.
        needed: usize,
    },
    /// The new sharing is of another key.
    #[error("the new shares would not be of the validator's key")]
    GroupKey,
    /// The own new share does not fit the new commitments.
    #[error("this member's new share does not fit the others'")]
    Share,
    /// A sum came out as zero, or as many members as make one chose their values to cancel out.
    #[error("the new sharing is degenerate")]
    Degenerate,
}

/// A dealer's part as this member has it.
pub(super) struct Dealt {
    pub(super) hash: [u8; 32],
    pub(super) commitments: Commitments,
    /// Our value; none when it was not good, or when we receive nothing.
    pub(super) share: Option<SecretKey>,
}

/// One member's run for one validator.
pub struct Pedersen {
    pub(super) setup: Setup,
    pub(super) own: Own,
    pub(super) phase: Phase,
    /// Our own polynomial, with our secret at zero. Gone when the run is over.
    pub(super) polynomial: Option<Polynomial>,
    pub(super) deals: BTreeMap<u32, Dealt>,
    pub(super) responded: BTreeMap<u32, [u8; 32]>,
    pub(super) justified: BTreeMap<u32, [u8; 32]>,
    /// Dealer and receiver for which a share is known to be good. What is not in it counts as a complaint.
    pub(super) good: BTreeSet<(u32, u32)>,
    pub(super) evicted_dealers: BTreeSet<u32>,
    pub(super) evicted_receivers: BTreeSet<u32>,
    /// Said at most once each.
    pub(super) accused: BTreeSet<(Fault, u32)>,
}

impl Pedersen {
    /// Begins a run. `secret` is what a dealer deals: its old share in a resharing. In a key generation it is drawn.
    /// The outputs hold the own deal bundle.
    pub fn start(
        setup: Setup,
        own: Own,
        secret: Option<SecretKey>,
        key: &EphemeralKey,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Self, Vec<Output>), SetupError> {
        setup.check(own)?;
        let ours = key.public_key();
        let known = |side: &BTreeMap<u32, PublicKey>, index: Option<u32>| {
            index.is_none_or(|index| side.get(&index) == Some(&ours))
        };
        if !known(&setup.dealers, own.dealer) || !known(&setup.receivers, own.receiver) {
            return Err(SetupError::Member(own.dealer.or(own.receiver).unwrap_or_default()));
        }
        let mut run = Self {
            setup,
            own,
            phase: Phase::Deal,
            polynomial: None,
            deals: BTreeMap::new(),
            responded: BTreeMap::new(),
            justified: BTreeMap::new(),
            good: BTreeSet::new(),
            evicted_dealers: BTreeSet::new(),
            evicted_receivers: BTreeSet::new(),
            accused: BTreeSet::new(),
        };
        let mut out = Vec::new();
        if let Some(dealer) = own.dealer {
            out.push(Output::Send(Bundle::Deal(run.deal(dealer, secret, key, rng)?)));
        }
        out.push(Output::Entered(Phase::Deal));
        run.advance(key, &mut out);
        Ok((run, out))
    }

    /// Takes one event; what to do comes back in order.
    pub fn step(&mut self, event: Event, key: &EphemeralKey) -> Vec<Output> {
        let mut out = Vec::new();
        match (event, self.phase) {
            (_, Phase::Finished) => return out, // A late bundle, or a timer of a phase that is over.
            (Event::Received(Bundle::Deal(bundle)), _) => self.on_deal(bundle, key, &mut out),
            (Event::Received(Bundle::Response(bundle)), _) => self.on_response(&bundle, &mut out),
            (Event::Received(Bundle::Justification(bundle)), _) => self.on_justification(&bundle, &mut out),
            (Event::Timeout, Phase::Deal) => self.deals_are_over(key, &mut out),
            (Event::Timeout, Phase::Response) => self.responses_are_over(key, &mut out),
            (Event::Timeout, Phase::Justification) => self.finish(&mut out),
        }
        self.advance(key, &mut out);
        out
    }

    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which run this is.
    pub fn session(&self) -> Session {
        self.setup.session
    }

    /// Whom the current phase still waits for: dealers in the phases deal and justification, receivers in between.
    pub fn awaited(&self) -> Vec<u32> {
        match self.phase {
            Phase::Deal => self.live_dealers().filter(|dealer| !self.deals.contains_key(dealer)).collect(),
            Phase::Response => {
                self.live_receivers().filter(|receiver| !self.responded.contains_key(receiver)).collect()
            }
            Phase::Justification => {
                self.live_dealers().filter(|dealer| self.has_complaints(*dealer)).collect()
            }
            Phase::Finished => Vec::new(),
        }
    }

    /// Leaves every phase in which nothing is awaited any more.
    fn advance(&mut self, key: &EphemeralKey, out: &mut Vec<Output>) {
        while self.phase != Phase::Finished && self.awaited().is_empty() {
            match self.phase {
                Phase::Deal => self.deals_are_over(key, out),
                Phase::Response => self.responses_are_over(key, out),
                Phase::Justification => self.finish(out),
                Phase::Finished => {}
            }
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, out: &mut Vec<Output>) {
        self.phase = phase;
        out.push(Output::Entered(phase));
    }

    pub(super) fn live_dealers(&self) -> impl Iterator<Item = u32> {
        self.setup.dealers.keys().copied().filter(|dealer| !self.evicted_dealers.contains(dealer))
    }

    pub(super) fn live_receivers(&self) -> impl Iterator<Item = u32> {
        self.setup.receivers.keys().copied().filter(|receiver| !self.evicted_receivers.contains(receiver))
    }

    /// The receivers that complain of that dealer, or have not said that its share is good.
    pub(super) fn complaints(&self, dealer: u32) -> Vec<u32> {
        self.live_receivers().filter(|receiver| !self.good.contains(&(dealer, *receiver))).collect()
    }

    pub(super) fn has_complaints(&self, dealer: u32) -> bool {
        !self.complaints(dealer).is_empty()
    }

    pub(super) fn evict_dealer(&mut self, index: u32, fault: Fault, out: &mut Vec<Output>) {
        self.evicted_dealers.insert(index);
        self.accuse(index, fault, out);
    }

    pub(super) fn evict_receiver(&mut self, index: u32, fault: Fault, out: &mut Vec<Output>) {
        self.evicted_receivers.insert(index);
        self.accuse(index, fault, out);
    }

    pub(super) fn accuse(&mut self, index: u32, fault: Fault, out: &mut Vec<Output>) {
        if self.accused.insert((fault, index)) {
            out.push(Output::Accused(Accusation { fault, index }));
        }
    }

    /// The signature comes first: whoever did not sign has said nothing, and cannot be evicted for it.
    pub(super) fn is_signed(
        &mut self,
        side: Side,
        index: u32,
        hash: &[u8; 32],
        signature: &[u8],
        out: &mut Vec<Output>,
    ) -> bool {
        let keys = match side {
            Side::Dealer => &self.setup.dealers,
            Side::Receiver => &self.setup.receivers,
        };
        let signed = keys.get(&index).is_some_and(|key| signed_by(key, hash, signature));
        if !signed {
            self.accuse(index, Fault::NotSigned, out);
        }
        signed
    }
}

/// Which list an index belongs to.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Dealer,
    Receiver,
}
