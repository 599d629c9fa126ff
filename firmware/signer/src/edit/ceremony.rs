//! One edit in memory, until the new shares are sealed. A signer that is switched off before begins it again; nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chain::{PublicKeyBytes, Root, SignatureBytes};
use cluster::edit::{Edit, EditPlan};
use cluster::{IdentityPublicKey, Lock, Network};
use ipc::Problem;
use ipc::edit::{
    EditBegun, EditBundle, EditBundleKind, EditConsent, EditEvent, EditKeys, EditStage, EditStatus, EditStep,
    EditStepped,
};
use ipc::signer::ChainClock;
use obol::dkg::pedersen::{
    Announcement, BundleKind, announcement_hash, nonce_rule, read_bundle, voucher_message, write_bundle,
};
use obol::dkg::{Profile, Session};
use threshold::pedersen::{
    EphemeralKey, Event, OldSharing, Outcome, Output, Own, Pedersen, Setup, session_nonce,
};
use threshold::{PublicKey, SecretKey, SecretShare, Signature};

use super::{bad, hash_text, hex_bytes, malformed, out_of_order};
use crate::{clock, real_chain};

/// So long after the owner's word dealing may begin. Owners who do not meet in a quarter of an hour try again within that.
const CONSENT_HOLDS: Duration = Duration::from_secs(3_600);

/// One edit. See the module.
pub(crate) struct Ceremony {
    pub(super) plan: EditPlan,
    pub(super) own: usize,
    pub(super) custom: Vec<Network>,
    pub(super) genesis_validators_root: Root,
    pub(super) clock: ChainClock,
    /// Every member of the lock in force gets new shares, and nobody else does.
    pub(super) is_recreate: bool,
    /// When the owner allowed it.
    allowed: Instant,
    profile: Profile,
    key: EphemeralKey,
    /// Positions in the lock in force of members whose identity is enough, by the owner's word.
    unvouched: BTreeSet<u32>,
    /// What our old shares signed to vouch for the key.
    voucher: Option<SignatureBytes>,
    /// All members' ephemeral keys, once they are known to be theirs.
    keys: Option<Vec<PublicKey>>,
    runs: BTreeMap<usize, Pedersen>,
    outcomes: BTreeMap<usize, Outcome>,
    /// The new lock, once the new shares are sealed.
    pub(super) prepared: Option<Lock>,
}

impl Ceremony {
    /// Checks the owner's consent. Whether the shares are here is the caller's to check.
    pub(crate) fn new(consent: EditConsent) -> Result<Self, Problem> {
        let invalid = |text: String| bad("edit_invalid", &text, "Correct it and try again.");
        let lock = Lock::from_value(consent.lock).map_err(|error| invalid(error.to_string()))?;
        // The oldest versions do not ask for it.
        if lock.signature_aggregate.is_empty() {
            return Err(invalid("the lock in force is not signed by its shares".to_owned()));
        }
        let edit: Edit = serde_json::from_value(consent.edit)
            .map_err(|_| malformed("`edit` is none of recreate, add, remove and replace"))?;
        let custom: Vec<Network> = consent
            .network
            .map(|network| Network {
                name: network.name,
                chain_id: network.chain_id,
                genesis_fork_version: lock.fork_version(),
                genesis_time: consent.chain.genesis_time,
            })
            .into_iter()
            .collect();
        let genesis_validators_root: Root = consent
            .genesis_validators_root
            .parse()
            .map_err(|_| malformed("`genesis_validators_root` is not hex of 32 bytes"))?;
        clock::timing(&consent.chain).map_err(|error| invalid(error.to_string()))?;
        real_chain::check_chain(lock.fork_version(), &genesis_validators_root, &consent.chain)?;
        let profile = Profile::of_minor(consent.minor)
            .ok_or_else(|| invalid(format!("release v1.{} is not spoken here", consent.minor)))?;
        let plan = EditPlan::new(lock, &edit, &custom).map_err(|error| invalid(error.to_string()))?;
        let identity = IdentityPublicKey::from_bytes(&hex_bytes(&consent.identity, "identity")?)
            .map_err(|_| malformed("`identity` is not a compressed secp256k1 public key"))?;
        let own = plan.place_of(&identity).ok_or_else(|| {
            invalid("this box takes no part in the change that the lock and the edit describe".to_owned())
        })?;
        let unvouched: BTreeSet<u32> =
            consent.unvouched.iter().filter_map(|index| u32::from(*index).checked_sub(1)).collect();
        enough_vouch(&plan, own, &unvouched)?;
        leaving_are_told(&plan, &unvouched)?;
        Ok(Self {
            plan,
            own,
            custom,
            genesis_validators_root,
            clock: consent.chain,
            is_recreate: matches!(edit, Edit::Recreate { .. }),
            allowed: Instant::now(),
            profile,
            key: EphemeralKey::random(&mut rand::rng()),
            unvouched,
            voucher: None,
            keys: None,
            runs: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            prepared: None,
        })
    }

