//! The rounds of a ceremony, in the only order and for the only messages they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::{DistributedValidator, Lock};
use ipc::dkg::{
    CeremonyConsent, CeremonySignature, CeremonyStatus, DealRequest, Dealt, FinishRequest, KeepRequest, Made,
    MadeValidator, MemberCast, MemberMessage, MemberSealKey, PartialsMade, PartialsRequest, ReleaseRequest,
};
use ipc::moving::MAX_CARRIED_SHARES;
use ipc::{Problem, Sensitive};
use obol::dkg::exchange::Exchange;
use obol::dkg::frost::{self, ROUND_1};
use obol::dkg::sync::SealKey;
use obol::dkg::wire::FrostRound1Casts;
use obol::dkg::{Culprit, Plan, Profile, Session, SignedByValidators};
use obol::wire::{Any, Named as _};
use sha2::{Digest as _, Sha256};
use threshold::SecretShare;
use zeroize::Zeroizing;

use super::state::Ceremony;
use crate::boot;
use crate::import::Incoming;
use crate::ledger::{Entries, LedgerError, ShareRow};
use crate::signer::{Signer, blocking, ledger_problem};
use crate::vault::Vault;

/// Binds a sealed share to its purpose.
const SHARE_INFO: &[u8] = b"hearth dkg share v1";

impl Signer {
    /// The owner takes part in a ceremony. The same again changes nothing.
    pub(crate) async fn begin_ceremony(
        self: &Arc<Self>,
        consent: CeremonyConsent,
    ) -> Result<CeremonyStatus, Problem> {
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        let mut current = self.ceremonies.lock(dir, &vault).await?;
        if let Some(known) = current.as_ref() {
            if known.kept.consent == consent {
                return Ok(status(Some(known)));
            }
            return Err(bad(
                "ceremony_under_way",
                "another ceremony, or the same with other settings, is under way",
                "Discard it first if it cannot be finished.",
            ));
        }
        let ceremony = blocking(move || Ceremony::of(consent)).await.ok_or_else(crashed)??;
        room(self.known_rows().len(), ceremony.plan.validators())?;
        self.may_grow(&ceremony).await?;
        // What the owner has allowed last is not to be taken back by this without a word.
        let ours = own_present(&ceremony.plan)?;
        let editing = self.editing.lock().await;
        let old = editing.as_ref().and_then(|edit| edit.own_old_shares()).unwrap_or_default();
        if old.iter().any(|share| ours.contains(share)) {
            return Err(bad(
                "edit_under_way",
                "a change of this cluster was allowed",
                "Finish that change or give it up first.",
            ));
        }
        let begun = ceremony.begin(dir, &vault, self.image_keys)?;
        tracing::info!(definition_hash = %hex::encode(begun.plan.hash()), "a ceremony was begun");
        Ok(status(Some(current.insert(begun))))
    }

    /// A cluster gets more validators only by the shares of the present ones, in the box that signs with them.
    async fn may_grow(&self, ceremony: &Ceremony) -> Result<(), Problem> {
        let ours = own_present(&ceremony.plan)?;
        for (share, validator) in ours.iter().zip(ceremony.plan.present()) {
            let clock = &ceremony.kept.consent.chain;
            self.holds_as(share, &validator.public_key, &ceremony.genesis_validators_root, clock)?;
        }
        self.none_on_its_way_out(&ours).await
    }

    /// Refuses for shares that are stopped, that a promised change replaces, or that have vouched for all being made anew: the new
    /// validators would be in a lock beside shares that no box signs with any more.
    async fn none_on_its_way_out(&self, ours: &[PublicKeyBytes]) -> Result<(), Problem> {
        let (_, ledger) = self.open_parts()?;
        if let Some(share) = ours.iter().find(|share| ledger.is_stopped(share)) {
            return Err(ledger_problem(&LedgerError::SignsElsewhere(*share)));
        }
        let pending = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let vouched = ledger.recreating().await.map_err(|error| ledger_problem(&error))?;
        if pending.iter().any(|pending| pending.replaces.is_some_and(|old| ours.contains(&old)))
            || ours.iter().any(|share| vouched.contains_key(share))
        {
            return Err(bad(
                "edit_promised",
                "the cluster is being changed, and its present shares may be on their way out",
                "Finish that change or give it up first.",
            ));
        }
        Ok(())
    }

