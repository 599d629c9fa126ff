//! Asking the signer, which makes up its own mind about every message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain::{ForkInfo, PublicKeyBytes, Root, SignatureBytes, VoluntaryExit};
use duty::SignError;
use ipc::folder::{
    IdentityAnswer, IdentityGiven, IdentityToSeal, OPEN_IDENTITY_PATH, SEAL_IDENTITY_PATH, SealedIdentity,
    identity_path,
};
use ipc::web3signer::{
    CHAIN_MARKS_PATH, ChainMark, MAX_CHAIN_MARKS_AT_ONCE, PUBLIC_KEYS_PATH, REMEMBERED_PATH, SEEN_PATH,
    SIGN_MANY_PATH, SeenAnswer, SeenSignature, SignAnswer, SignGroup, SignOutcome, SignRequest, sign_lists,
    sign_path,
};
use ipc::{Client, ClientError, Problem, Sensitive};

/// A signature later than this is of no use in its slot; the signer is on this box.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it may take to look at a whole lock, on a small board.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

/// The signer's signing socket.
#[derive(Debug, Clone)]
pub struct Signer {
    client: Arc<Client>,
}

/// One message to sign.
#[derive(Debug, Clone)]
pub struct Request<K> {
    /// Whatever names it for the caller.
    pub key: K,
    /// With which share.
    pub share: PublicKeyBytes,
    /// The whole message.
    pub message: SignRequest,
    /// What we believe is signed; the signer computes it itself.
    pub signing_root: Root,
}

impl Signer {
    /// A client of the socket; nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self { client: Arc::new(Client::new(socket).with_timeout(PATIENCE)) }
    }

    /// The shares it holds.
    pub async fn shares(&self) -> Result<BTreeSet<PublicKeyBytes>, ClientError> {
        self.client.get(PUBLIC_KEYS_PATH).await
    }

    /// The identity key of a cluster whose folder the owner handed to the signer.
    pub async fn identity(&self, lock_hash: &str) -> Result<Sensitive, Problem> {
        let hash = path_hash(lock_hash)?;
        let answer: Result<IdentityAnswer, ClientError> = self.client.get(&identity_path(hash)).await;
        answer.map(|answer| answer.identity_key).map_err(locked)
    }

    /// Has the signer seal an identity key for this program's own disk; hex.
    pub(crate) async fn seal_identity(&self, key: &Sensitive) -> Result<String, Problem> {
        let identity_key = Sensitive::new(key.expose_secret().trim().to_owned());
        let answer: Result<SealedIdentity, ClientError> =
            self.client.post(SEAL_IDENTITY_PATH, &IdentityToSeal { identity_key }).await;
        answer.map(|answer| answer.sealed).map_err(locked)
    }

    /// Has the signer open one that it sealed.
    pub(crate) async fn open_identity(&self, sealed: &str) -> Result<Sensitive, Problem> {
        let kept = SealedIdentity { sealed: sealed.to_owned() };
        let answer: Result<IdentityAnswer, ClientError> = self.client.post(OPEN_IDENTITY_PATH, &kept).await;
        answer.map(|answer| answer.identity_key).map_err(locked)
    }

    /// Gives the identity key of a cluster to the signer, which keeps it sealed for backups and moves.
    pub async fn keep_identity(
        &self,
        lock_hash: &str,
        key: &Sensitive,
        lock: serde_json::Value,
    ) -> Result<(), Problem> {
        let hash = path_hash(lock_hash)?;
        let identity_key = Sensitive::new(key.expose_secret().trim().to_owned());
        let given = IdentityGiven { identity_key, lock: Some(lock) };
        // It looks at every signature in the lock.
        let patient = Client::new(self.client.socket()).with_timeout(LOCK_PATIENCE);
        let kept: Result<serde_json::Value, ClientError> = patient.put(&identity_path(hash), &given).await;
        kept.map(drop).map_err(locked)
    }

    /// Asks for all of them at once. Every request gets its answer; what the signer refuses does not hold up the others.
    pub async fn sign<K: Copy>(
        &self,
        requests: Vec<Request<K>>,
    ) -> Vec<(K, Result<SignatureBytes, SignError>)> {
        // What has one root is one message, said once.
        let mut messages: BTreeMap<Root, (SignGroup, Vec<K>)> = BTreeMap::new();
        for Request { key, share, message, signing_root } in requests {
            let request = || SignGroup { keys: Vec::new(), request: message.expecting(signing_root) };
            let (group, asked) = messages.entry(signing_root).or_insert_with(|| (request(), Vec::new()));
            group.keys.push(share);
            asked.push(key);
        }
        let (groups, asked): (Vec<_>, Vec<_>) = messages.into_values().unzip();
        let asked: Vec<K> = asked.into_iter().flatten().collect();
        let outcomes: Vec<_> = match sign_lists(&groups) {
            Ok(lists) => {
                let lists = lists.into_iter().map(|(parts, list)| self.sign_list(count(&parts), list));
                futures::future::join_all(lists).await.into_iter().flatten().collect()
            }
            Err(error) => vec![Err(SignError::Withheld(error.to_string())); asked.len()],
        };
        asked.into_iter().zip(outcomes).collect()
    }

    /// Asks for the signature of an exit, which the signer gives only when its owner has confirmed it there.
    pub async fn sign_exit(
        &self,
        share: PublicKeyBytes,
        fork_info: ForkInfo,
        exit: &VoluntaryExit,
        signing_root: Root,
    ) -> Result<SignatureBytes, SignError> {
        let body = SignRequest::new("VOLUNTARY_EXIT", Some(fork_info), "voluntary_exit", exit)
            .map_err(|error| SignError::Withheld(error.to_string()))?
            .expecting(signing_root);
        let answer: Result<SignAnswer, ClientError> = self.client.post(&sign_path(&share), &body).await;
        match answer {
            Ok(answer) => Ok(answer.signature),
            Err(ClientError::Refused { problem, .. }) => Err(SignError::Refused(problem.message)),
            Err(
                error @ (ClientError::Unreachable { .. }
                | ClientError::Broken { .. }
                | ClientError::Timeout { .. }
                | ClientError::Malformed { .. }),
            ) => Err(SignError::Unavailable(error.to_string())),
        }
    }

    /// Tells the signer of signatures of its shares that others have sent.
    pub async fn seen(&self, seen: &[SeenSignature]) -> Result<SeenAnswer, ClientError> {
        self.client.post(SEEN_PATH, &seen).await
    }

    /// Tells it of those that members remember from before this box started.
    pub async fn remembered(&self, seen: &[SeenSignature]) -> Result<SeenAnswer, ClientError> {
        self.client.post(REMEMBERED_PATH, &seen).await
    }

    /// Tells it what the chain shows of its shares' validators.
    pub async fn chain_marks(&self, marks: &[ChainMark]) -> Result<(), ClientError> {
        for some in marks.chunks(MAX_CHAIN_MARKS_AT_ONCE) {
            let _nothing_to_say: serde_json::Value = self.client.post(CHAIN_MARKS_PATH, &some).await?;
        }
        Ok(())
    }

    /// As many outcomes as were asked for, in their order.
    async fn sign_list(&self, asked: usize, list: String) -> Vec<Result<SignatureBytes, SignError>> {
        let answer: Result<Vec<Vec<SignOutcome>>, ClientError> =
            self.client.post_text(SIGN_MANY_PATH, list).await;
        let all = |why: SignError| vec![Err(why); asked];
        match answer {
            Ok(outcomes) => {
                let outcomes: Vec<_> = outcomes.into_iter().flatten().map(outcome).collect();
                if outcomes.len() == asked {
                    outcomes
                } else {
                    all(SignError::Unavailable(format!(
                        "{asked} signatures were asked for, {} answers came",
                        outcomes.len()
                    )))
                }
            }
            Err(ClientError::Refused { status, problem }) => all(refused(status, problem)),
            Err(
                error @ (ClientError::Unreachable { .. }
                | ClientError::Broken { .. }
                | ClientError::Timeout { .. }
                | ClientError::Malformed { .. }),
            ) => all(SignError::Unavailable(error.to_string())),
        }
    }
}

