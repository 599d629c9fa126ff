//! Why a duty was missed: exactly one reason.

use std::collections::BTreeMap;

use crate::engine::Clock;
use crate::work::{Context, Work};
use crate::{Reason, TaskId};

impl<S: Clone + PartialEq> Work<S> {
    /// The one reason, looking from the end of the workflow back to its beginning.
    pub(crate) fn why_missed<N>(&self, context: &Context<'_, N>) -> Reason {
        if let Some(reason) = self.results.why_unpublished() {
            return reason;
        }
        if let Some(text) = &self.unusable {
            return Reason::DecisionUnusable(text.clone());
        }
        let nothing_to_sign = self.tasks.as_ref().is_none_or(BTreeMap::is_empty);
        if nothing_to_sign && self.ready().is_empty() {
            return Reason::NeedsMissing;
        }
        if self.tasks.is_some() || self.partials.most(None) >= context.settings.threshold {
            return self.why_uncombined(context);
        }
        let no_data = match &self.fetch_error {
            Some(text) => Reason::NoData(text.clone()),
            None => Reason::NoAnswer,
        };
        let Some(agreement) = &self.agreement else { return no_data };
        let (heard, needed) = (agreement.members_heard(), context.settings.size.quorum());
        if heard < needed {
            return Reason::MembersSilent { heard, needed };
        }
        if self.values.is_empty() { no_data } else { Reason::NoAgreement { rounds: agreement.round() } }
    }

    fn why_uncombined<N>(&self, context: &Context<'_, N>) -> Reason {
        if let Some(reason) = self.why_withheld(context) {
            return reason;
        }
        let need = context.settings.threshold;
        let uncombined: Vec<TaskId> =
            self.expected().into_iter().filter(|id| !self.results.is_published(id)).collect();
        let Some(id) = uncombined.first() else { return Reason::PartialsMissing { have: 0, need } };
        let left_out = self.tasks.as_ref().is_some_and(|tasks| !tasks.contains_key(id));
        let liars = self.partials.liars();
        let have = self.partials.most(Some(id));
        match () {
            () if left_out => Reason::LeftOut,
            () if !liars.is_empty() => Reason::PartialsWrong(liars),
            () if self.partials.all(id) >= need => Reason::PartialsDiffer,
            () => Reason::PartialsMissing { have, need },
        }
    }

    /// Why our own partial signature is missing although there was something to sign.
    pub(crate) fn why_withheld<N>(&self, context: &Context<'_, N>) -> Option<Reason> {
        let tasks = self.tasks.as_ref().filter(|tasks| !tasks.is_empty())?;
        if tasks.keys().all(|id| self.partials.has(id, context.settings.me)) {
            return None;
        }
        self.guard.why_closed().or_else(|| self.signing.why_missing(context.clock))
    }

    pub(crate) fn is_own_partial_coming<N>(&self, context: &Context<'_, N>) -> bool {
        self.guard.may_pass() && context.clock == Clock::Trusted && !self.signing.has_failed()
    }
}
