//! The Obol API, for owners who choose to use it: it shows a cluster to its members on Obol's pages, and passes partial exits
//! on between members whose nodes do not send them to each other (obol.md 12.5, 12.6).
//!
//! Nothing is sent there unless the owner has said so, and nothing that comes from there is believed: each signature in an
//! answer is checked under its member's share. What goes there is public by its nature: the lock, and exits that this
//! member's owner has confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chain::{Epoch, PublicKeyBytes};
use cluster::exit::{self, ExitBlob};
use thiserror::Error;

/// Whatever takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is larger: a signature is 194 letters, and there are at most 256.
const MAX_ANSWER: usize = 128 * 1024;
/// What the service refused rests for so long at first; after calls that it did not answer nothing is sent for at most so long.
const PAUSE: Duration = Duration::from_secs(120);
/// After the first such call: the network of a box that has just started may not be up yet. Twice as long each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// What was refused this often in a row is not sent again in this run: the service will not take it.
const MAX_REFUSALS: u32 = 5;
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

impl Call {
    /// For the log.
    pub fn about(&self) -> String {
        match self {
            Self::Lock => "the cluster lock".to_owned(),
            Self::Partials(exits) => {
                let of: Vec<_> = exits.iter().map(|exit| exit.public_key.to_string()).take(4).collect();
                format!("{} partial exits: {}", exits.len(), of.join(", "))
            }
            Self::Full(validator) => format!("the exit of {validator}"),
        }
    }
}

/// What one call is about, as far as the service can refuse it without refusing another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// The lock.
    Lock,
    /// Our partial exit of this validator with this epoch.
    Give(PublicKeyBytes, Epoch),
    /// What all members signed for this validator.
    Ask(PublicKeyBytes),
}

impl Errand {
    fn give(exit: &ExitBlob) -> Self {
        Self::Give(exit.public_key, exit.signed_exit_message.message.epoch)
    }
}

/// An errand that failed by itself.
#[derive(Debug)]
struct Refused {
    why: ApiError,
    times: u32,
    /// When it is tried again; never, when it was refused too often.
    again: Option<Instant>,
}

/// When to call: one call at a time. Time and answers come from outside.
///
/// What the service does not answer, or answers with a fault of its own, is nobody's fault, and everything waits. What it refuses
/// rests alone, each time longer, and everything else goes on.
#[derive(Debug, Default)]
pub struct Schedule {
    waiting: Option<Call>,
    lock_is_there: bool,
    given: BTreeMap<PublicKeyBytes, ExitBlob>,
    /// Were in a list that was refused: nobody knows for which of them.
    alone: BTreeSet<Errand>,
    refused: BTreeMap<Errand, Refused>,
    asked: BTreeMap<PublicKeyBytes, Instant>,
    paused_until: Option<Instant>,
    /// Why the service could not be used at the last call.
    away: Option<ApiError>,
    /// How many calls in a row it did not answer.
    unanswered: u32,
}

impl Schedule {
    /// The next call, if one is due: the lock once, our partial exits whenever they are others, and then what is still too few.
    pub fn next(&mut self, now: Instant, partials: &[ExitBlob], too_few: &[PublicKeyBytes]) -> Option<Call> {
        self.forget_what_is_over(partials, too_few);
        if self.waiting.is_some() || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let is_due = |key: &&PublicKeyBytes| {
            self.asked.get(*key).is_none_or(|at| now.saturating_duration_since(*at) >= ASK_EVERY)
                && self.may(now, Errand::Ask(**key))
        };
        let call = if !self.lock_is_there && self.may(now, Errand::Lock) {
            Call::Lock
        } else if let Some(exits) = self.to_give(now, partials) {
            Call::Partials(exits)
        } else {
            Call::Full(*too_few.iter().filter(is_due).min_by_key(|key| self.asked.get(*key).copied())?)
        };
        if let Call::Full(key) = call {
            self.asked.insert(key, now);
        }
        self.waiting = Some(call.clone());
        Some(call)
    }

    /// All exits that are new to the service at once, and alone those of a list that it refused.
    fn to_give(&self, now: Instant, partials: &[ExitBlob]) -> Option<Vec<ExitBlob>> {
        let is_new = |exit: &&ExitBlob| {
            self.given.get(&exit.public_key) != Some(*exit) && self.may(now, Errand::give(exit))
        };
        let (mut alone, together): (Vec<_>, Vec<_>) = partials
            .iter()
            .filter(is_new)
            .copied()
            .partition(|exit| self.alone.contains(&Errand::give(exit)));
        if !together.is_empty() {
            return Some(together);
        }
        alone.truncate(1);
        Some(alone).filter(|alone| !alone.is_empty())
    }

    fn may(&self, now: Instant, errand: Errand) -> bool {
        self.refused.get(&errand).is_none_or(|refused| refused.again.is_some_and(|at| at <= now))
    }

