//! The chain-split guard: what the others agreed on must not contradict our own beacon node.
//!
//! Only source and target are compared. The head may differ from box to box and slot to slot; two targets for one epoch are
//! two chains. A contradiction is not final: at the start of an epoch our node may only be late, so it is asked again
//! until the duty expires.

use chain::UnixMillis;

use crate::retry::Asking;
use crate::work::{Context, Work};
use crate::{Agreement, Reason, Vote};

/// What to do when the others agreed and our own beacon node has no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownView {
    /// Sign: our beacon node being down is what a cluster is for, and the signer still refuses what is slashable.
    Sign,
    /// Do not sign.
    Refuse,
}

/// Whether our view allows to sign.
#[derive(Default)]
pub(crate) struct Guard {
    state: State,
    /// Since when there is something to judge.
    since: Option<UnixMillis>,
    patience_until: Option<UnixMillis>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unjudged,
    Passed,
    Contradicted,
    Unknown,
}

impl Guard {
    /// There is something to judge.
    pub(crate) fn open(&mut self, now: UnixMillis) {
        self.since.get_or_insert(now);
    }

    /// There is more to judge than before.
    pub(crate) fn again(&mut self, now: UnixMillis) {
        *self = Guard { since: Some(now), ..Guard::default() };
    }

    pub(crate) fn passed(&self) -> bool {
        self.state == State::Passed
    }

    /// Whether nothing speaks against signing so far.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.state, State::Passed | State::Unjudged)
    }

    pub(crate) fn wake(&self) -> Option<UnixMillis> {
        self.patience_until.filter(|_| self.state == State::Unjudged)
    }

    pub(crate) fn why_closed(&self) -> Option<Reason> {
        match self.state {
            State::Passed => None,
            State::Contradicted => Some(Reason::ViewsDiffer),
            State::Unjudged | State::Unknown => Some(Reason::ViewUnknown),
        }
    }
}

impl<S: Clone + PartialEq> Work<S> {
    /// Compares what is to be signed with what our own beacon node says.
    pub(crate) fn judge<N>(&mut self, context: &Context<'_, N>) {
        let Some(since) = self.guard.since.filter(|_| !self.guard.passed()) else { return };
        let Some(tasks) = &self.tasks else { return };
        let votes = tasks.values().any(|task| task.vote.is_some());
        if self.row().agreement == Agreement::NotNeeded || !votes {
            self.guard.state = State::Passed; // Our own data, or nothing that a chain split shows in.
            return;
        }
        // Checkpoints belong to the chain and not to a validator, so any vote of our own will do.
        let view: Vec<Vote> = self.own_view.iter().flatten().filter_map(|task| task.vote).collect();
        let agree =
            tasks.values().filter_map(|task| task.vote).all(|vote| view.iter().all(|own| *own == vote));
        self.guard.state = match () {
            () if view.is_empty() => State::Unknown,
            () if agree => State::Passed,
            () => State::Contradicted,
        };
        if self.guard.state == State::Contradicted && self.fetch.is_answered() {
            self.fetch.ask_again_later(context.now);
        }
        if self.guard.state == State::Unknown {
            self.judge_without_view(since, context);
        }
    }

    /// Our node has said nothing yet: wait a little, it may only be slow or have stumbled, then follow the owner's policy.
    fn judge_without_view<N>(&mut self, since: UnixMillis, context: &Context<'_, N>) {
        let until = since.saturating_add(context.settings.view_patience_ms);
        let may_come = self.fetch != Asking::GivenUp;
        if may_come && context.now < until {
            self.guard.patience_until = Some(until);
            self.guard.state = State::Unjudged;
        } else if context.settings.unknown_view == UnknownView::Sign {
            self.guard.state = State::Passed;
        }
    }
}
