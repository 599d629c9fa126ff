//! What a ceremony is about, read from a verified definition: who takes part, and what is to be made and signed.
//!
//! The cluster may exist already and get more validators (obol spec 11.9): then the present ones are in the new lock too, whose
//! hash their shares sign as well, and nothing else is made or signed for them.

use chain::deposit::registration_signing_root;
use chain::{DepositMessage, ExecutionAddress, Gwei, PublicKeyBytes, Root, ValidatorRegistration};
use cluster::add::Addition;
use cluster::definition::ValidatorAddresses;
use cluster::deposit::{ETH, check_amounts, credentials, effective_amounts, signing_root};
use cluster::{
    Definition, DefinitionError, DistributedValidator, FieldError, IdentityPublicKey, Lock, Network, PeerId,
    SchemaVersion,
};

/// Most members of a ceremony: more than any cluster has, so that hostile definitions cost little.
pub const MAX_MEMBERS: usize = 32;
/// Most validators of a ceremony: what one signer takes in at once.
pub const MAX_VALIDATORS: usize = 1000;
/// Gas limit where the definition has none (obol spec 3.9).
const OLD_GAS_LIMIT: u64 = 30_000_000;

/// Why no ceremony can be held for a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It does not verify.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// Older schemas have no place for deposits.
    #[error("cluster definition: version {0} is too old for key generation; make it anew with v1.6 or later")]
    Version(SchemaVersion),
    /// Another way to make keys.
    #[error("cluster definition: the key generation '{0}' is not spoken here; choose 'default' or 'frost'")]
    Algorithm(String),
    /// Too few or too many.
    #[error("cluster definition: {0} operators; a ceremony has 2 to {MAX_MEMBERS}")]
    Members(usize),
    /// Impossible, or too few to be safe.
    #[error(
        "cluster definition: a threshold of {threshold} of {members} cannot work or lets two groups sign different messages; make it anew with at least {least}"
    )]
    Threshold {
        /// Asked for.
        threshold: u64,
        /// Members.
        members: usize,
        /// The least that is safe.
        least: usize,
    },
    /// Too few or too many.
    #[error("cluster definition: {0} validators; a ceremony makes 1 to {MAX_VALIDATORS}")]
    Validators(u64),
    /// An address is not one.
    #[error(
        "cluster definition: the {what} of validator {validator} is no address; make the definition anew"
    )]
    Address {
        /// Which address.
        what: &'static str,
        /// Position of the validator.
        validator: usize,
    },
    /// This identity is not a member.
    #[error(
        "this box (peer id {0}) is no operator of the cluster definition; give its operator record to whoever makes the definition"
    )]
    NotAMember(PeerId),
    /// The chain is not known.
    #[error("cluster definition: the fork version {0} belongs to no known network")]
    Network(chain::ForkVersion),
}

/// A ceremony as its verified definition has it, seen by one member. Made only by [`Plan::new`] and [`Plan::adding`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    definition: Definition,
    addition: Option<Addition>,
    members: Vec<IdentityPublicKey>,
    own: usize,
    threshold: usize,
    network: Network,
    amounts: Vec<Gwei>,
    fee_recipients: Vec<ExecutionAddress>,
    withdrawals: Vec<ExecutionAddress>,
}

impl Plan {
    /// Verifies a definition and looks our identity up in it. `custom` adds networks to the public ones.
    pub fn new(
        definition: Definition,
        custom: &[Network],
        identity: &IdentityPublicKey,
    ) -> Result<Self, PlanError> {
        definition.verify(custom)?;
        Self::of(definition, None, custom, identity)
    }

    /// The ceremony of a cluster that exists, for more validators.
    pub fn adding(
        addition: Addition,
        custom: &[Network],
        identity: &IdentityPublicKey,
    ) -> Result<Self, PlanError> {
        Self::of(addition.definition().clone(), Some(addition), custom, identity)
    }

    fn of(
        definition: Definition,
        addition: Option<Addition>,
        custom: &[Network],
        identity: &IdentityPublicKey,
    ) -> Result<Self, PlanError> {
        if definition.version < SchemaVersion::V1_6 {
            return Err(PlanError::Version(definition.version));
        }
        if !["default", "frost", ""].contains(&definition.dkg_algorithm.as_str()) {
            return Err(PlanError::Algorithm(definition.dkg_algorithm.chars().take(32).collect()));
        }
        let members: Vec<IdentityPublicKey> =
            definition.operator_records()?.iter().map(cluster::Enr::public_key).collect();
        if !(2..=MAX_MEMBERS).contains(&members.len()) {
            return Err(PlanError::Members(members.len()));
        }
        let threshold = safe_threshold(definition.threshold, members.len())?;
        let validators = usize::try_from(definition.num_validators).unwrap_or(usize::MAX);
        let present = addition.as_ref().map_or(0, |addition| addition.base().validators.len());
        let made = validators.saturating_sub(present);
        if !(1..=MAX_VALIDATORS).contains(&made) || definition.validators.len() != validators {
            return Err(PlanError::Validators(definition.num_validators));
        }
        let own = members.iter().position(|member| member == identity);
        let own = own.ok_or(PlanError::NotAMember(PeerId::from_public_key(identity)))?;
        let chosen = definition.deposit_amounts.clone().unwrap_or_default();
        check_amounts(&chosen, definition.compounding).map_err(DefinitionError::from)?;
        let amounts = if definition.version < SchemaVersion::V1_8 {
            vec![Gwei(32 * ETH.0)]
        } else {
            effective_amounts(&chosen, definition.compounding)
        };
        let public = Network::by_fork_version(definition.fork_version);
        let own_network =
            custom.iter().find(|network| network.genesis_fork_version == definition.fork_version);
        let network = public.or_else(|| own_network.cloned());
        let network = network.ok_or(PlanError::Network(definition.fork_version))?;
        let (mut fee_recipients, mut withdrawals) = (Vec::new(), Vec::new());
        for (validator, addresses) in definition.validators.iter().enumerate().skip(present) {
            let ValidatorAddresses { fee_recipient_address, withdrawal_address } = addresses;
            let fee = if fee_recipient_address.is_empty() {
                Some(ExecutionAddress::ZERO)
            } else {
                fee_recipient_address.parse().ok()
            };
            fee_recipients.push(fee.ok_or(PlanError::Address { what: "fee recipient", validator })?);
            let withdrawal = withdrawal_address.parse().ok();
            withdrawals.push(withdrawal.ok_or(PlanError::Address { what: "withdrawal address", validator })?);
        }
        Ok(Self {
            definition,
            addition,
            members,
            own,
            threshold,
            network,
            amounts,
            fee_recipients,
            withdrawals,
        })
    }

