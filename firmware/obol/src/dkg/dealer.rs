//! The secret half of a ceremony: polynomials, shares and the signatures made with them. It runs in `signer` and in tests,
//! nowhere else.
//!
//! Everything it deals follows from one seed, so that a signer that was switched off in the middle deals the same again:
//! a second polynomial, or a nonce used for two polynomials, can never come out. It signs what it works out itself from
//! the definition, never a root that it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::{DepositData, PublicKeyBytes, SignatureBytes, SignedValidatorRegistration};
use cluster::{DistributedValidator, Lock, SchemaVersion};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use threshold::frost::{Dealing, Dealt, FrostError, sum_commitments, sum_shares};
use threshold::{HashedMessage, SecretShare, ShareIndex};
use zeroize::Zeroizing;

use super::exchange::{Exchange, Partials};
use super::frost::{self, Arrived, Cast, FrostRefusal};
use super::plan::Plan;

/// Separates what is drawn from the seed here from everything else.
const DEALING_LABEL: &[u8] = b"hearth dkg dealing v1";

/// The ceremony cannot go on, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("member {}: {why}", .member + 1)]
pub struct Culprit {
    /// Whose fault, from 0.
    pub member: usize,
    /// What is wrong.
    #[source]
    pub why: FrostRefusal,
}

/// One signer's side of key generation.
pub struct Dealer {
    plan: Arc<Plan>,
    seed: Zeroizing<[u8; 32]>,
}

impl Dealer {
    /// The dealer of one ceremony. The seed is random, secret and of this ceremony alone.
    pub fn new(plan: Arc<Plan>, seed: Zeroizing<[u8; 32]>) -> Self {
        Self { plan, seed }
    }

    /// What is published for each validator.
    pub fn casts(&self) -> Result<Vec<Cast>, Culprit> {
        let own = self.own_index()?;
        (0..self.plan.validators())
            .map(|validator| {
                let dealing = self.dealing(validator)?;
                let proof = dealing.prove(own).map_err(|source| self.own_fault(validator, source))?;
                Ok(Cast { commitments: dealing.commitments().to_bytes(), proof })
            })
            .collect()
    }

    /// The shares of one other member, encoded. Our own are never given out.
    pub fn shares_for(&self, member: usize) -> Result<Zeroizing<Vec<u8>>, Culprit> {
        if member == self.plan.own() || member >= self.plan.members().len() {
            let target = u32::try_from(member + 1).unwrap_or(u32::MAX);
            return Err(Culprit { member: self.plan.own(), why: FrostRefusal::Target(target) });
        }
        let index = share_index(member)?;
        let values = (0..self.plan.validators())
            .map(|validator| {
                let share = self.dealing(validator)?.share(index);
                let share = share.map_err(|_| self.own_fault(validator, FrostError::Cancelled))?;
                Ok(share.key().expose_bytes())
            })
            .collect::<Result<Vec<_>, Culprit>>()?;
        Ok(frost::write_shares(self.plan.own(), member, &values))
    }

    /// Checks what everybody dealt and adds it up. `casts` are all members' broadcasts, `shares` all others' messages to us.
    pub fn finish(
        &self,
        casts: &BTreeMap<usize, Vec<Cast>>,
        shares: &BTreeMap<usize, Vec<Zeroizing<[u8; 32]>>>,
    ) -> Result<Born, Culprit> {
        let own = self.plan.own();
        if casts.get(&own) != Some(&self.casts()?) {
            return Err(Culprit { member: own, why: FrostRefusal::NotOurs });
        }
        let index = self.own_index()?;
        let mut dealt: Vec<Vec<Dealt>> = Vec::new();
        for member in 0..self.plan.members().len() {
            dealt.push(self.verify_member(member, casts)?);
        }
        let mut secrets = Vec::new();
        let mut validators = Vec::new();
        for validator in 0..self.plan.validators() {
            let fault =
                |member| move |source| Culprit { member, why: FrostRefusal::Dealt { validator, source } };
            let mut received = Vec::new();
            for (member, by_validator) in dealt.iter().enumerate() {
                if member == own {
                    let share = self.dealing(validator)?.share(index);
                    received.push(share.map_err(|_| self.own_fault(validator, FrostError::Cancelled))?);
                    continue;
                }
                let missing = || Culprit { member, why: FrostRefusal::Missing };
                let value =
                    shares.get(&member).and_then(|values| values.get(validator)).ok_or_else(missing)?;
                let dealt = by_validator.get(validator).ok_or_else(missing)?;
                received.push(dealt.check_share(index, value.as_slice()).map_err(fault(member))?);
            }
            let all = dealt.iter().filter_map(|by_validator| by_validator.get(validator));
            let whole = sum_commitments(all.map(Dealt::commitments)).map_err(fault(own))?;
            let share = sum_shares(index, &received).map_err(fault(own))?;
            let public = (0..self.plan.members().len()).map(|member| {
                let share = whole.public_share(share_index(member)?);
                share
                    .map(|share| share.key.to_bytes())
                    .map_err(|_| self.own_fault(validator, FrostError::Cancelled))
            });
            validators.push(BornValidator {
                group_key: whole.group_key().to_bytes(),
                public_shares: public.collect::<Result<_, _>>()?,
            });
            secrets.push(share);
        }
        Ok(Born { plan: Arc::clone(&self.plan), secrets, validators })
    }