    fn forget_what_is_over(&mut self, partials: &[ExitBlob], too_few: &[PublicKeyBytes]) {
        let gives: BTreeSet<Errand> = partials.iter().map(Errand::give).collect();
        let asks: BTreeSet<PublicKeyBytes> = too_few.iter().copied().collect();
        self.given.retain(|_, exit| gives.contains(&Errand::give(exit)));
        self.alone.retain(|errand| gives.contains(errand));
        self.asked.retain(|key, _| asks.contains(key));
        self.refused.retain(|errand, _| match errand {
            Errand::Lock => true,
            Errand::Give(..) => gives.contains(errand),
            Errand::Ask(key) => asks.contains(key),
        });
    }

    /// The waiting call ended.
    pub fn ended(&mut self, now: Instant, result: Result<(), ApiError>) {
        let Some(call) = self.waiting.take() else { return };
        let why = match result {
            Err(why) if why.is_of_the_service() => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.unanswered.min(4)).min(PAUSE);
                (self.away, self.paused_until) = (Some(why), now.checked_add(pause));
                self.unanswered = self.unanswered.saturating_add(1);
                return;
            }
            Err(why) => Some(why),
            Ok(()) => None,
        };
        (self.away, self.unanswered) = (None, 0);
        let errands: Vec<Errand> = match &call {
            Call::Lock => vec![Errand::Lock],
            Call::Partials(exits) => exits.iter().map(Errand::give).collect(),
            Call::Full(key) => vec![Errand::Ask(*key)],
        };
        match why {
            Some(_) if errands.len() > 1 => self.alone.extend(errands),
            Some(why) => errands.into_iter().for_each(|errand| self.refuse(now, errand, why.clone())),
            None => {
                errands.iter().for_each(|errand| drop(self.refused.remove(errand)));
                match call {
                    Call::Lock => self.lock_is_there = true,
                    Call::Partials(exits) => {
                        self.given.extend(exits.into_iter().map(|exit| (exit.public_key, exit)));
                    }
                    Call::Full(_) => {}
                }
            }
        }
    }

    fn refuse(&mut self, now: Instant, errand: Errand, why: ApiError) {
        let before = self.refused.get(&errand).map_or(0, |refused| refused.times);
        // What was of use in an answer was taken: it is asked for again as ever.
        let refused = if matches!(why, ApiError::WrongPartials { .. }) {
            Refused { why, times: 0, again: Some(now) }
        } else {
            let times = before.saturating_add(1);
            let pause = PAUSE.saturating_mul(1 << before.min(MAX_REFUSALS));
            Refused { why, times, again: (times < MAX_REFUSALS).then(|| now.checked_add(pause)).flatten() }
        };
        self.refused.insert(errand, refused);
    }

    /// Why the service could not be used at the last call.
    pub fn away(&self) -> Option<&ApiError> {
        self.away.as_ref()
    }

    /// What failed by itself, why, and whether it is tried again.
    pub fn refused(&self) -> impl Iterator<Item = (Errand, &ApiError, bool)> {
        self.refused.iter().map(|(errand, refused)| (*errand, &refused.why, refused.again.is_some()))
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// Not what such an answer is.
    #[error("the service's answer cannot be read")]
    Unreadable,
    /// Signatures in an answer are nobody's. The others in it were taken.
    #[error("the service has a signature that is not this cluster's in the place of {members}")]
    WrongPartials {
        /// In whose places they stand.
        members: String,
    },
    /// The lock or our exits could not be read, or an answer is about something else.
    #[error("{0}")]
    Own(String),
}