    /// Whether the members' keys are taken, so that shares are dealt.
    pub(super) fn has_begun(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether our old shares have vouched for our key: from then on others may count on them.
    pub(super) fn has_vouched(&self) -> bool {
        self.voucher.is_some()
    }

    /// Whether the owner's word is too old to begin by. What has begun dealing goes on.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.keys.is_none() && self.prepared.is_none() && now.duration_since(self.allowed) > CONSENT_HOLDS
    }

    pub(super) fn validators(&self) -> usize {
        self.plan.base().validators.len()
    }

    /// Our present public share of each validator; none when we join.
    pub(crate) fn own_old_shares(&self) -> Option<Vec<PublicKeyBytes>> {
        self.old_shares_of(self.own)
    }

    /// Our new share index; none when we leave.
    pub(super) fn own_new_index(&self) -> Option<u8> {
        let new = self.plan.members().get(self.own)?.new?;
        u8::try_from(new + 1).ok()
    }

    fn old_shares_of(&self, place: usize) -> Option<Vec<PublicKeyBytes>> {
        let old = self.plan.members().get(place)?.old?;
        (0..self.validators()).map(|validator| self.plan.old_shares(validator)?.get(&old).copied()).collect()
    }

    pub(super) fn status(&self) -> EditStatus {
        let stage = match (&self.prepared, &self.keys) {
            (Some(_), _) => EditStage::Prepared,
            (None, Some(_)) => EditStage::Dealing,
            (None, None) => EditStage::Allowed,
        };
        EditStatus {
            stage,
            lock_hash: self.prepared.as_ref().map(|lock| hash_text(&lock.lock_hash)),
            dealt: self.outcomes.len(),
            validators: self.validators(),
            open: Vec::new(),
        }
    }

    /// What we announce. `secret` opens our old shares, which vouch for our key, once.
    pub(super) fn begin(
        &mut self,
        mut secret: impl FnMut(PublicKeyBytes) -> Option<SecretShare>,
    ) -> Result<EditBegun, Problem> {
        let shares = self.own_old_shares();
        let key = self.key.public_key().to_bytes();
        if let (Some(shares), None) = (&shares, self.voucher) {
            let digest = self.plan.digest();
            let mut signatures = Vec::with_capacity(shares.len());
            for share in shares {
                let opened = secret(*share).ok_or_else(|| share_missing(share))?;
                signatures.push(opened.sign(&voucher_message(&digest, &key, share)));
            }
            let sum = threshold::aggregate_signatures(&signatures)
                .map_err(|_| malformed("the lock has no validators"))?;
            self.voucher = Some(sum.to_bytes());
        }
        Ok(EditBegun {
            public_key: key.to_string(),
            shares: shares.map(|shares| shares.iter().map(ToString::to_string).collect()),
            voucher: self.voucher.map(|voucher| voucher.to_string()),
            place: self.own,
        })
    }

    /// Whether a member's old shares vouch for its key. Its identity alone is not enough: that key is its network process's,
    /// which could then have the new share dealt to itself (decision 0220).
    fn is_vouched(&self, place: usize, key: &PublicKeyBytes, voucher: Option<&SignatureBytes>) -> bool {
        let Some(shares) = self.old_shares_of(place) else { return true };
        let old = self.plan.members().get(place).and_then(|member| member.old);
        if old.is_some_and(|old| self.unvouched.contains(&old)) {
            return true;
        }
        let keys: Option<Vec<PublicKey>> = shares.iter().map(|share| PublicKey::parse(share).ok()).collect();
        let signature = voucher.and_then(|voucher| Signature::parse(voucher).ok());
        keys.zip(signature).is_some_and(|(keys, signature)| {
            let digest = self.plan.digest();
            let messages: Vec<Vec<u8>> =
                shares.iter().map(|share| voucher_message(&digest, key, share)).collect();
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            threshold::aggregate_verify(&keys, &messages, &signature)
        })
    }