/// What comes from outside must not become another path.
fn path_hash(lock_hash: &str) -> Result<&str, Problem> {
    let hash = lock_hash.strip_prefix("0x").unwrap_or(lock_hash);
    if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(hash);
    }
    Err(Problem::new(
        "lock_invalid",
        "The cluster lock has no lock hash.",
        "Get the original cluster-lock.json.",
    ))
}

/// Why an identity key does not come: what passes when the signer is there and open has a code of its own.
fn locked(error: ClientError) -> Problem {
    let (why, next_step) = match error {
        ClientError::Refused { status: 503, problem } => (problem.message, problem.next_step),
        ClientError::Refused { problem, .. } => return problem,
        error @ (ClientError::Unreachable { .. }
        | ClientError::Broken { .. }
        | ClientError::Timeout { .. }
        | ClientError::Malformed { .. }) => (
            format!("it does not answer: {error}."),
            "Wait a minute; if this stays, restart the box.".to_owned(),
        ),
    };
    Problem::new(
        crate::sealed::LOCKED,
        format!(
            "This box's identity key is sealed, and the signer cannot open or seal it yet. {}",
            crate::setup::sentence(&why)
        ),
        next_step,
    )
}

fn count(groups: &[SignGroup]) -> usize {
    groups.iter().map(|group| group.keys.len()).sum()
}

fn outcome(outcome: SignOutcome) -> Result<SignatureBytes, SignError> {
    match outcome {
        SignOutcome::Signed(answer) => Ok(answer.signature),
        SignOutcome::Refused { status, problem } => Err(refused(status, problem)),
    }
}

/// What will not change when asked again, and what may.
fn refused(status: u16, problem: Problem) -> SignError {
    match status {
        400 | 412 => SignError::Refused(problem.message),
        _ => SignError::Unavailable(problem.message),
    }
}