    /// Refuses while a key generation is kept here that gives the cluster of one of these shares more validators. The answer holds
    /// as long as the guard does. One that cannot be read is never finished, and holds nothing up.
    pub(crate) async fn adds_beside(
        &self,
        vault: &Vault,
        shares: &[PublicKeyBytes],
    ) -> Result<Option<tokio::sync::MutexGuard<'_, Option<Ceremony>>>, Problem> {
        let Ok(current) = self.ceremonies.lock(&self.config.state_dir, vault).await else { return Ok(None) };
        if let Some(ceremony) = current.as_ref()
            && own_present(&ceremony.plan)?.iter().any(|share| shares.contains(share))
        {
            return Err(bad(
                "ceremony_under_way",
                "this cluster is getting more validators by a key generation that is not over",
                "Finish that key generation, or discard it on every member.",
            ));
        }
        Ok(Some(current))
    }

    /// Our shares of the validators that the cluster has already. The hash of the new lock is all that is signed with them here: it
    /// is worked out in this signer, and no message of the chain has it for its signing root (decision 0380).
    async fn present_shares(&self, plan: &Plan) -> Result<Vec<SecretShare>, Problem> {
        let ours = own_present(plan)?;
        if ours.is_empty() {
            return Ok(Vec::new());
        }
        let (vault, ledger) = self.open_parts()?;
        let rows = ledger.rows().await.map_err(|error| ledger_problem(&error))?;
        let open = |share: &PublicKeyBytes| {
            let row = rows.iter().find(|row| row.pubshare == *share);
            row.and_then(|row| vault.open_share(row)).ok_or_else(|| {
                bad(
                    "share_missing",
                    &format!("the share {share} of the lock is not here any more"),
                    "Discard this on every member and begin again with the lock in force.",
                )
            })
        };
        ours.iter().map(open).collect()
    }

    /// Where the ceremony is.
    pub(crate) async fn ceremony_status(&self) -> Result<CeremonyStatus, Problem> {
        let (vault, _) = self.open_parts()?;
        let current = self.ceremonies.lock(&self.config.state_dir, &vault).await?;
        Ok(status(current.as_ref()))
    }

    /// The owner gives a ceremony up: what was dealt is gone for good.
    pub(crate) async fn discard_ceremony(&self) -> Result<CeremonyStatus, Problem> {
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        // Also when the file cannot be read: this is how an owner gets out of that.
        let mut current = match self.ceremonies.lock(dir, &vault).await {
            Ok(current) => current,
            Err(_) => {
                Ceremony::discard(dir)?;
                return Ok(status(None));
            }
        };
        Ceremony::discard(dir)?;
        *current = None;
        tracing::warn!("the owner discarded the ceremony");
        Ok(status(None))
    }

    /// First round. The first answer settles for each member whether and to which key its shares are sealed.
    pub(crate) async fn deal(&self, request: DealRequest) -> Result<Dealt, Problem> {
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        let mut current = self.ceremonies.lock(dir, &vault).await?;
        let ceremony = named(current.as_mut(), &request.definition_hash)?;
        let plan = Arc::clone(&ceremony.plan);
        let announced = announced_keys(&plan, &request.seal_keys)?;
        let dealt_to = match &ceremony.kept.dealt_to {
            Some(known) => {
                let changed = announced.iter().find(|(member, key)| {
                    known.get(*member).is_some_and(|known| known.as_ref().is_some_and(|known| known != *key))
                });
                if let Some((member, _)) = changed {
                    return Err(bad(
                        "seal_key_changed",
                        &format!("{} announced another key than before", plan.name_of(*member)),
                        "Its signer began the ceremony anew: discard the ceremony on every member and start it again together.",
                    ));
                }
                known.clone()
            }
            None => {
                let mut dealt_to = BTreeMap::new();
                for member in plan.others() {
                    let key = announced.get(&member).cloned();
                    if key.is_none() && !ceremony.unsealed.contains(&member) {
                        return Err(bad(
                            "member_takes_no_sealed_shares",
                            &format!(
                                "{} has announced no key that shares for it can be sealed to",
                                plan.name_of(member)
                            ),
                            "If it runs Charon or other software, discard the ceremony and begin it again with this member named as such.",
                        ));
                    }
                    dealt_to.insert(member, key);
                }
                ceremony.kept.dealt_to = Some(dealt_to.clone());
                if let Err(problem) = ceremony.save(dir, &vault) {
                    ceremony.kept.dealt_to = None;
                    return Err(problem);
                }
                dealt_to
            }
        };
        let dealer = ceremony.dealer()?;
        let kept = ceremony.kept.shares.keys().copied().collect();
        let dealing = blocking(move || {
            let casts = dealer.casts().map_err(|culprit| blamed(&plan, &culprit))?;
            let cast = frost::write_round_1(plan.own(), &casts).to_any().value;
            let mut shares = Vec::new();
            for (member, key) in dealt_to {
                let plain = dealer.shares_for(member).map_err(|culprit| blamed(&plan, &culprit))?;
                let message = match key {
                    Some(key) => Zeroizing::new(seal(&plan, member, &key, &plain)?),
                    None => plain,
                };
                shares
                    .push(MemberMessage { member, message: Sensitive::new(hex::encode(message.as_slice())) });
            }
            Ok(Dealt { cast: hex::encode(cast), shares, kept })
        });
        dealing.await.ok_or_else(crashed)?
    }

    /// Keeps a member's share for us. The first one counts.
    pub(crate) async fn keep(&self, request: KeepRequest) -> Result<CeremonyStatus, Problem> {
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        let mut current = self.ceremonies.lock(dir, &vault).await?;
        let ceremony = named(current.as_mut(), &request.definition_hash)?;
        let member = request.share.member;
        if ceremony.kept.shares.contains_key(&member) {
            return Ok(status(Some(ceremony)));
        }
        let plan = Arc::clone(&ceremony.plan);
        if member >= plan.members().len() || member == plan.own() {
            return Err(invalid("the share is of nobody in this ceremony"));
        }
        let bytes = Zeroizing::new(
            hex::decode(request.share.message.expose_secret())
                .map_err(|_| invalid("`message` is not hex"))?,
        );
        let plain = match frost::read_sealed(&bytes) {
            Some((enc, sealed)) => {
                let context = share_context(&plan, member, plan.own());
                let opened = ceremony.seal_secret()?.open_for(&enc, &sealed, SHARE_INFO, &context);
                opened.map_err(|_| {
                    blame(&plan, member, "its sealed share does not open: it was sealed for another ceremony")
                })?
            }
            None if ceremony.unsealed.contains(&member) => bytes,
            None => {
                return Err(blame(
                    &plan,
                    member,
                    "its share came unsealed, which the owner has not allowed for this member",
                ));
            }
        };
        frost::read_shares(&plan, member, &plain).map_err(|why| blame(&plan, member, &why.to_string()))?;
        let text = Sensitive::new(hex::encode(plain.as_slice()));
        ceremony.kept.shares.insert(member, text);
        if let Err(problem) = ceremony.save(dir, &vault) {
            ceremony.kept.shares.remove(&member);
            return Err(problem);
        }
        Ok(status(Some(ceremony)))
    }

    /// Second round: checks what everybody dealt and adds it up, once, for one set of broadcasts that every member signed.
    pub(crate) async fn finish(&self, request: FinishRequest) -> Result<Made, Problem> {
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        let mut current = self.ceremonies.lock(dir, &vault).await?;
        let ceremony = named(current.as_mut(), &request.definition_hash)?;
        let of = digest_of(&request.casts);
        if let Some(finished) = &ceremony.kept.finished {
            if finished.of != of {
                return Err(bad(
                    "ceremony_finished",
                    "the keys were made from other broadcasts already",
                    "Discard the ceremony on every member and start it again together.",
                ));
            }
            return Ok(made(&ceremony.born()?));
        }
        let plan = Arc::clone(&ceremony.plan);
        let dealer = ceremony.dealer()?;
        let mut shares = BTreeMap::new();
        for (member, text) in &ceremony.kept.shares {
            let plain = Zeroizing::new(hex::decode(text.expose_secret()).map_err(|_| damaged())?);
            let read = frost::read_shares(&plan, *member, &plain);
            shares.insert(*member, read.map_err(|why| blame(&plan, *member, &why.to_string()))?);
        }
        let born = blocking(move || {
            let casts = checked_casts(&plan, &request)?;
            dealer.finish(&casts, &shares).map_err(|culprit| blamed(&plan, &culprit))
        });
        let born = born.await.ok_or_else(crashed)??;
        ceremony.set_finished(of, &born);
        if let Err(problem) = ceremony.save(dir, &vault) {
            ceremony.kept.finished = None;
            return Err(problem);
        }
        tracing::info!(validators = born.validators().len(), "new shares were born");
        Ok(made(&born))
    }

    /// Signs what a ceremony needs, with shares that are in no service yet and over roots that are worked out here.
    pub(crate) async fn ceremony_partials(&self, request: PartialsRequest) -> Result<PartialsMade, Problem> {
        let (vault, _) = self.open_parts()?;
        let mut current = self.ceremonies.lock(&self.config.state_dir, &vault).await?;
        let ceremony = named(current.as_mut(), &request.definition_hash)?;
        let born = ceremony.born()?;
        if born.secrets().iter().any(|share| self.known_row(&share.public_share().key.to_bytes()).is_some()) {
            return Err(bad(
                "ceremony_released",
                "the shares are in service: nothing more is signed for their ceremony",
                "Nothing to do.",
            ));
        }
        let present = match &request.what {
            CeremonySignature::Lock { .. } => {
                // Days may have gone by since the owner's word was taken.
                self.may_grow(ceremony).await?;
                self.present_shares(&ceremony.plan).await?
            }
            CeremonySignature::Deposit(_) | CeremonySignature::Registration => Vec::new(),
        };
        let signing = blocking(move || match request.what {
            CeremonySignature::Deposit(position) => born
                .sign(Exchange::Deposit(position))
                .ok_or_else(|| invalid("there is no deposit amount at that position")),
            CeremonySignature::Registration => {
                born.sign(Exchange::Registration).ok_or_else(|| invalid("there is nothing to register"))
            }
            CeremonySignature::Lock { deposits, registrations } => {
                let signed = SignedByValidators {
                    deposits: deposits.iter().map(|list| signatures(list)).collect::<Result<_, _>>()?,
                    registrations: signatures(&registrations)?,
                };
                let (lock_hash, partials) = born.sign_lock(&signed, &present).ok_or_else(|| {
                    invalid("a deposit or registration is not signed by the new validator it is for")
                })?;
                if !present.is_empty() {
                    // The one signature of shares in service that no record in the ledger precedes (decision 0380).
                    let lock_hash = hex::encode(lock_hash);
                    tracing::warn!(
                        lock_hash,
                        shares = present.len(),
                        "shares in service sign a lock with more validators"
                    );
                }
                Ok(partials)
            }
        });
        let partials = signing.await.ok_or_else(crashed)??;
        Ok(PartialsMade { signatures: partials.iter().map(|(_, signature)| signature.to_string()).collect() })
    }

    /// Puts the shares into service once the lock that all shares and operators signed is complete. Their history is empty
    /// by birth: they signed a deposit, a registration and a lock hash, none of which can be slashed.
    pub(crate) async fn release(
        self: &Arc<Self>,
        request: ReleaseRequest,
    ) -> Result<CeremonyStatus, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        let (vault, _) = self.open_parts()?;
        let dir = &self.config.state_dir;
        let mut current = self.ceremonies.lock(dir, &vault).await?;
        if current.is_none() && self.holds_all_of(&request) {
            return Ok(status(None)); // Done before; the answer was lost.
        }
        let ceremony = named(current.as_mut(), &request.definition_hash)?;
        let born = ceremony.born()?;
        let plan = Arc::clone(&ceremony.plan);
        let born = blocking(move || match belongs(&plan, &born, request.lock) {
            Ok(()) => Ok(born),
            Err(problem) => Err(problem),
        });
        let born = born.await.ok_or_else(crashed)??;
        self.none_on_its_way_out(&own_present(&ceremony.plan)?).await?;
        let mut incoming = Vec::new();
        let share_index = u8::try_from(ceremony.plan.own() + 1).map_err(|_| damaged())?;
        let group_keys: Vec<_> = born.validators().iter().map(|validator| validator.group_key).collect();
        for (secret, group_key) in born.into_secrets().into_iter().zip(group_keys) {
            let row = ShareRow {
                pubshare: secret.public_share().key.to_bytes(),
                group_key,
                share_index,
                genesis_validators_root: ceremony.genesis_validators_root,
                clock: ceremony.kept.consent.chain,
                sealed: Vec::new(),
            };
            incoming.push(Incoming {
                row,
                secret: secret.into_key(),
                history: Entries::default(),
                more_epochs: 0,
                stopped: None,
            });
        }
        self.take_in(incoming).await?;
        Ceremony::discard(dir)?;
        *current = None;
        tracing::info!("the new shares are in service; the ceremony's secrets are wiped");
        Ok(status(None))
    }

    /// Whether every validator of a lock has a share of ours in service.
    fn holds_all_of(&self, request: &ReleaseRequest) -> bool {
        let Ok(lock) = Lock::from_value(request.lock.clone()) else { return false };
        !lock.validators.is_empty()
            && lock
                .validators
                .iter()
                .all(|validator| validator.public_shares.iter().any(|share| self.known_row(share).is_some()))
    }
}