    /// Takes over the members' ephemeral keys, each only with its member's signature of exactly that key for this edit. So
    /// whoever carries messages cannot have shares dealt to a key of its own.
    pub(super) fn take_keys(&mut self, request: &EditKeys) -> Result<(), Problem> {
        let members = self.plan.members();
        if request.members.len() != members.len() {
            return Err(malformed("`members` has not one key for each member"));
        }
        let (session_hash, definition) = (self.plan.base().lock_hash, self.plan.base().definition_hash);
        let session = Session { version: self.profile.broadcast, hash: session_hash };
        let mut keys = Vec::with_capacity(members.len());
        for (place, (member, announced)) in members.iter().zip(&request.members).enumerate() {
            let key: PublicKeyBytes =
                announced.public_key.parse().map_err(|_| malformed("`public_key` is not hex of 48 bytes"))?;
            let voucher = announced.voucher.as_deref().map(str::parse::<SignatureBytes>).transpose();
            let voucher = voucher.map_err(|_| malformed("`voucher` is not hex of 96 bytes"))?;
            let announcement = Announcement { key, shares: self.old_shares_of(place), voucher };
            let hash = announcement_hash(&session, &definition, &announcement);
            let signature = hex_bytes(&announced.signature, "signature")?;
            if member.public_key.verify(&hash, &signature).is_err() {
                return Err(bad(
                    "edit_key_not_signed",
                    &format!(
                        "{} did not sign that key and the shares that the lock has for it, for this change",
                        self.plan.name_of(place)
                    ),
                    "Make sure that all members begin from the same lock, and begin again.",
                ));
            }
            if !self.is_vouched(place, &key, voucher.as_ref()) {
                return Err(bad(
                    "edit_key_not_vouched",
                    &format!(
                        "the old shares of {} did not sign that this key is its own, for this change",
                        self.plan.name_of(place)
                    ),
                    "Make sure that all owners mean the same change of the same lock. A member whose software cannot do this, such as Charon, has to be named when the change is allowed.",
                ));
            }
            keys.push(
                PublicKey::parse(&key).map_err(|_| malformed("a `public_key` is no point of the curve"))?,
            );
        }
        if keys.get(self.own) != Some(&self.key.public_key()) {
            return Err(out_of_order("the key announced for this box is not the one it has"));
        }
        match &self.keys {
            Some(known) if *known != keys => Err(out_of_order("the members' keys changed")),
            Some(_) | None => {
                self.keys = Some(keys);
                Ok(())
            }
        }
    }

    /// One event. `secret` opens our old share of a validator; it is asked for at most once for each.
    pub(super) fn step(
        &mut self,
        step: &EditStep,
        secret: impl FnOnce(PublicKeyBytes) -> Option<SecretShare>,
    ) -> Result<EditStepped, Problem> {
        let validator = step.validator;
        let outputs = match &step.event {
            EditEvent::Start => self.start(validator, secret)?,
            EditEvent::Received { from, kind, bundle } => {
                let (sender, kind) = self.sender(*from, *kind)?;
                let bytes = hex_bytes(bundle, "bundle")?;
                let bundle = read_bundle(kind, sender, &bytes).map_err(|error| {
                    malformed(&format!("the bundle of {}: {error}", self.plan.name_of(*from)))
                })?;
                let run = self.runs.get_mut(&validator).ok_or_else(not_started)?;
                run.step(Event::Received(bundle), &self.key)
            }
            EditEvent::Timeout => {
                let run = self.runs.get_mut(&validator).ok_or_else(not_started)?;
                run.step(Event::Timeout, &self.key)
            }
        };
        self.stepped(validator, outputs)
    }