    /// The definition that the lock will have.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The ceremony's name: the definition's hash, of a cluster that exists the one that it has before.
    pub fn hash(&self) -> [u8; 32] {
        let base = self.addition.as_ref().map(|addition| &addition.base().definition);
        base.unwrap_or(&self.definition).definition_hash
    }

    /// The validators that the cluster has already, in order.
    pub fn present(&self) -> &[DistributedValidator] {
        self.addition.as_ref().map_or(&[], |addition| &addition.base().validators)
    }

    /// The lock of the cluster that exists, if there is one.
    pub fn base(&self) -> Option<&Lock> {
        self.addition.as_ref().map(Addition::base)
    }

    /// The lock with the new validators, not signed yet but for its hash.
    pub fn lock(&self, new: Vec<DistributedValidator>) -> Result<Lock, FieldError> {
        if let Some(addition) = &self.addition {
            return addition.lock(new);
        }
        let mut lock = Lock {
            definition: self.definition.clone(),
            validators: new,
            signature_aggregate: Vec::new(),
            lock_hash: [0; 32],
            node_signatures: Vec::new(),
        };
        lock.lock_hash = lock.compute_lock_hash()?;
        Ok(lock)
    }

    /// The new validators of a lock that is this ceremony's; none when it is another one. Its signatures are not looked at.
    pub fn made_in<'a>(&self, lock: &'a Lock) -> Option<&'a [DistributedValidator]> {
        match &self.addition {
            Some(addition) => addition.added(lock),
            None => (lock.definition == self.definition).then_some(&lock.validators),
        }
    }

    /// The members' identities, in order.
    pub fn members(&self) -> &[IdentityPublicKey] {
        &self.members
    }

    /// Our place among the members, from 0.
    pub fn own(&self) -> usize {
        self.own
    }

    /// The others' places.
    pub fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|member| *member != self.own)
    }

    /// The place of a peer.
    pub fn member_of(&self, peer: &PeerId) -> Option<usize> {
        self.members.iter().position(|member| *member == peer.public_key())
    }

    /// A member's readable name.
    pub fn name_of(&self, member: usize) -> String {
        self.members.get(member).map_or_else(
            || "nobody".to_owned(),
            |key| format!("member {} ({})", member + 1, PeerId::from_public_key(key).name()),
        )
    }

    /// Partial signatures needed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Keys to make.
    pub fn validators(&self) -> usize {
        self.fee_recipients.len()
    }

    /// The chain.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The deposits that are signed for each validator, smallest first.
    pub fn amounts(&self) -> &[Gwei] {
        &self.amounts
    }

    /// The deposit of one validator.
    pub fn deposit(&self, validator: usize, key: PublicKeyBytes, amount: Gwei) -> Option<DepositMessage> {
        let withdrawal = *self.withdrawals.get(validator)?;
        let withdrawal_credentials = credentials(withdrawal, self.definition.compounding);
        Some(DepositMessage { pubkey: key, withdrawal_credentials, amount })
    }

    /// What is signed for a deposit.
    pub fn deposit_root(&self, message: &DepositMessage) -> Root {
        signing_root(message, self.definition.fork_version)
    }

    /// The builder registration of one validator.
    pub fn registration(&self, validator: usize, key: PublicKeyBytes) -> Option<ValidatorRegistration> {
        let gas_limit = self.definition.target_gas_limit;
        Some(ValidatorRegistration {
            fee_recipient: *self.fee_recipients.get(validator)?,
            gas_limit: if gas_limit == 0 { OLD_GAS_LIMIT } else { gas_limit },
            timestamp: self.network.genesis_time,
            pubkey: key,
        })
    }

    /// What is signed for a registration.
    pub fn registration_root(&self, message: &ValidatorRegistration) -> Root {
        registration_signing_root(message, self.definition.fork_version)
    }
}

/// Two groups of that many members must share an honest one, as for every cluster this box joins.
fn safe_threshold(threshold: u64, members: usize) -> Result<usize, PlanError> {
    let least = ((members + members.saturating_sub(1) / 3) / 2 + 1).max(2);
    let wanted = usize::try_from(threshold).unwrap_or(usize::MAX);
    if (least..=members).contains(&wanted) {
        Ok(wanted)
    } else {
        Err(PlanError::Threshold { threshold, members, least })
    }
}