/// Whether the lock is the one of this ceremony, complete and verified.
fn belongs(plan: &Plan, born: &obol::dkg::Born, lock: serde_json::Value) -> Result<(), Problem> {
    let next_step = "Do not fund anything; discard the ceremony on every member and start it again together.";
    let lock = Lock::from_value(lock).map_err(|error| bad("lock_invalid", &error.to_string(), next_step))?;
    let network = plan.network().clone();
    lock.verify(&[network]).map_err(|error| bad("lock_invalid", &error.to_string(), next_step))?;
    let is_born = |made: &[DistributedValidator]| {
        made.len() == born.validators().len()
            && made.iter().zip(born.validators()).all(|(stated, born)| {
                stated.public_key == born.group_key && stated.public_shares == born.public_shares
            })
    };
    if !plan.made_in(&lock).is_some_and(is_born) || lock.signature_aggregate.is_empty() {
        return Err(bad("lock_invalid", "the lock is not that of this ceremony", next_step));
    }
    Ok(())
}

/// Reads and verifies everybody's first broadcast.
fn checked_casts(plan: &Plan, request: &FinishRequest) -> Result<BTreeMap<usize, Vec<frost::Cast>>, Problem> {
    let profile = Profile::of_minor(request.minor).ok_or_else(|| invalid("`minor` is not spoken"))?;
    let session = Session { version: profile.broadcast, hash: plan.hash() };
    if request.casts.len() != plan.members().len() {
        return Err(invalid("`casts` is not one broadcast for each member"));
    }
    let mut casts = BTreeMap::new();
    for (member, cast) in request.casts.iter().enumerate() {
        let not_hex = || invalid("a broadcast is not hex");
        let value = hex::decode(&cast.value).map_err(|_| not_hex())?;
        let signatures = cast.signatures.iter().map(hex::decode).collect::<Result<Vec<_>, _>>();
        let signatures = signatures.map_err(|_| not_hex())?;
        let any = Any { type_url: FrostRound1Casts::default().to_any().type_url, value };
        session
            .check(plan.members(), ROUND_1, &any, &signatures)
            .map_err(|why| blame(plan, member, &why.to_string()))?;
        let read = frost::read_round_1(plan, member, &any.value);
        casts.insert(member, read.map_err(|why| blame(plan, member, &why.to_string()))?);
    }
    Ok(casts)
}

