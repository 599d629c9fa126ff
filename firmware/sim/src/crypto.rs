//! The signatures of a run: BLS, or fingerprints that behave alike.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, Root, SignatureBytes};
use duty::CombineJob;
use qbft::Member;
use rand_chacha::ChaCha8Rng;
use threshold::{Job, PublicKey, SecretKey, SecretShare, ShareIndex, split};

use crate::values::{fingerprint, validator};
use crate::world::{Crypto, World};

/// Everybody's keys.
pub(crate) enum Keys {
    StandIn,
    Bls(BTreeMap<PublicKeyBytes, Group>),
}

/// One validator's keys.
pub(crate) struct Group {
    shares: BTreeMap<Member, SecretShare>,
    public_shares: BTreeMap<ShareIndex, PublicKey>,
    group_key: PublicKey,
    threshold: usize,
}

fn share_index(member: Member) -> ShareIndex {
    ShareIndex::new(u64::from(member.0) + 1).expect("never zero")
}

fn member_of(index: ShareIndex) -> Option<Member> {
    u8::try_from(index.get()).ok()?.checked_sub(1).map(Member)
}

impl Keys {
    pub(crate) fn generate(world: &World, rng: &mut ChaCha8Rng) -> Self {
        match world.crypto {
            Crypto::StandIn => Keys::StandIn,
            Crypto::Bls => {
                Keys::Bls((1..=3).map(|number| (validator(number), Group::generate(world, rng))).collect())
            }
        }
    }

    pub(crate) fn sign(&self, member: Member, id: &PublicKeyBytes, root: Root) -> SignatureBytes {
        match self {
            Keys::StandIn => stand_in(b"partial", member, id, root),
            Keys::Bls(groups) => {
                let share = groups.get(id).and_then(|group| group.shares.get(&member));
                share.map_or(SignatureBytes::ZERO, |share| share.sign(&root.0).to_bytes())
            }
        }
    }

    /// What the shell does with a job: combine, verify, and otherwise name the liars.
    pub(crate) fn combine(
        &self,
        job: &CombineJob,
        rng: &mut ChaCha8Rng,
    ) -> Result<SignatureBytes, Vec<Member>> {
        let id = &job.id.validator;
        match self {
            Keys::StandIn => {
                let right = |(member, signature): &&(Member, SignatureBytes)| {
                    *signature == stand_in(b"partial", *member, id, job.message_root)
                };
                let liars: Vec<Member> = job
                    .partials
                    .iter()
                    .filter(|partial| !right(partial))
                    .map(|(member, _)| *member)
                    .collect();
                let group = || stand_in(b"group", Member(0), id, job.message_root);
                if liars.is_empty() { Ok(group()) } else { Err(liars) }
            }
            Keys::Bls(groups) => groups.get(id).map_or(Err(Vec::new()), |group| group.combine(job, rng)),
        }
    }

    /// Whether this is the validator's signature.
    pub(crate) fn verify(&self, id: &PublicKeyBytes, root: Root, signature: &SignatureBytes) -> bool {
        match self {
            Keys::StandIn => *signature == stand_in(b"group", Member(0), id, root),
            Keys::Bls(groups) => groups.get(id).is_some_and(|group| {
                let parsed = threshold::Signature::parse(signature);
                parsed.is_ok_and(|signature| threshold::verify(&group.group_key, &root.0, &signature))
            }),
        }
    }
}

impl Group {
    fn generate(world: &World, rng: &mut ChaCha8Rng) -> Self {
        let secret = SecretKey::random(rng);
        let group_key = secret.public_key();
        let split = split(secret, world.threshold(), world.members, rng).expect("a possible cluster");
        let public_shares =
            split.shares.iter().map(|share| (share.index(), share.public_share().key)).collect();
        let shares = split.shares.into_iter().filter_map(|share| Some((member_of(share.index())?, share)));
        Group { shares: shares.collect(), public_shares, group_key, threshold: world.threshold() }
    }

    fn combine(&self, job: &CombineJob, rng: &mut ChaCha8Rng) -> Result<SignatureBytes, Vec<Member>> {
        let partials: Vec<(ShareIndex, SignatureBytes)> =
            job.partials.iter().map(|(member, signature)| (share_index(*member), *signature)).collect();
        let job = Job {
            group_key: &self.group_key,
            public_shares: &self.public_shares,
            threshold: self.threshold,
            message: &job.message_root.0,
            partials: &partials,
        };
        match threshold::combine_and_verify(&job, rng) {
            Ok(combined) => Ok(combined.signature),
            Err(threshold::CombineError::TooFew { liars, .. }) => {
                Err(liars.into_iter().filter_map(member_of).collect())
            }
            Err(threshold::CombineError::Malformed { index, .. }) => {
                Err(member_of(index).into_iter().collect())
            }
            Err(
                threshold::CombineError::Interpolation(_)
                | threshold::CombineError::NotInSubgroup
                | threshold::CombineError::WrongGroupKey,
            ) => Err(Vec::new()),
        }
    }
}

fn stand_in(kind: &[u8], member: Member, id: &PublicKeyBytes, root: Root) -> SignatureBytes {
    let print = fingerprint(&[kind, &[member.0], &id.0, &root.0]);
    let mut bytes = [0; 96];
    bytes.chunks_mut(32).for_each(|chunk| chunk.copy_from_slice(&print));
    SignatureBytes(bytes)
}
