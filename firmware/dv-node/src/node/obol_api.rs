//! Calling the Obol API, where the owner wants that.

use std::time::Instant;

use chain::Domain;
use cluster::exit::{self, FullExitAnswer, PartialExits};

use ipc::Problem;
use qbft::Member;

use super::{Event, Node};
use crate::obol_api::{ApiError, Call, Errand, ObolApi, Schedule};

/// A service that the owner has chosen, and what was said to it.
pub(crate) struct Service {
    api: ObolApi,
    schedule: Schedule,
}

impl Service {
    /// The configured service, if the owner wants one.
    pub(super) fn of(is_wanted: bool, service: &str) -> Option<Self> {
        if !is_wanted {
            return None;
        }
        match ObolApi::new(service) {
            Ok(api) => Some(Self { api, schedule: Schedule::default() }),
            Err(error) => {
                tracing::error!(%error, "Obol's service cannot be called");
                None
            }
        }
    }

    /// What the owner is told: the service cannot be used, or it refuses something.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(why) = self.schedule.away() {
            problems.push(Problem::new(
                "obol_api_trouble",
                format!("Obol's service, which this cluster uses as its owner wants, cannot be used: {why}."),
                "Nothing depends on it but its own pages and exits that members exchange there; it is called again by itself.",
            ));
        }
        let refused: Vec<_> = self.schedule.refused().collect();
        problems
            .extend(refused.iter().take(MAX_SHOWN).map(|(errand, why, again)| shown(*errand, why, *again)));
        if refused.len() > MAX_SHOWN {
            problems.push(Problem::new(
                "obol_api_refused_more",
                format!("Obol's service refuses {} more things of this cluster.", refused.len() - MAX_SHOWN),
                "The log names them.",
            ));
        }
        problems
    }
}

/// Problems of the service shown at once.
const MAX_SHOWN: usize = 4;

/// What the service refuses, for the page.
fn shown(errand: Errand, why: &ApiError, again: bool) -> Problem {
    let (code, what, next_step) = match (errand, why) {
        (Errand::Ask(validator), ApiError::WrongPartials { .. }) => (
            "obol_api_partial_wrong",
            format!("One of the partial exits of {validator} that Obol's service has cannot be used: {why}."),
            "The others in the answer were taken. Ask that member to sign the exit again.",
        ),
        (Errand::Lock, _) => (
            "obol_api_lock_refused",
            format!("Obol's service did not take the cluster's lock: {why}."),
            "Obol's pages do not show this cluster. Duties and exits do not need it.",
        ),
        (Errand::Give(validator, epoch), _) => (
            "obol_api_exit_refused",
            format!(
                "Obol's service did not take this box's partial exit of {validator} for epoch {epoch}: {why}."
            ),
            "Members that are Hearths have it all the same. For others, give them the file by hand.",
        ),
        (Errand::Ask(validator), _) => (
            "obol_api_exit_not_given",
            format!(
                "Obol's service does not say what all members signed for the exit of {validator}: {why}."
            ),
            "Members that are Hearths send theirs all the same. Of others, take the file by hand.",
        ),
    };
    let next_step = if again {
        format!("{next_step} It is tried again by itself.")
    } else {
        format!("{next_step} It was tried often enough and is not tried again until this box restarts.")
    };
    Problem::new(code, what, next_step)
}

impl Node {
    /// Makes the call that is due, if one is.
    pub(super) fn call_obol_api(&mut self) {
        if self.obol_api.is_none() {
            return;
        }
        let share = self.membership.share_index;
        let partials = self.exits_given_out();
        let too_few: Vec<_> = self.exits_too_few().collect();
        let Some(service) = &mut self.obol_api else { return };
        let Some(call) = service.schedule.next(Instant::now(), &partials, &too_few) else { return };
        let (api, lock_hash) = (service.api.clone(), self.membership.view.lock_hash);
        let (store, identity) = (self.store.clone(), std::sync::Arc::clone(&self.membership.identity));
        self.spawn(async move {
            let answer = match &call {
                Call::Lock => {
                    let lock = tokio::task::spawn_blocking(move || store.load_cluster());
                    match lock.await {
                        Ok(Ok(Some(setup))) => {
                            api.post("/lock", setup.lock.to_string().into_bytes()).await.map(|()| None)
                        }
                        Ok(Ok(None)) | Err(_) => {
                            Err(ApiError::Own("the cluster lock is not there".to_owned()))
                        }
                        Ok(Err(error)) => Err(ApiError::Own(error.to_string())),
                    }
                }
                Call::Partials(exits) => match PartialExits::sign(exits.clone(), share, &identity) {
                    Ok(signed) => {
                        api.post(&exit::partial_exits_path(&lock_hash), signed.to_json()).await.map(|()| None)
                    }
                    Err(error) => Err(ApiError::Own(error.to_string())),
                },
                Call::Full(validator) => {
                    let bearer = exit::bearer(&identity, &lock_hash, validator, share.into());
                    api.get(&exit::full_exit_path(&lock_hash, validator, share.into()), &bearer).await
                }
            };
            Event::ObolApi(call, answer)
        });
    }

    /// What came of a call. What is wrong in an answer is named, and the rest is taken.
    pub(super) fn on_obol_api(&mut self, call: &Call, answer: Result<Option<Vec<u8>>, ApiError>) {
        let domain = self.exit_domain();
        let result = answer.and_then(|answer| match (call, answer, domain) {
            (Call::Full(_), Some(body), Some(domain)) => self.take_service_s_answer(domain, &body),
            _ => Ok(()),
        });
        let Some(service) = &mut self.obol_api else { return };
        match &result {
            Ok(()) if *call == Call::Lock => {
                tracing::info!("the cluster lock is at the Obol API, as the owner wants")
            }
            Ok(()) => {}
            Err(why) => tracing::warn!(about = call.about(), %why, "a call to the Obol API failed"),
        }
        service.schedule.ended(Instant::now(), result);
    }

    fn take_service_s_answer(&mut self, domain: Domain, body: &[u8]) -> Result<(), ApiError> {
        // The parser's own words would quote the answer.
        let read: Result<FullExitAnswer, _> = serde_json::from_slice(body);
        let answer = read.map_err(|_| ApiError::Unreadable)?;
        let wrong = self.take_answer(domain, &answer).map_err(|error| ApiError::Own(error.to_string()))?;
        if wrong.is_empty() {
            return Ok(());
        }
        Err(ApiError::WrongPartials { members: self.names_of(&wrong) })
    }

    /// The members with these share indices, for people.
    pub(super) fn names_of(&self, shares: &[u64]) -> String {
        let members = &self.membership.view.operators;
        let name = |share: &u64| {
            let member = usize::try_from(*share).ok().and_then(|share| share.checked_sub(1));
            match member.filter(|member| *member < members.len()).and_then(|member| u8::try_from(member).ok())
            {
                Some(member) => self.membership.name_of(Member(member)).to_owned(),
                None => format!("member {share}, which the cluster has not"),
            }
        };
        shares.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}