/// The announced keys whose owners' identities vouch for them.
fn announced_keys(plan: &Plan, stated: &[MemberSealKey]) -> Result<BTreeMap<usize, String>, Problem> {
    let mut keys = BTreeMap::new();
    for announced in stated {
        let mut key = [0; 32];
        hex::decode_to_slice(&announced.key, &mut key)
            .map_err(|_| invalid("a seal key is not 32 bytes of hex"))?;
        let signature = hex::decode(&announced.signature).map_err(|_| invalid("a signature is not hex"))?;
        let seal = SealKey { key, signature };
        let owner = plan.members().get(announced.member);
        if !owner.is_some_and(|owner| seal.is_of(owner, &plan.hash())) {
            return Err(blame(
                plan,
                announced.member,
                "its identity does not vouch for the key it announced",
            ));
        }
        keys.insert(announced.member, hex::encode(key));
    }
    Ok(keys)
}

fn seal(plan: &Plan, member: usize, key: &str, plain: &[u8]) -> Result<Vec<u8>, Problem> {
    let key = hex::decode(key).map_err(|_| damaged())?;
    let context = share_context(plan, plan.own(), member);
    let (enc, sealed) = ipc::envelope::seal_for(&key, SHARE_INFO, &context, plain)
        .map_err(|_| blame(plan, member, "nothing can be sealed to the key it announced"))?;
    Ok(frost::write_sealed(enc, sealed))
}