    fn start(
        &mut self,
        validator: usize,
        secret: impl FnOnce(PublicKeyBytes) -> Option<SecretShare>,
    ) -> Result<Vec<Output>, Problem> {
        if self.runs.contains_key(&validator) {
            return Err(out_of_order("this validator's shares were dealt already"));
        }
        let keys = self.keys.as_ref().ok_or_else(|| out_of_order("the members' keys are not known yet"))?;
        let (members, base) = (self.plan.members(), self.plan.base());
        let group = base.validators.get(validator).ok_or_else(|| malformed("no such validator"))?;
        let parse =
            |key: &PublicKeyBytes| PublicKey::parse(key).map_err(|_| malformed("a key of the lock is none"));
        let old_shares = self.plan.old_shares(validator).unwrap_or_default();
        let public_shares = old_shares
            .iter()
            .map(|(place, key)| Ok((*place, parse(key)?)))
            .collect::<Result<BTreeMap<_, _>, Problem>>()?;
        let indices: BTreeMap<u32, PublicKey> =
            members.iter().zip(keys).map(|(member, key)| (member.index(), *key)).collect();
        let position = u32::try_from(validator).map_err(|_| malformed("no such validator"))?;
        let side = |of: fn(&cluster::edit::EditMember) -> Option<u32>| {
            members.iter().zip(keys).filter_map(|(member, key)| Some((of(member)?, *key))).collect()
        };
        let setup = Setup {
            threshold: usize::from(self.plan.threshold()),
            session: session_nonce(nonce_rule(self.profile), position, &indices),
            dealers: side(|member| member.old),
            receivers: side(|member| member.new),
            old: Some(OldSharing {
                threshold: usize::from(base.threshold),
                public_shares,
                group_key: parse(&group.group_public_key)?,
            }),
        };
        let own = members.get(self.own).ok_or_else(not_started)?;
        let secret = match own.old.and_then(|old| old_shares.get(&old)) {
            Some(share) => {
                let opened = secret(*share).ok_or_else(|| share_missing(share))?;
                Some(opened.into_key())
            }
            None => None::<SecretKey>,
        };
        let own = Own { dealer: own.old, receiver: own.new };
        let (run, outputs) = Pedersen::start(setup, own, secret, &self.key, &mut rand::rng())
            .map_err(|error| bad("edit_impossible", &error.to_string(), "Begin the change again."))?;
        self.runs.insert(validator, run);
        Ok(outputs)
    }

    /// The index that a member has on the side that the kind of bundle belongs to.
    fn sender(&self, from: usize, kind: EditBundleKind) -> Result<(u32, BundleKind), Problem> {
        let member = self.plan.members().get(from).ok_or_else(|| malformed("no such member"))?;
        let (index, kind) = match kind {
            EditBundleKind::Deal => (member.old, BundleKind::Deal),
            EditBundleKind::Response => (member.new, BundleKind::Response),
            EditBundleKind::Justification => (member.old, BundleKind::Justification),
        };
        index
            .map(|index| (index, kind))
            .ok_or_else(|| malformed("that member has nothing of this kind to say"))
    }

    fn stepped(&mut self, validator: usize, outputs: Vec<Output>) -> Result<EditStepped, Problem> {
        let mut stepped = EditStepped {
            send: Vec::new(),
            new_phase: false,
            accused: Vec::new(),
            finished: false,
            public_shares: Vec::new(),
        };
        for output in outputs {
            match output {
                Output::Send(bundle) => {
                    let kind = match BundleKind::of(&bundle) {
                        BundleKind::Deal => EditBundleKind::Deal,
                        BundleKind::Response => EditBundleKind::Response,
                        BundleKind::Justification => EditBundleKind::Justification,
                    };
                    stepped.send.push(EditBundle { kind, bundle: hex::encode(write_bundle(&bundle)) });
                }
                Output::Entered(_) => stepped.new_phase = true,
                Output::Accused(accusation) => {
                    tracing::warn!(validator, fault = ?accusation.fault, index = accusation.index, "a member broke the rules of the resharing");
                    stepped.accused.push(format!("{:?} {}", accusation.fault, accusation.index));
                }
                Output::Finished(outcome) => {
                    self.outcomes.insert(validator, *outcome);
                }
                Output::Failed(failure) => {
                    return Err(bad(
                        "edit_failed",
                        &failure.to_string(),
                        "The old shares are as they were. Find out what the named members' software did, and begin the change again.",
                    ));
                }
            }
        }
        if let Some(outcome) = self.outcomes.get(&validator) {
            stepped.finished = true;
            stepped.public_shares =
                self.new_public_shares(outcome)?.iter().map(ToString::to_string).collect();
        }
        Ok(stepped)
    }

