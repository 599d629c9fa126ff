//! Asking the signer for everything in a ceremony that needs a secret.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain::{PublicKeyBytes, SignatureBytes};
use ipc::dkg::{
    CEREMONY_STATUS_PATH, CeremonyFacts, CeremonySignature, CeremonyStatus, DEAL_PATH, DealRequest, Dealt,
    FINISH_PATH, FinishRequest, KEEP_PATH, KeepRequest, Made, MemberCast, MemberMessage, MemberSealKey,
    PARTIALS_PATH, PartialsMade, PartialsRequest, RELEASE_PATH, ReleaseRequest,
};
use ipc::{Client, ClientError, Problem, Sensitive};
use obol::dkg::ceremony::{Answer, Question};
use obol::dkg::exchange::{Exchange, Partials};
use obol::dkg::wire::FrostRound1Casts;
use obol::dkg::{BornValidator, Plan};
use obol::wire::{Any, Named as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Adding up a thousand validators of thirty members takes minutes on a small board.
const PATIENCE: Duration = Duration::from_secs(600);
/// The daemon's loop waits for the facts, and with it everything else on this box.
const FACTS_WITHIN: Duration = Duration::from_secs(5);
/// Pause before the signer is asked again when it could not be reached.
const PAUSE: Duration = Duration::from_secs(2);

/// The signing socket, for one ceremony.
#[derive(Clone)]
pub(super) struct Secrets {
    client: Arc<Client>,
    /// The same for what is answered at once.
    brief: Arc<Client>,
    definition_hash: String,
    minor: u8,
    /// The validators that the cluster has already, in order.
    present: Vec<PublicKeyBytes>,
    /// The validators, once they are made: their order.
    made: Arc<Mutex<Vec<PublicKeyBytes>>>,
}

impl Secrets {
    pub(super) fn new(socket: &Path, plan: &Plan, minor: u8) -> Self {
        Self {
            client: Arc::new(Client::new(socket).with_timeout(PATIENCE)),
            brief: Arc::new(Client::new(socket).with_timeout(FACTS_WITHIN)),
            definition_hash: format!("0x{}", hex::encode(plan.hash())),
            minor,
            present: plan.present().iter().map(|validator| validator.public_key).collect(),
            made: Arc::default(),
        }
    }

    /// What the signer has of this ceremony; none when the owner has not begun it there.
    pub(super) async fn facts(&self) -> Result<Option<CeremonyFacts>, ClientError> {
        let status: CeremonyStatus = self.brief.get(CEREMONY_STATUS_PATH).await?;
        Ok(status.ceremony.filter(|facts| facts.definition_hash == self.definition_hash))
    }

    /// Asks until there is an answer.
    pub(super) async fn answer(&self, question: Question) -> Answer {
        let result = match question {
            Question::Deal { seal_keys } => self.deal(seal_keys).await,
            Question::Keep { member, bytes } => self.keep(member, &bytes).await,
            Question::Finish { casts } => {
                let cast = |cast: obol::dkg::ceremony::SignedCast| MemberCast {
                    value: hex::encode(cast.value),
                    signatures: cast.signatures.iter().map(hex::encode).collect(),
                };
                self.finish(casts.into_values().map(cast).collect()).await
            }
            Question::Sign(exchange) => {
                let what = match exchange {
                    Exchange::Deposit(position) => CeremonySignature::Deposit(position),
                    Exchange::Registration | Exchange::Lock => CeremonySignature::Registration,
                };
                self.partials(exchange, what).await
            }
            Question::SignLock(signed) => {
                let texts = |list: &Vec<SignatureBytes>| list.iter().map(ToString::to_string).collect();
                let what = CeremonySignature::Lock {
                    deposits: signed.deposits.iter().map(texts).collect(),
                    registrations: texts(&signed.registrations),
                };
                self.partials(Exchange::Lock, what).await
            }
            Question::Release { lock } => self.release(&lock).await,
        };
        result.unwrap_or_else(|problem| {
            let member = problem.code.strip_prefix("member_at_fault_").and_then(|place| place.parse().ok());
            Answer::Failed { member, why: problem.message, next_step: problem.next_step }
        })
    }

    async fn deal(&self, seal_keys: BTreeMap<usize, obol::dkg::SealKey>) -> Result<Answer, Problem> {
        let key = |(member, seal): (usize, obol::dkg::SealKey)| MemberSealKey {
            member,
            key: hex::encode(seal.key),
            signature: hex::encode(seal.signature),
        };
        let request = DealRequest {
            definition_hash: self.definition_hash.clone(),
            seal_keys: seal_keys.into_iter().map(key).collect(),
        };
        let dealt: Dealt = self.ask(DEAL_PATH, &request).await?;
        let value = hex::decode(&dealt.cast).map_err(|_| malformed())?;
        let cast = Any { value, ..FrostRound1Casts::default().to_any() };
        let mut shares = BTreeMap::new();
        for share in dealt.shares {
            let bytes = hex::decode(share.message.expose_secret()).map_err(|_| malformed())?;
            shares.insert(share.member, Zeroizing::new(bytes));
        }
        Ok(Answer::Dealt { cast, shares, kept: dealt.kept })
    }

    async fn keep(&self, member: usize, bytes: &[u8]) -> Result<Answer, Problem> {
        let request = KeepRequest {
            definition_hash: self.definition_hash.clone(),
            share: MemberMessage { member, message: Sensitive::new(hex::encode(bytes)) },
        };
        let _: CeremonyStatus = self.ask(KEEP_PATH, &request).await?;
        Ok(Answer::Kept { member })
    }

    async fn finish(&self, casts: Vec<MemberCast>) -> Result<Answer, Problem> {
        let request =
            FinishRequest { definition_hash: self.definition_hash.clone(), minor: self.minor, casts };
        let made: Made = self.ask(FINISH_PATH, &request).await?;
        let mut validators = Vec::with_capacity(made.validators.len());
        for validator in made.validators {
            let shares = validator.public_shares.iter().map(|share| share.parse());
            validators.push(BornValidator {
                group_key: validator.group_key.parse().map_err(|_| malformed())?,
                public_shares: shares.collect::<Result<_, _>>().map_err(|_| malformed())?,
            });
        }
        *self.made.lock().await = validators.iter().map(|validator| validator.group_key).collect();
        Ok(Answer::Finished { validators })
    }

    async fn partials(&self, exchange: Exchange, what: CeremonySignature) -> Result<Answer, Problem> {
        let request = PartialsRequest { definition_hash: self.definition_hash.clone(), what };
        let made: PartialsMade = self.ask(PARTIALS_PATH, &request).await?;
        let mut keys = match exchange {
            Exchange::Lock => self.present.clone(),
            Exchange::Deposit(_) | Exchange::Registration => Vec::new(),
        };
        keys.extend(self.made.lock().await.iter().copied());
        if keys.len() != made.signatures.len() {
            return Err(malformed());
        }
        let mut partials: Partials = Vec::with_capacity(keys.len());
        for (key, signature) in keys.into_iter().zip(&made.signatures) {
            partials.push((key, signature.parse().map_err(|_| malformed())?));
        }
        Ok(Answer::Signed { exchange, partials })
    }

    async fn release(&self, lock: &[u8]) -> Result<Answer, Problem> {
        let lock = serde_json::from_slice(lock).map_err(|_| malformed())?;
        let request = ReleaseRequest { definition_hash: self.definition_hash.clone(), lock };
        let _: CeremonyStatus = self.ask(RELEASE_PATH, &request).await?;
        Ok(Answer::Released)
    }

    /// Every step may be repeated, so a signer that is away or locked is simply asked again.
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

fn malformed() -> Problem {
    Problem::new(
        "signer_answer_malformed",
        "The signer's answer cannot be read.",
        "Report this: the box's own parts do not understand each other.",
    )
}