/// Which ceremony, from whom, to whom: a sealed share opens nowhere else.
fn share_context(plan: &Plan, from: usize, to: usize) -> Vec<u8> {
    let place = |member: usize| u64::try_from(member).unwrap_or(u64::MAX).to_be_bytes();
    [&plan.hash()[..], &place(from), &place(to)].concat()
}

/// All that a box holds must fit into one backup and one move.
fn room(held: usize, more: usize) -> Result<(), Problem> {
    if held.saturating_add(more) <= MAX_CARRIED_SHARES {
        return Ok(());
    }
    Err(bad(
        "too_many_shares",
        &format!(
            "this box holds {held} shares; with {more} more they would not fit into one backup, which takes {MAX_CARRIED_SHARES}"
        ),
        "Make fewer validators, or make them on other boxes.",
    ))
}

/// Our public shares of the validators that the cluster has already.
fn own_present(plan: &Plan) -> Result<Vec<PublicKeyBytes>, Problem> {
    let own = |validator: &DistributedValidator| validator.public_shares.get(plan.own()).copied();
    plan.present().iter().map(own).collect::<Option<_>>().ok_or_else(damaged)
}

fn digest_of(casts: &[MemberCast]) -> String {
    let mut hasher = Sha256::new();
    for cast in casts {
        hasher.update(u64::try_from(cast.value.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(cast.value.as_bytes());
    }
    hex::encode(hasher.finalize())
}

fn signatures(texts: &[String]) -> Result<Vec<SignatureBytes>, Problem> {
    let read =
        texts.iter().map(|text| text.parse().map_err(|_| invalid("a signature is not hex of 96 bytes")));
    read.collect()
}

fn made(born: &obol::dkg::Born) -> Made {
    let validator = |validator: &obol::dkg::BornValidator| MadeValidator {
        group_key: validator.group_key.to_string(),
        public_shares: validator.public_shares.iter().map(ToString::to_string).collect(),
    };
    Made { validators: born.validators().iter().map(validator).collect() }
}

fn named<'a>(ceremony: Option<&'a mut Ceremony>, hash: &str) -> Result<&'a mut Ceremony, Problem> {
    let matching = ceremony
        .filter(|ceremony| hash.strip_prefix("0x").unwrap_or(hash) == hex::encode(ceremony.plan.hash()));
    matching.ok_or_else(|| {
        bad(
            "ceremony_not_begun",
            "the owner has not begun this ceremony on this box",
            "Begin it on the box's page.",
        )
    })
}

