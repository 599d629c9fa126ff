//! Asking the signer for everything in a change of the cluster that needs a secret.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain::{PublicKeyBytes, SignatureBytes};
use ipc::edit::{
    EDIT_BEGIN_PATH, EDIT_CHECK_PATH, EDIT_COMMIT_PATH, EDIT_DRY_RUN_PATH, EDIT_KEYS_PATH, EDIT_PREPARE_PATH,
    EDIT_STATUS_PATH, EDIT_STEP_PATH, EditBegun, EditBundleKind, EditCheck, EditChecked, EditCommit,
    EditCommitted, EditDryRun, EditEvent, EditKey, EditKeys, EditPartial, EditPartials, EditPrepared,
    EditStatus, EditStep, EditStepped,
};
use ipc::{Client, ClientError, Problem};
use obol::dkg::edit::{Answer, DealEvent, Question, SignedAnnouncement};
use obol::dkg::exchange::Partials;
use obol::dkg::pedersen::{Announcement, BundleKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Checking a thousand validators' partial signatures of thirty members takes minutes on a small board.
const PATIENCE: Duration = Duration::from_secs(600);
/// It is on this box, and looks into its ledger only.
const STATUS_PATIENCE: Duration = Duration::from_secs(4);
/// Pause before the signer is asked again when it could not be reached.
const PAUSE: Duration = Duration::from_secs(2);

/// Asks the signer once to change over to a complete lock. It verifies the lock itself, and does it only for new shares of its
/// own that wait for exactly that one.
pub async fn commit(socket: &Path, lock: serde_json::Value) -> Result<EditCommitted, Problem> {
    let client = Client::new(socket).with_timeout(PATIENCE);
    match client.post(EDIT_COMMIT_PATH, &EditCommit { lock }).await {
        Ok(committed) => Ok(committed),
        Err(ClientError::Refused { status: 400..500, problem }) => Err(problem),
        Err(error) => Err(Problem::new(
            "signer_unavailable",
            crate::setup::sentence(&format!("the signer cannot be asked: {error}")),
            "Look at the signer's own status, then hand the lock in again: nothing is lost by it.",
        )),
    }
}

/// Whether shares wait in the signer for the lock of this hash. A signer that does not answer may hold some.
pub async fn waits_for(socket: &Path, lock_hash: &str) -> Result<bool, Problem> {
    let status: Result<EditStatus, ClientError> =
        Client::new(socket).with_timeout(STATUS_PATIENCE).get(EDIT_STATUS_PATH).await;
    match status {
        Ok(status) => {
            let names = status.open.iter().map(|open| open.name.as_str()).chain(status.lock_hash.as_deref());
            Ok(names.into_iter().any(|name| name.eq_ignore_ascii_case(lock_hash)))
        }
        Err(ClientError::Refused { problem, .. }) => Err(problem),
        Err(error) => Err(Problem::new(
            "signer_unavailable",
            crate::setup::sentence(&format!("the signer cannot be asked: {error}")),
            "Look at the signer's own status, then try again.",
        )),
    }
}

/// The signing socket, for one change.
#[derive(Clone)]
pub(super) struct Secrets {
    client: Arc<Client>,
}

impl Secrets {
    pub(super) fn new(socket: &Path) -> Self {
        Self { client: Arc::new(Client::new(socket).with_timeout(PATIENCE)) }
    }

    /// How far the signer is.
    pub(super) async fn status(&self) -> Result<EditStatus, ClientError> {
        // Asked where the daemon waits for it.
        Client::new(self.client.socket()).with_timeout(STATUS_PATIENCE).get(EDIT_STATUS_PATH).await
    }

    /// Asks until there is an answer.
    pub(super) async fn answer(&self, question: Question) -> Answer {
        let result = match question {
            Question::Begin => self.begin().await,
            Question::Keys { keys } => self.keys(&keys).await,
            Question::Deal { validator, event } => self.deal(validator, event).await,
            Question::Prepare => self.prepare().await,
            Question::DryRun { lock_hash } => self.dry_run(&lock_hash).await,
            Question::Check { lock, members } => self.check(&lock, &members).await,
            Question::Commit { lock } => self.commit(&lock).await,
        };
        result.unwrap_or_else(|problem| Answer::Failed { why: problem.message, next_step: problem.next_step })
    }

    async fn begin(&self) -> Result<Answer, Problem> {
        let begun: EditBegun = self.ask(EDIT_BEGIN_PATH, &()).await?;
        let key: PublicKeyBytes = begun.public_key.parse().map_err(|_| malformed())?;
        let shares = begun.shares.as_deref().map(keys_of).transpose()?;
        let voucher = begun.voucher.as_deref().map(str::parse::<SignatureBytes>).transpose();
        let voucher = voucher.map_err(|_| malformed())?;
        Ok(Answer::Begun(Announcement { key, shares, voucher }))
    }

    async fn keys(&self, keys: &[SignedAnnouncement]) -> Result<Answer, Problem> {
        let key = |said: &SignedAnnouncement| EditKey {
            public_key: said.announcement.key.to_string(),
            signature: hex::encode(&said.signature),
            voucher: said.announcement.voucher.map(|voucher| voucher.to_string()),
        };
        let request = EditKeys { members: keys.iter().map(key).collect() };
        let _: EditStatus = self.ask(EDIT_KEYS_PATH, &request).await?;
        Ok(Answer::KeysTaken)
    }

    async fn deal(&self, validator: usize, event: DealEvent) -> Result<Answer, Problem> {
        let event = match event {
            DealEvent::Start => EditEvent::Start,
            DealEvent::Received { member, kind, bytes } => {
                EditEvent::Received { from: member, kind: kind_there(kind), bundle: hex::encode(bytes) }
            }
            DealEvent::Timeout => EditEvent::Timeout,
        };
        let stepped: EditStepped = self.ask(EDIT_STEP_PATH, &EditStep { validator, event }).await?;
        let mut send = Vec::with_capacity(stepped.send.len());
        for bundle in &stepped.send {
            let bytes = hex::decode(&bundle.bundle).map_err(|_| malformed())?;
            send.push((kind_here(bundle.kind), bytes));
        }
        let shares = keys_of(&stepped.public_shares)?;
        Ok(Answer::Dealt {
            send,
            new_phase: stepped.new_phase,
            accused: stepped.accused,
            finished: stepped.finished.then_some(shares),
        })
    }

    async fn prepare(&self) -> Result<Answer, Problem> {
        let prepared: EditPrepared = self.ask(EDIT_PREPARE_PATH, &()).await?;
        let lock = serde_json::to_vec(&prepared.lock).map_err(|_| malformed())?;
        Ok(Answer::Prepared { lock })
    }

    async fn dry_run(&self, lock_hash: &[u8; 32]) -> Result<Answer, Problem> {
        let request = EditDryRun { lock_hash: format!("0x{}", hex::encode(lock_hash)) };
        let made: EditPartials = self.ask(EDIT_DRY_RUN_PATH, &request).await?;
        let mut partials: Partials = Vec::with_capacity(made.partials.len());
        for partial in &made.partials {
            let validator: PublicKeyBytes = partial.validator.parse().map_err(|_| malformed())?;
            let signature: SignatureBytes = partial.signature.parse().map_err(|_| malformed())?;
            partials.push((validator, signature));
        }
        Ok(Answer::Partials(partials))
    }

    async fn check(&self, lock: &[u8], members: &[Partials]) -> Result<Answer, Problem> {
        let texts = |partials: &Partials| {
            let text = |(validator, signature): &(PublicKeyBytes, SignatureBytes)| EditPartial {
                validator: validator.to_string(),
                signature: signature.to_string(),
            };
            partials.iter().map(text).collect()
        };
        let lock = serde_json::from_slice(lock).map_err(|_| malformed())?;
        let request = EditCheck { lock, members: members.iter().map(texts).collect() };
        let checked: EditChecked = self.ask(EDIT_CHECK_PATH, &request).await?;
        let aggregate: SignatureBytes = checked.signature_aggregate.parse().map_err(|_| malformed())?;
        Ok(Answer::Checked { aggregate })
    }

    async fn commit(&self, lock: &[u8]) -> Result<Answer, Problem> {
        let lock = serde_json::from_slice(lock).map_err(|_| malformed())?;
        let committed: EditCommitted = self.ask(EDIT_COMMIT_PATH, &EditCommit { lock }).await?;
        tracing::warn!(
            shares = committed.shares.len(),
            retired = committed.retired.len(),
            begins_in_epoch = ?committed.begins_in_epoch,
            "the signer has changed over to the new cluster"
        );
        Ok(Answer::Committed)
    }

    /// Every step may be repeated but the steps of a dealing, which the signer refuses a second time; so a signer that is
    /// away or locked is simply asked again.
    async fn ask<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, Problem> {
        loop {
            let why = match self.client.post(path, request).await {
                Ok(answer) => return Ok(answer),
                Err(ClientError::Refused { status: 400..500, problem }) => return Err(problem),
                Err(error) => error,
            };
            tracing::warn!(error = %why, "the signer cannot be asked now; it is asked again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn keys_of(texts: &[String]) -> Result<Vec<PublicKeyBytes>, Problem> {
    let keys: Result<Vec<PublicKeyBytes>, _> =
        texts.iter().map(|text| text.parse::<PublicKeyBytes>()).collect();
    keys.map_err(|_| malformed())
}

fn kind_there(kind: BundleKind) -> EditBundleKind {
    match kind {
        BundleKind::Deal => EditBundleKind::Deal,
        BundleKind::Response => EditBundleKind::Response,
        BundleKind::Justification => EditBundleKind::Justification,
    }
}

fn kind_here(kind: EditBundleKind) -> BundleKind {
    match kind {
        EditBundleKind::Deal => BundleKind::Deal,
        EditBundleKind::Response => BundleKind::Response,
        EditBundleKind::Justification => BundleKind::Justification,
    }
}

fn malformed() -> Problem {
    Problem::new(
        "signer_answer_malformed",
        "The signer's answer cannot be read.",
        "Report this: the box's own parts do not understand each other.",
    )
}