    /// Verifies every proof of one member, and that no nonce serves twice.
    fn verify_member(
        &self,
        member: usize,
        casts: &BTreeMap<usize, Vec<Cast>>,
    ) -> Result<Vec<Dealt>, Culprit> {
        let refused = |why| Culprit { member, why };
        let casts = casts.get(&member).filter(|casts| casts.len() == self.plan.validators());
        let casts = casts.ok_or_else(|| refused(FrostRefusal::Missing))?;
        let index = share_index(member)?;
        let mut nonces: BTreeMap<[u8; 48], usize> = BTreeMap::new();
        let mut dealt = Vec::with_capacity(casts.len());
        for (validator, cast) in casts.iter().enumerate() {
            let verified = Dealt::verify(index, self.plan.threshold(), &cast.commitments, &cast.proof)
                .map_err(|source| refused(FrostRefusal::Dealt { validator, source }))?;
            if let Some(first) = nonces.insert(verified.nonce_point().0, validator) {
                return Err(refused(FrostRefusal::NonceReused { first, second: validator }));
            }
            dealt.push(verified);
        }
        Ok(dealt)
    }

    fn dealing(&self, validator: usize) -> Result<Dealing, Culprit> {
        let mut hasher = Sha256::new();
        hasher.update(DEALING_LABEL);
        hasher.update(self.seed.as_slice());
        hasher.update(self.plan.hash());
        hasher.update(u64::try_from(validator).unwrap_or(u64::MAX).to_be_bytes());
        let seed = Zeroizing::new(<[u8; 32]>::from(hasher.finalize()));
        let mut rng = ChaCha20Rng::from_seed(*seed);
        Dealing::random(self.plan.threshold(), &mut rng)
            .map_err(|_| self.own_fault(validator, FrostError::Mismatch))
    }

    fn own_index(&self) -> Result<ShareIndex, Culprit> {
        share_index(self.plan.own())
    }

    fn own_fault(&self, validator: usize, source: FrostError) -> Culprit {
        Culprit { member: self.plan.own(), why: FrostRefusal::Dealt { validator, source } }
    }
}

fn share_index(member: usize) -> Result<ShareIndex, Culprit> {
    let number = u64::try_from(member + 1).unwrap_or(u64::MAX);
    ShareIndex::new(number).map_err(|_| Culprit { member, why: FrostRefusal::Target(0) })
}

/// The public side of one new validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BornValidator {
    /// Its key.
    pub group_key: PublicKeyBytes,
    /// Everybody's public share, in order.
    pub public_shares: Vec<PublicKeyBytes>,
}

/// A signer's new shares. Secret.
pub struct Born {
    plan: Arc<Plan>,
    secrets: Vec<SecretShare>,
    validators: Vec<BornValidator>,
}

impl Born {
    /// The same from what was kept sealed.
    pub fn from_parts(
        plan: Arc<Plan>,
        secrets: Vec<SecretShare>,
        validators: Vec<BornValidator>,
    ) -> Option<Self> {
        let own = plan.own();
        let fits = secrets.len() == validators.len()
            && secrets.len() == plan.validators()
            && secrets.iter().zip(&validators).all(|(secret, validator)| {
                let public = secret.public_share().key.to_bytes();
                validator.public_shares.get(own) == Some(&public)
            });
        fits.then_some(Self { plan, secrets, validators })
    }

    /// The new validators.
    pub fn validators(&self) -> &[BornValidator] {
        &self.validators
    }

    /// The shares, in the order of the validators, to be sealed and nothing else.
    pub fn secrets(&self) -> &[SecretShare] {
        &self.secrets
    }