fn status(ceremony: Option<&Ceremony>) -> CeremonyStatus {
    CeremonyStatus { ceremony: ceremony.map(Ceremony::facts) }
}

fn blamed(plan: &Plan, culprit: &Culprit) -> Problem {
    blame(plan, culprit.member, &culprit.why.to_string())
}

/// A member's fault. The code carries its place, so that `dv-node` can name it too.
fn blame(plan: &Plan, member: usize, why: &str) -> Problem {
    Problem::new(
        &format!("member_at_fault_{member}"),
        format!("{}: {why}.", plan.name_of(member)),
        "Do not fund anything. Speak with that member's owner; if its software is sound, discard the ceremony on every member and start it again together.",
    )
}

pub(super) fn bad(code: &str, message: &str, next_step: &str) -> Problem {
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    Problem::new(code, format!("{first}{}.", letters.as_str()), next_step)
}

pub(super) fn invalid(what: &str) -> Problem {
    bad("request_invalid", what, "Report this: the box's own parts do not understand each other.")
}

pub(super) fn damaged() -> Problem {
    bad(
        "ceremony_damaged",
        "what was kept of the ceremony does not open",
        "Discard the ceremony on every member and start it again together.",
    )
}

pub(super) fn disk(error: &std::io::Error) -> Problem {
    bad(
        "ceremony_not_durable",
        &format!("the ceremony cannot be stored: {error}"),
        "Free some disk space and try again.",
    )
}

fn crashed() -> Problem {
    bad("ceremony_failed", "a step of the ceremony failed by a fault of ours", "Report this.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_shares_are_made_than_one_backup_takes() {
        for (held, more, fits) in [(0, 1000, true), (2047, 1, true), (2048, 1, false), (1049, 1000, false)] {
            assert_eq!(room(held, more).is_ok(), fits, "{held} and {more}");
        }
        assert_eq!(room(usize::MAX, 1).unwrap_err().code, "too_many_shares");
    }
}
