//! A share that is ready to sign. The only code that makes signatures.

use chain::{Root, SignatureBytes};
use ipc::signer::HeldShare;
use threshold::{HashedMessage, SecretShare};

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

    /// The secret, for what leaves the box encrypted: backups and moves, and nothing else.
    pub(crate) fn expose_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        self.secret.key().expose_bytes()
    }

    /// Signs what was cleared, and nothing else: a clearance exists only after its record is on the disk.
    pub(crate) fn sign(&self, clearance: Clearance) -> Option<SignatureBytes> {
        let hashed = HashedRoot::new(clearance.signing_root());
        self.sign_hashed(clearance, &hashed)
    }

    /// The same with the root hashed before, for many shares that sign one message. Nothing when it is another root.
    pub(crate) fn sign_hashed(&self, clearance: Clearance, hashed: &HashedRoot) -> Option<SignatureBytes> {
        (clearance.key() == self.row.pubshare && clearance.signing_root() == hashed.root)
            .then(|| self.secret.key().sign_hashed(&hashed.message).to_bytes())
    }
}

/// A signing root, and the same hashed to the curve, which is half the work of a signature.
#[derive(Clone, Copy)]
pub(crate) struct HashedRoot {
    root: Root,
    message: HashedMessage,
}

impl HashedRoot {
    /// Hashes.
    pub(crate) fn new(root: Root) -> Self {
        Self { root, message: HashedMessage::new(root.as_slice()) }
    }
}

/// What the status shows of a share, before its marks are known.
pub(crate) fn held(row: &ShareRow) -> HeldShare {
    HeldShare {
        pubshare: row.pubshare.to_string(),
        group_key: row.group_key.to_string(),
        share_index: row.share_index,
        last_signed: None,
        stopped_at_ms: None,
    }
}
