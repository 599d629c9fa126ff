//! The watch for another signer with one of our shares (decision 0284).
//!
//! `dv-node` passes on signatures of our shares that it did not get from here. Only what verifies under the share's own key is
//! believed, so nobody can stop a share who cannot sign with it; whether it was made here, the ledger knows.

use std::sync::Arc;

use chain::{PublicKeyBytes, UnixMillis};
use ipc::{
    Problem,
    owner::{RESUME_CONFIRMATION, ResumeShare, ShareResumed},
    web3signer::{ChainMark, MAX_CHAIN_MARKS_AT_ONCE, MAX_SEEN_AT_ONCE, SeenAnswer, SeenSignature},
};

use crate::{
    clock::now,
    ledger::{Asked, Ledger, RESTS, Resumed},
    message::{self, Vote},
    refusal::Refusal,
    signer::{Signer, blocking, ledger_problem},
};

impl Signer {
    /// Takes note of signatures that were seen. What proves nothing is passed over.
    pub(crate) async fn note_seen(&self, seen: Vec<SeenSignature>) -> Result<SeenAnswer, Refusal> {
        let votes = self.proven(seen).await?;
        if votes.is_empty() {
            return Ok(SeenAnswer::default());
        }
        let ledger = self.ledger().map_err(Refusal::NotReady)?;
        let stopped = ledger.seen(votes).await.map_err(|error| Refusal::NotDurable(error.to_string()))?;
        for share in &stopped {
            tracing::error!(pubshare = %share, "this share signs elsewhere: it is stopped until the owner decides");
        }
        Ok(SeenAnswer { stopped })
    }

    /// Takes note of what members remember that these shares signed before this box started (decision 0375). Not before the
    /// vault is open: which shares there are is not known until then, and nothing is signed.
    pub(crate) async fn note_remembered(&self, seen: Vec<SeenSignature>) -> Result<SeenAnswer, Refusal> {
        let ledger = self.ready()?;
        let votes = self.proven(seen).await?;
        if votes.is_empty() {
            return Ok(SeenAnswer::default());
        }
        let stopped =
            ledger.remembered(votes).await.map_err(|error| Refusal::NotDurable(error.to_string()))?;
        for share in &stopped {
            tracing::error!(pubshare = %share, "members remember a vote of this share that is not on record here: it is stopped until the owner decides");
        }
        Ok(SeenAnswer { stopped })
    }

    /// Takes note of what the chain shows of the validators of these shares (decision 0402). Believed by nobody, and only ever
    /// stricter.
    pub(crate) async fn note_chain_marks(&self, marks: Vec<ChainMark>) -> Result<(), Refusal> {
        let ledger = self.ready()?;
        if marks.len() > MAX_CHAIN_MARKS_AT_ONCE {
            return Err(Refusal::Malformed(format!(
                "at most {MAX_CHAIN_MARKS_AT_ONCE} marks are taken at once"
            )));
        }
        ledger.mark(marks).await.map_err(|error| Refusal::NotDurable(error.to_string()))
    }

    /// The votes among them that the shares' own keys verify.
    async fn proven(&self, seen: Vec<SeenSignature>) -> Result<Vec<Asked>, Refusal> {
        if seen.len() > MAX_SEEN_AT_ONCE {
            return Err(Refusal::Malformed(format!(
                "at most {MAX_SEEN_AT_ONCE} signatures are looked at at once"
            )));
        }
        let known: Vec<(Asked, SeenSignature)> =
            seen.into_iter().filter_map(|seen| self.read_seen(seen)).collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let proven: Option<Vec<(Asked, SeenSignature)>> =
            blocking(move || known.into_iter().filter(|(asked, seen)| is_valid(asked, seen)).collect()).await;
        Ok(proven.unwrap_or_default().into_iter().map(|(asked, _)| asked).collect())
    }

    /// A vote under a share that is held here and was not seen elsewhere yet. One that rests is an alarm then.
    fn read_seen(&self, seen: SeenSignature) -> Option<(Asked, SeenSignature)> {
        let (row, _) = self.known_row(&seen.key)?;
        if self.ledger().ok()?.stopped_at(&seen.key).is_some_and(|seen_at| seen_at != RESTS) {
            return None;
        }
        let message = message::read(&seen.request, row.genesis_validators_root, &row.clock, None).ok()?;
        (message.vote != Vote::None).then_some((Asked { key: seen.key, message }, seen))
    }

