//! Calling the Obol API, where the owner wants that.

use std::time::Instant;

use chain::Domain;
use cluster::exit::{self, FullExitAnswer, PartialExits};

use super::{Event, Node};
use crate::obol_api::{ApiError, Call, ObolApi, Schedule};

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

    /// Why the last call failed.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.schedule.trouble()
    }
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
        let Some(call) = service.schedule.next(Instant::now(), partials, too_few.into_iter()) else {
            return;
        };
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
            Event::ObolApi(call, answer.map_err(|error| error.to_string()))
        });
    }

    /// What came of a call. Of a wrong answer nothing is taken, and the service is left alone for a while.
    pub(super) fn on_obol_api(&mut self, call: &Call, answer: Result<Option<Vec<u8>>, String>) {
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
            Err(why) => tracing::warn!(why, "a call to the Obol API failed"),
        }
        service.schedule.ended(Instant::now(), result);
    }

    fn take_service_s_answer(&mut self, domain: Domain, body: &[u8]) -> Result<(), String> {
        // The parser's own words would quote the answer.
        let read: Result<FullExitAnswer, _> = serde_json::from_slice(body);
        let answer = read.map_err(|_| "the service's answer cannot be read".to_owned())?;
        self.take_answer(domain, &answer).map_err(|error| error.to_string())
    }
}