impl ApiError {
    /// Whether the service itself cannot be used now, whatever it is called for.
    fn is_of_the_service(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // No time, too many requests, and its own faults.
            Self::Status(status) => matches!(status, 408 | 429 | 500..),
            Self::TooLong | Self::Unreadable | Self::WrongPartials { .. } | Self::Own(_) => false,
        }
    }
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
    use chain::{SignatureBytes, SignedVoluntaryExit, ValidatorIndex, VoluntaryExit};

    use super::*;

    fn exits(of: &[PublicKeyBytes]) -> Vec<ExitBlob> {
        let message = VoluntaryExit { epoch: Epoch(0), validator_index: ValidatorIndex(7) };
        let signed_exit_message = SignedVoluntaryExit { message, signature: SignatureBytes([3; 96]) };
        of.iter().map(|key| ExitBlob { public_key: *key, signed_exit_message }).collect()
    }

    const ONE: PublicKeyBytes = PublicKeyBytes([1; 48]);
    const TWO: PublicKeyBytes = PublicKeyBytes([2; 48]);
    const THREE: PublicKeyBytes = PublicKeyBytes([3; 48]);

    fn away() -> ApiError {
        ApiError::Unreachable("away".to_owned())
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = ObolApi::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let service = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let mut sent = 0_usize;
            let mut chunk = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            while stream.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
                chunk = vec![b'['; 64 << 10];
            }
            sent
        });
        assert_eq!(api.get("/exp/exit/x", "Bearer 0x").await, Err(ApiError::TooLong));
        // What it could get rid of is the bound and what the sockets hold, not what it wanted to send.
        let sent = service.await.unwrap();
        assert!(sent < 64 << 20, "{sent}");
    }

    #[test]
    fn one_call_at_a_time_and_each_as_often_as_it_is_needed() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (one, both) = (exits(&[ONE]), [ONE, TWO]);
        assert_eq!(schedule.next(at(0), &one, &both), Some(Call::Lock));
        assert_eq!(schedule.next(at(1), &one, &both), None, "one at a time");
        schedule.ended(at(1), Err(away()));
        assert_eq!(schedule.away(), Some(&away()));
        assert_eq!(
            schedule.next(at(2), &one, &both),
            None,
            "of a service that is away nobody wants anything"
        );
        assert_eq!(schedule.next(at(121), &one, &both), Some(Call::Lock));
        schedule.ended(at(121), Ok(()));
        assert_eq!(schedule.away(), None);
        assert_eq!(schedule.next(at(122), &one, &both), Some(Call::Partials(one.clone())));
        schedule.ended(at(122), Ok(()));
        for key in both {
            assert_eq!(schedule.next(at(123), &one, &both), Some(Call::Full(key)));
            schedule.ended(at(123), Ok(()));
        }
        assert_eq!(schedule.next(at(124), &one, &both), None, "nothing is new");
        let two = exits(&both);
        assert_eq!(schedule.next(at(124), &two, &both), Some(Call::Partials(exits(&[TWO]))), "what is new");
        schedule.ended(at(124), Ok(()));
        assert_eq!(schedule.next(at(183), &two, &both), Some(Call::Full(ONE)));
        schedule.ended(at(183), Ok(()));
        assert_eq!(schedule.next(at(183), &[], &[]), None);
    }

    #[test]
    fn what_the_service_refuses_holds_nothing_else_up_and_is_tried_a_few_times() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (all, lacking) = (exits(&[ONE, TWO, THREE]), [ONE]);
        let no = || Err(ApiError::Status(400));
        assert_eq!(schedule.next(at(0), &all, &lacking), Some(Call::Lock));
        schedule.ended(at(0), no());
        // The lock is not taken: exits go all the same, at first together and then one by one.
        assert_eq!(schedule.next(at(0), &all, &lacking), Some(Call::Partials(all.clone())));
        schedule.ended(at(0), no());
        for key in [ONE, TWO, THREE] {
            assert_eq!(schedule.next(at(0), &all, &lacking), Some(Call::Partials(exits(&[key]))));
            schedule.ended(at(0), if key == TWO { no() } else { Ok(()) });
        }
        assert_eq!(schedule.next(at(0), &all, &lacking), Some(Call::Full(ONE)));
        schedule.ended(at(0), Ok(()));
        assert_eq!(schedule.next(at(1), &all, &lacking), None);
        assert_eq!(schedule.away(), None);
        let refused = |schedule: &Schedule| -> Vec<(Errand, bool)> {
            schedule.refused().map(|(errand, _, again)| (errand, again)).collect()
        };
        let two = Errand::Give(TWO, Epoch(0));
        assert_eq!(refused(&schedule), [(Errand::Lock, true), (two, true)]);
        // Each time later, and then not any more.
        let mut tries = Vec::new();
        for minute in 1..200 {
            if let Some(call) = schedule.next(at(minute * 60), &all, &[]) {
                assert!(call == Call::Lock || call == Call::Partials(exits(&[TWO])), "{call:?}");
                schedule.ended(at(minute * 60), no());
                if call == Call::Lock {
                    tries.push(minute);
                }
            }
        }
        assert_eq!(tries, [2, 6, 14, 30]);
        assert_eq!(refused(&schedule), [(Errand::Lock, false), (two, false)]);
        // Another exit of the same validator is another matter.
        let mut others = all.clone();
        others[1].signed_exit_message.message.epoch = Epoch(9);
        assert_eq!(schedule.next(at(20_000), &others, &[]), Some(Call::Partials(vec![others[1]])));
        schedule.ended(at(20_000), Ok(()));
        assert_eq!(refused(&schedule), [(Errand::Lock, false)]);
    }

    #[test]
    fn a_wrong_signature_among_others_is_told_and_asked_for_as_ever() {
        let (mut schedule, start) = (Schedule { lock_is_there: true, ..Schedule::default() }, Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for minute in 0..20 {
            assert_eq!(schedule.next(at(minute * 60), &[], &[ONE]), Some(Call::Full(ONE)), "{minute}");
            schedule.ended(at(minute * 60), Err(ApiError::WrongPartials { members: "ann".to_owned() }));
            assert_eq!(schedule.refused().count(), 1);
        }
        assert_eq!(schedule.next(at(1_200), &[], &[]), None, "enough have come from elsewhere");
        assert_eq!(schedule.refused().count(), 0);
    }
}
