//! A share that is ready to sign. The only code that makes signatures.

use chain::SignatureBytes;
use ipc::signer::HeldShare;
use threshold::SecretShare;

use crate::ledger::{Clearance, ShareRow};

/// A share in locked memory, with its public facts.
pub(crate) struct Share {
    row: ShareRow,
    secret: SecretShare,
}

impl Share {
    /// Puts a share into service. Its sealed form is not kept in memory.
    pub(crate) fn new(mut row: ShareRow, secret: SecretShare) -> Self {
        row.sealed = Vec::new();
        Self { row, secret }
    }

    /// The public facts.
    pub(crate) fn row(&self) -> &ShareRow {
        &self.row
    }

    /// Signs what was cleared, and nothing else: a clearance exists only after its record is on the disk.
    pub(crate) fn sign(&self, clearance: Clearance) -> Option<SignatureBytes> {
        (clearance.key() == self.row.pubshare)
            .then(|| self.secret.sign(clearance.signing_root().as_slice()).to_bytes())
    }
}

/// What the status shows of a share, before its marks are known.
pub(crate) fn held(row: &ShareRow) -> HeldShare {
    HeldShare {
        pubshare: row.pubshare.to_string(),
        group_key: row.group_key.to_string(),
        share_index: row.share_index,
        last_signed: None,
    }
}
