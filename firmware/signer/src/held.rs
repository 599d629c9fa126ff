//! Whether a share is here as a lock has it: asked before an owner's word about a cluster is taken, by whichever ceremony.

use chain::{PublicKeyBytes, Root};
use ipc::{Problem, signer::ChainClock};

use crate::{import::bad, signer::Signer};

impl Signer {
    /// Refuses unless the share is held, opens, and is of that validator and chain.
    pub(crate) fn holds_as(
        &self,
        share: &PublicKeyBytes,
        validator: &PublicKeyBytes,
        genesis_validators_root: &Root,
        clock: &ChainClock,
    ) -> Result<(), Problem> {
        let (row, opened) = self.known_row(share).ok_or_else(|| {
            bad(
                "share_missing",
                &format!("the share {share} of the lock is not here"),
                "Use the lock that is in force, or import the share first.",
            )
        })?;
        let same = row.group_key == *validator
            && row.genesis_validators_root == *genesis_validators_root
            && row.clock == *clock;
        if same && opened {
            return Ok(());
        }
        Err(bad(
            "share_conflict",
            &format!("the share {share} is held for another validator or chain, or does not open"),
            "Check the lock, the chain and the signer's status.",
        ))
    }
}
