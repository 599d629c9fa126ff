//! The parsers of outside bytes as plain functions: the way in for fuzzing.
//!
//! Not an interface: nothing that runs on the box calls it, and nothing here holds, makes or uses a key share in service.

use chain::{Epoch, ExecutionAddress, ForkVersion, PublicKeyBytes, Root, Slot};
use ipc::SignRequest;
use ipc::dkg::CeremonyConsent;
use ipc::edit::EditConsent;
use ipc::owner::OwnerRules;
use ipc::signer::{ChainClock, ShareBundle};

use crate::message::{Vote, read};
use crate::rules::Rules;

/// What would be signed for a request, if the ledger and the rules allowed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The root that the share would sign.
    pub signing_root: Root,
    /// The epoch of its domain.
    pub epoch: Epoch,
    /// Source and target, of an attestation.
    pub attestation: Option<(Epoch, Epoch)>,
    /// The slot, of a block.
    pub block: Option<Slot>,
}

/// Reads a request to sign.
pub fn sign_request(
    request: &SignRequest,
    genesis_validators_root: Root,
    clock: &ChainClock,
) -> Option<Asked> {
    let rules = Rules {
        genesis_fork_version: ForkVersion([1; 4]),
        capella_fork_version: Some(ForkVersion([3; 4])),
        fee_recipient: ExecutionAddress([9; 20]),
        gas_limit: 36_000_000,
        withdrawal_credentials: None,
    };
    let message = read(request, genesis_validators_root, clock, Some(&rules)).ok()?;
    let (attestation, block) = match message.vote {
        Vote::Attestation { source, target } => (Some((source, target)), None),
        Vote::Block { slot } => (None, Some(slot)),
        Vote::None => (None, None),
    };
    Some(Asked { signing_root: message.signing_root, epoch: message.epoch, attestation, block })
}

/// Unpacks an opened bundle of shares; the public shares in it. Derives a key for each keystore, as costly as it says.
pub fn share_bundle(bundle: ShareBundle) -> Option<Vec<PublicKeyBytes>> {
    crate::import::unpacked_keys(bundle)
}

/// Whether a request to import over the keymanager API can be looked at.
pub fn keymanager_import(body: &[u8]) -> bool {
    crate::keymanager::read_request(body).is_ok()
}

/// What the owner allows beside duties; how many validators it is for.
pub fn owner_rules(rules: OwnerRules) -> Option<usize> {
    crate::owner::rules_of(rules, &[]).ok().map(|rules| rules.len())
}

/// Whether the owner's consent to a change of the cluster makes sense.
pub fn edit_consent(consent: EditConsent) -> bool {
    crate::edit::Ceremony::new(consent).is_ok()
}

/// Whether the owner's consent to a key generation makes sense.
pub fn ceremony_consent(consent: CeremonyConsent) -> bool {
    crate::ceremony::is_sound(consent)
}
