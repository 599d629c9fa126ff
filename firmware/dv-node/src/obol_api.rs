//! The Obol API, for owners who choose to use it: it shows a cluster to its members on Obol's pages, and passes partial exits
//! on between members whose nodes do not send them to each other (obol.md 12.5, 12.6).
//!
//! Nothing is sent there unless the owner has said so, and nothing that comes from there is believed: each signature in an
//! answer is checked under its member's share. What goes there is public by its nature: the lock, and exits that this
//! member's owner has confirmed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chain::PublicKeyBytes;
use cluster::exit::{self, ExitBlob};
use thiserror::Error;

/// Whatever takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is larger: a signature is 194 letters, and there are at most 256.
const MAX_ANSWER: usize = 128 * 1024;
/// After a call that failed nothing is sent for this long.
const PAUSE: Duration = Duration::from_secs(120);
/// The service is asked this often what all members signed for one validator.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// What the service is called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Publishing the cluster's lock.
    Lock,
    /// Giving out our partial exits.
    Partials(Vec<ExitBlob>),
    /// Asking what all members signed for one validator.
    Full(PublicKeyBytes),
}

/// When to call: one call at a time. Time and answers come from outside.
#[derive(Debug, Default)]
pub struct Schedule {
    waiting: Option<Call>,
    lock_is_there: bool,
    given: Vec<ExitBlob>,
    asked: BTreeMap<PublicKeyBytes, Instant>,
    paused_until: Option<Instant>,
    /// Why the last call failed.
    trouble: Option<String>,
}

impl Schedule {
    /// The next call, if one is due: the lock once, our partial exits whenever they are others, and then what is still too few.
    pub fn next(
        &mut self,
        now: Instant,
        partials: Vec<ExitBlob>,
        too_few: impl Iterator<Item = PublicKeyBytes>,
    ) -> Option<Call> {
        if self.waiting.is_some() || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let is_due = |key: &PublicKeyBytes| {
            self.asked.get(key).is_none_or(|at| now.saturating_duration_since(*at) >= ASK_EVERY)
        };
        let call = if !self.lock_is_there {
            Call::Lock
        } else if !partials.is_empty() && self.given != partials {
            Call::Partials(partials)
        } else {
            Call::Full(too_few.filter(is_due).min_by_key(|key| self.asked.get(key).copied())?)
        };
        if let Call::Full(key) = call {
            self.asked.insert(key, now);
        }
        self.waiting = Some(call.clone());
        Some(call)
    }

    /// The waiting call ended.
    pub fn ended(&mut self, now: Instant, result: Result<(), String>) {
        let call = self.waiting.take();
        match result {
            Ok(()) => {
                self.trouble = None;
                match call {
                    Some(Call::Lock) => self.lock_is_there = true,
                    Some(Call::Partials(given)) => self.given = given,
                    Some(Call::Full(_)) | None => {}
                }
            }
            Err(why) => {
                self.trouble = Some(why);
                self.paused_until = now.checked_add(PAUSE);
            }
        }
    }

    /// Why the last call failed.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Not reached, or not in time.
    #[error("the service does not answer ({0})")]
    Unreachable(String),
    /// It said no.
    #[error("the service refused with status {0}")]
    Status(u16),
    /// More than any answer.
    #[error("the service's answer is too long")]
    TooLong,
    /// The lock or our exits could not be read.
    #[error("{0}")]
    Own(String),
}

/// One service.
#[derive(Debug, Clone)]
pub struct ObolApi {
    service: String,
    client: reqwest::Client,
}

impl ObolApi {
    /// Opens no connection yet.
    pub fn new(service: &str) -> Result<Self, ApiError> {
        // Another part of the process may have installed the same provider already; that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            // A token must not follow anybody's pointer.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| ApiError::Unreachable(error.without_url().to_string()))?;
        Ok(Self { service: service.to_owned(), client })
    }

    /// Sends a JSON body. What is there already counts as sent.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<(), ApiError> {
        let request = self.client.post(exit::api_url(&self.service, path));
        let answer = request.header("content-type", "application/json").body(body).send().await;
        match answer.map_err(unreachable)?.status().as_u16() {
            200..=299 | 409 => Ok(()),
            status => Err(ApiError::Status(status)),
        }
    }

    /// Asks for a value; none when there is none yet.
    pub async fn get(&self, path: &str, authorization: &str) -> Result<Option<Vec<u8>>, ApiError> {
        let request = self.client.get(exit::api_url(&self.service, path));
        let mut answer = request.header("authorization", authorization).send().await.map_err(unreachable)?;
        match answer.status().as_u16() {
            200..=299 => {}
            404 => return Ok(None),
            status => return Err(ApiError::Status(status)),
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(ApiError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }
}

fn unreachable(error: reqwest::Error) -> ApiError {
    ApiError::Unreachable(error.without_url().to_string())
}

#[cfg(test)]
mod tests {
    use chain::{Epoch, SignatureBytes, SignedVoluntaryExit, ValidatorIndex, VoluntaryExit};

    use super::*;

    fn exits(of: &[PublicKeyBytes]) -> Vec<ExitBlob> {
        let message = VoluntaryExit { epoch: Epoch(0), validator_index: ValidatorIndex(7) };
        let signed_exit_message = SignedVoluntaryExit { message, signature: SignatureBytes([3; 96]) };
        of.iter().map(|key| ExitBlob { public_key: *key, signed_exit_message }).collect()
    }

    const ONE: PublicKeyBytes = PublicKeyBytes([1; 48]);
    const TWO: PublicKeyBytes = PublicKeyBytes([2; 48]);

    #[test]
    fn one_call_at_a_time_and_each_as_often_as_it_is_needed() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let both = || [ONE, TWO].into_iter();
        assert_eq!(schedule.next(at(0), exits(&[ONE]), both()), Some(Call::Lock));
        assert_eq!(schedule.next(at(1), exits(&[ONE]), both()), None, "one at a time");
        schedule.ended(at(1), Err("away".to_owned()));
        assert_eq!(schedule.trouble(), Some("away"));
        assert_eq!(schedule.next(at(2), exits(&[ONE]), both()), None, "after a failure there is a pause");
        assert_eq!(schedule.next(at(121), exits(&[ONE]), both()), Some(Call::Lock));
        schedule.ended(at(121), Ok(()));
        assert_eq!(schedule.trouble(), None);
        assert_eq!(schedule.next(at(122), exits(&[ONE]), both()), Some(Call::Partials(exits(&[ONE]))));
        schedule.ended(at(122), Ok(()));
        for key in [ONE, TWO] {
            assert_eq!(schedule.next(at(123), exits(&[ONE]), both()), Some(Call::Full(key)));
            schedule.ended(at(123), Ok(()));
        }
        assert_eq!(schedule.next(at(124), exits(&[ONE]), both()), None, "nothing is new");
        assert_eq!(
            schedule.next(at(124), exits(&[ONE, TWO]), both()),
            Some(Call::Partials(exits(&[ONE, TWO])))
        );
        schedule.ended(at(124), Ok(()));
        assert_eq!(schedule.next(at(183), exits(&[ONE, TWO]), both()), Some(Call::Full(ONE)));
        schedule.ended(at(183), Ok(()));
        assert_eq!(schedule.next(at(183), Vec::new(), std::iter::empty()), None);
    }
}