    /// The public shares of all new members, in their order.
    fn new_public_shares(&self, outcome: &Outcome) -> Result<Vec<PublicKeyBytes>, Problem> {
        let receivers = self.plan.members().iter().filter(|member| member.new.is_some()).count();
        let share = |place: usize| {
            let index = threshold::ShareIndex::new(u64::try_from(place + 1).ok()?).ok()?;
            Some(outcome.commitments.public_share(index).ok()?.key.to_bytes())
        };
        let shares: Option<Vec<_>> = (0..receivers).map(share).collect();
        shares.ok_or_else(|| out_of_order("a new public share is none"))
    }

    /// The new lock, and our new share of each validator when we get one. The shares are given up: they are sealed now.
    pub(super) fn finish(&mut self) -> Result<(Lock, Vec<SecretShare>), Problem> {
        if self.outcomes.len() != self.validators() {
            return Err(out_of_order("not every validator's shares are dealt yet"));
        }
        let public = self
            .outcomes
            .values()
            .map(|outcome| self.new_public_shares(outcome))
            .collect::<Result<Vec<_>, _>>()?;
        let lock = self
            .plan
            .lock(&public)
            .map_err(|error| bad("edit_failed", &error.to_string(), "Begin the change again."))?;
        let shares = std::mem::take(&mut self.outcomes).into_values().filter_map(|outcome| outcome.share);
        Ok((lock, shares.collect()))
    }
}

/// Whether enough others must vouch that the lock in force cannot be a forgery around our share. Of a polynomial through our share
/// and the validator's key a forger can know all other shares but as many as the threshold less one: so many must sign.
/// Without this, whoever brings consents could have our share dealt to keys of its own (decision 0220).
fn enough_vouch(plan: &EditPlan, own: usize, unvouched: &BTreeSet<u32>) -> Result<(), Problem> {
    let members = plan.members();
    if members.get(own).is_none_or(|member| member.old.is_none()) {
        return Ok(()); // We have nothing to deal.
    }
    let others = members.iter().enumerate().filter(|(place, _)| *place != own);
    let vouching = others.filter_map(|(_, member)| member.old).filter(|old| !unvouched.contains(old)).count();
    let needed = usize::from(plan.base().threshold).saturating_sub(1);
    if vouching >= needed {
        return Ok(());
    }
    Err(bad(
        "edit_too_few_vouch",
        &format!(
            "{needed} other members have to vouch for their keys with their old shares, and only {vouching} are to"
        ),
        "Let fewer members take part without vouching; members whose software cannot do it, such as Charon, can be so many only that enough Hearths remain. Where a Hearth is to leave and too few would remain, put a Hearth in a Charon's place first (`replace`).",
    ))
}

/// Whether every Hearth that deals and leaves will be told the new shares' signatures of the new lock. Charon tells them to those that
/// stay alone, so the change would stop for good after the dry run, with every old share silent.
fn leaving_are_told(plan: &EditPlan, unvouched: &BTreeSet<u32>) -> Result<(), Problem> {
    let is_foreign = |old: Option<u32>| old.is_some_and(|old| unvouched.contains(&old));
    let members = plan.members();
    let untold = members.iter().position(|member| member.new.is_none() && !is_foreign(member.old));
    match untold {
        Some(place) if members.iter().any(|member| member.new.is_some() && is_foreign(member.old)) => {
            Err(bad(
                "edit_leaving_untold",
                &format!(
                    "{} would deal and leave, and Charons that stay do not tell it of the new lock",
                    plan.name_of(place)
                ),
                "Let it leave without dealing: name it in `operators` and not in `dealing`, and reset it afterwards. Where too few Hearths would remain to vouch without it (`edit_too_few_vouch`), put a Hearth in a Charon's place first (`replace`).",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn share_missing(share: &PublicKeyBytes) -> Problem {
    bad("share_missing", &format!("the share {share} is not here"), "Import it first.")
}

fn not_started() -> Problem {
    out_of_order("this validator's shares are not being dealt yet")
}