    /// Gives the shares up, to be put into service.
    pub fn into_secrets(self) -> Vec<SecretShare> {
        self.secrets
    }

    /// What the second broadcast says.
    pub fn arrived(&self) -> Vec<Arrived> {
        arrived(&self.validators, self.plan.own())
    }

    /// Our partial signatures of deposits or registrations, which follow from the definition and the new keys.
    pub fn sign(&self, exchange: Exchange) -> Option<Partials> {
        let mut partials = Vec::with_capacity(self.secrets.len());
        for (position, (secret, validator)) in self.secrets.iter().zip(&self.validators).enumerate() {
            let root = root_of(&self.plan, exchange, position, validator.group_key)?;
            partials.push((validator.group_key, secret.sign(&root).to_bytes()));
        }
        Some(partials)
    }

    /// Our partial signatures of the lock hash, which is worked out here from the definition, the new keys and what they
    /// signed, and is given back beside them. `present` are our shares of the validators that the cluster has already, in order.
    /// None when a given signature is not the validator's, or those are not our shares.
    pub fn sign_lock(
        &self,
        signed: &SignedByValidators,
        present: &[SecretShare],
    ) -> Option<([u8; 32], Partials)> {
        let lock = signed.lock(&self.plan, &self.validators)?;
        let ours = |validator: &DistributedValidator| validator.public_shares.get(self.plan.own()).copied();
        let held = present.iter().map(|share| Some(share.public_share().key.to_bytes()));
        if !self.plan.present().iter().map(ours).eq(held) {
            return None;
        }
        let message = HashedMessage::new(&lock.lock_hash);
        let shares = present.iter().chain(&self.secrets);
        let signed = lock.validators.iter().zip(shares);
        let signed = signed.map(|(v, share)| (v.public_key, share.key().sign_hashed(&message).to_bytes()));
        Some((lock.lock_hash, signed.collect()))
    }
}

/// What a member's second broadcast must say, given the new validators.
pub fn arrived(validators: &[BornValidator], member: usize) -> Vec<Arrived> {
    validators
        .iter()
        .filter_map(|validator| {
            let public_share = *validator.public_shares.get(member)?;
            Some(Arrived { group_key: validator.group_key, public_share })
        })
        .collect()
}

/// What is signed for one validator in an exchange. The lock is not known here.
pub fn root_of(plan: &Plan, exchange: Exchange, validator: usize, key: PublicKeyBytes) -> Option<[u8; 32]> {
    match exchange {
        Exchange::Deposit(position) => {
            let amount = *plan.amounts().get(usize::from(position))?;
            Some(plan.deposit_root(&plan.deposit(validator, key, amount)?).0)
        }
        Exchange::Registration => Some(plan.registration_root(&plan.registration(validator, key)?).0),
        Exchange::Lock => None,
    }
}

/// Whole signatures by the new validators' keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedByValidators {
    /// For each amount, smallest first, one per validator.
    pub deposits: Vec<Vec<SignatureBytes>>,
    /// One per validator.
    pub registrations: Vec<SignatureBytes>,
}

impl SignedByValidators {
    /// The lock they belong to, not signed yet but for its hash. None unless every signature is the validator's own.
    pub fn lock(&self, plan: &Plan, validators: &[BornValidator]) -> Option<Lock> {
        let version = plan.definition().version;
        if self.deposits.len() != plan.amounts().len() || validators.len() != plan.validators() {
            return None;
        }
        let mut distributed = Vec::with_capacity(validators.len());
        for (position, validator) in validators.iter().enumerate() {
            let key = validator.group_key;
            let mut deposits = Vec::new();
            for (amount, signatures) in plan.amounts().iter().zip(&self.deposits) {
                let message = plan.deposit(position, key, *amount)?;
                let signature = *signatures.get(position)?;
                threshold::verify_bytes(&key, &plan.deposit_root(&message).0, &signature).ok()?;
                deposits.push(DepositData {
                    pubkey: key,
                    withdrawal_credentials: message.withdrawal_credentials,
                    amount: *amount,
                    signature,
                });
            }
            let message = plan.registration(position, key)?;
            let signature = *self.registrations.get(position)?;
            threshold::verify_bytes(&key, &plan.registration_root(&message).0, &signature).ok()?;
            let registration = SignedValidatorRegistration { message, signature };
            distributed.push(DistributedValidator {
                public_key: key,
                public_shares: validator.public_shares.clone(),
                deposits,
                builder_registration: (version >= SchemaVersion::V1_7).then_some(registration),
            });
        }
        plan.lock(distributed).ok()
    }
}