    /// The owner has decided that a stopped share may go on.
    pub(crate) async fn resume_share(self: &Arc<Self>, wish: ResumeShare) -> Result<ShareResumed, Problem> {
        let unknown = || {
            Problem::new(
                "share_not_stopped",
                "No share with this public key is stopped here.",
                "Copy the share's public key from the signer's message on the page.",
            )
        };
        let key: PublicKeyBytes = wish.share.trim().to_ascii_lowercase().parse().map_err(|_| unknown())?;
        let shown = UnixMillis(wish.stopped_at_ms);
        let rests = shown == RESTS;
        if wish.confirm.trim().to_lowercase() != RESUME_CONFIRMATION {
            let (what, ending) = if rests {
                ("A share that came in to rest", "Make sure that the node it comes from is stopped for good")
            } else {
                ("A share that was seen signing elsewhere", "Find and end what else signs with it")
            };
            return Err(Problem::new(
                "not_confirmed",
                format!("{what} goes on only when you say that nothing else uses it."),
                format!("{ending}. Then type: {RESUME_CONFIRMATION}."),
            ));
        }
        // It waits by the clock.
        self.trust_clock().map_err(|refusal| refusal.to_problem())?;
        let resumed = self.ledger()?.resume(key, shown, now()).await;
        let first = match resumed.map_err(|error| ledger_problem(&error))? {
            Resumed::GoesOn(first) => first,
            Resumed::NotStopped => return Err(unknown()),
            Resumed::StoppedAnew => {
                return Err(Problem::new(
                    "share_stopped_anew",
                    "What is said of this share is not what you were shown: it has been seen signing elsewhere since. It stays stopped.",
                    "Read what the page says of it now, end what else signs with it, and decide again.",
                ));
            }
        };
        tracing::warn!(pubshare = %key, rests, "the owner lets a share go on that was seen elsewhere or came in to rest");
        Ok(ShareResumed { votes_from_epoch: first.map(|epoch| epoch.0) })
    }

    /// What the status says of stopped shares.
    pub(crate) fn stopped_problems(&self) -> Vec<Problem> {
        let mut stopped = self.ledger().map(Ledger::stopped).unwrap_or_default();
        // One that was deleted or has moved away is nothing to decide on here; it is stopped again if it comes back.
        stopped.retain(|key, _| self.known_row(key).is_some());
        let (rest, seen): (Vec<_>, Vec<_>) = stopped.into_iter().partition(|(_, seen_at)| *seen_at == RESTS);
        let mut problems = Vec::new();
        // Each by its name: a share that is in use twice must not be taken for one that rests.
        if !seen.is_empty() {
            let message = format!(
                "{} shares of this box were seen signing what this box has no record of, and sign nothing here until you decide: {}. Either something else signs with them, or an old copy of this box's disk was put back.",
                seen.len(),
                named(&seen)
            );
            problems.push(Problem { message, ..Refusal::SignsElsewhere.to_problem() });
        }
        if !rest.is_empty() {
            problems.push(Problem::new(
                "shares_rest",
                format!("{} shares came in to rest and sign nothing until you let each go on: {}.", rest.len(), named(&rest)),
                "Make sure that the node they come from is stopped for good. Let one go on when this box is to sign with it and nothing else does any more; it waits for three epochs then.",
            ));
        }
        problems
    }
}

/// More than fit on a page are counted.
const MOST_NAMED: usize = 64;

fn named(stopped: &[(PublicKeyBytes, UnixMillis)]) -> String {
    let mut names: Vec<String> = stopped.iter().take(MOST_NAMED).map(|(key, _)| key.to_string()).collect();
    if stopped.len() > names.len() {
        names.push(format!("and {} more", stopped.len() - names.len()));
    }
    names.join(", ")
}

pub(crate) fn is_valid(asked: &Asked, seen: &SeenSignature) -> bool {
    let key = threshold::PublicKey::parse(&seen.key);
    let signature = threshold::Signature::parse(&seen.signature);
    match (key, signature) {
        (Ok(key), Ok(signature)) => {
            threshold::verify(&key, asked.message.signing_root.as_slice(), &signature)
        }
        (Ok(_) | Err(_), _) => false,
    }
}
