//! Backups: all shares, encrypted under a passphrase, with what they had signed by then (decision 0301).
//!
//! A backup is a copy, and two copies that sign are a slashing. So what comes out of one begins where nothing that the old
//! box signed can matter: above the marks in the backup, above the clock, and [`RESTORED_EPOCHS`] epochs more, in which the
//! box watches. The owner must say that the old box is gone. A share that this box gave away never comes back from one.

use std::{io, sync::Arc, time::Instant};

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use ipc::{
    Problem, ShareImport,
    moving::{
        BACKUP_INFO, BackupContent, BackupEnvelope, BackupFile, BackupOrder, CarriedSecrets,
        MAX_CARRIED_BYTES, RESTORE_INFO, RestoreOrder,
    },
    signer::ShareImported,
};
use rand::TryRngCore as _;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    boot,
    carry::{self, Opened, invalid},
    clock::now,
    folder::{fault, unsealed},
    import::bad,
    passphrase,
    signer::{Signer, blocking, ledger_problem},
};

/// How many epochs longer than an import a restored share waits: half an hour on mainnet, in which whatever the old box sent
/// last is in the chain or void, and another user of the share is noticed.
pub(crate) const RESTORED_EPOCHS: u64 = 4;
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

impl Signer {
    /// Makes a backup, for somebody who stands before the box.
    pub(crate) async fn back_up(self: &Arc<Self>, sealed: ShareImport) -> Result<BackupFile, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        let (vault, ledger) = self.open_parts()?;
        let order: BackupOrder = self.opened(&sealed, BACKUP_INFO, 4096)?;
        if order.passphrase.expose_secret().chars().count() < passphrase::LEAST_LETTERS {
            return Err(bad(
                "passphrase_short",
                &format!("the passphrase has fewer than {} letters", passphrase::LEAST_LETTERS),
                "Take five or more words that nobody would guess.",
            ));
        }
        let (shares, identities) = self.everything(&vault).await?;
        let line = format!("a backup of {} key shares is asked for", shares.len());
        self.trust_clock().map_err(|refusal| refusal.to_problem())?;
        // Who learns the code of one order has no backup under another passphrase by it.
        let mut decides = Zeroizing::new(b"backup ".to_vec());
        decides.extend_from_slice(order.passphrase.expose_secret().as_bytes());
        self.presence.confirm(&decides, &line, order.code.as_deref(), Instant::now())?;
        let marks = ledger.watermarks().await.map_err(|error| ledger_problem(&error))?;
        let (mut carried, mut secrets) = (Vec::new(), Vec::new());
        for share in &shares {
            let key = share.row().pubshare;
            let known = marks.iter().find(|marks| marks.key == key).ok_or_else(fault)?;
            let (share, secret) = carry::pack(share, known);
            carried.push(share);
            secrets.push(secret);
        }
        let count = carried.len();
        let secrets = CarriedSecrets { shares: secrets, identities };
        let content = BackupContent { made_at_ms: now().0, shares: carried, secrets };
        let memory_kib = self.config.argon2_memory_kib;
        let file = blocking(move || {
            let (mut salt, mut nonce) = ([0; passphrase::SALT_BYTES], [0; NONCE_BYTES]);
            rand::rngs::OsRng.try_fill_bytes(&mut salt).ok()?;
            rand::rngs::OsRng.try_fill_bytes(&mut nonce).ok()?;
            encrypt(&content, order.passphrase.expose_secret(), memory_kib, &salt, &nonce)
        })
        .await
        .flatten()
        .ok_or_else(fault)?;
        tracing::warn!(shares = count, "a backup was made");
        Ok(BackupFile { file, shares: count })
    }

    /// Takes a backup in.
    pub(crate) async fn restore(self: &Arc<Self>, sealed: ShareImport) -> Result<ShareImported, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let (vault, _) = self.open_parts()?;
        let order: RestoreOrder = self.opened(&sealed, RESTORE_INFO, MAX_CARRIED_BYTES + 8192)?;
        if !order.old_box_gone {
            return Err(bad(
                "old_box_running",
                "the box that made the backup may still sign, and two boxes that sign with one key get its validator slashed",
                "Restore only when the old box is gone for good, and say so. To change to a new box while the old one works, move the shares instead.",
            ));
        }
        let Opened { made_at, shares, identities } =
            blocking(move || decrypt(order.file.as_bytes(), order.passphrase.expose_secret()))
                .await
                .ok_or_else(fault)??;
        self.may_come_in(&shares)?;
        carry::not_from_the_future(made_at, now(), shares.iter().map(|share| &share.row.clock))?;
        // A backup from before its cluster was changed has shares that others have taken the place of: they cost nobody the rest.
        let second = self.second_shares(&shares).await?;
        let taken = self.take_in_what_may_come_back(shares, &second).await?;
        self.keep_identities(&vault, &identities);
        tracing::warn!(shares = taken.imported.len(), "a backup was restored");
        Ok(taken)
    }

    /// Opens an order that the page sealed. The parser's own words may quote a secret.
    fn opened<T: serde::de::DeserializeOwned>(
        &self,
        sealed: &ShareImport,
        purpose: &[u8],
        limit: usize,
    ) -> Result<T, Problem> {
        let text = self
            .import_key()?
            .open_from_page(sealed, purpose, limit)
            .map_err(|error| unsealed(&error.to_string()))?;
        serde_json::from_slice(&text).map_err(|_| unsealed("the order is not as expected"))
    }
}

/// Salt and nonce must be new each time.
pub(crate) fn encrypt(
    content: &BackupContent,
    passphrase: &str,
    memory_kib: u32,
    salt: &[u8; passphrase::SALT_BYTES],
    nonce: &[u8; NONCE_BYTES],
) -> Option<String> {
    let mut envelope = BackupEnvelope {
        hearth_backup: VERSION,
        memory_kib,
        passes: passphrase::PASSES,
        salt: hex::encode(salt),
        nonce: hex::encode(nonce),
        ciphertext: String::new(),
    };
    let key = passphrase::key(passphrase, salt, memory_kib, envelope.passes)?;
    let plain = in_one_piece(content)?;
    // What could not be brought back is no backup.
    read(&plain).ok()?;
    let payload = Payload { msg: &plain, aad: &header(&envelope) };
    let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
    envelope.ciphertext = hex::encode(cipher.encrypt(XNonce::from_slice(nonce), payload).ok()?);
    serde_json::to_string(&envelope).ok().filter(|file| file.len() <= MAX_CARRIED_BYTES)
}

/// What the ciphertext is bound to.
fn header(envelope: &BackupEnvelope) -> Vec<u8> {
    let BackupEnvelope { hearth_backup, memory_kib, passes, salt, nonce, ciphertext: _ } = envelope;
    format!("hearth backup {hearth_backup} {memory_kib} {passes} {salt} {nonce}").into_bytes()
}

/// Reads a backup: all of it is right, or nothing is taken.
pub(crate) fn decrypt(file: &[u8], passphrase: &str) -> Result<Opened, Problem> {
    if file.len() > MAX_CARRIED_BYTES {
        return Err(invalid("it is larger than any backup"));
    }
    let envelope: BackupEnvelope =
        serde_json::from_slice(file).map_err(|_| invalid("it is no backup, or not all of it"))?;
    if envelope.hearth_backup != VERSION {
        return Err(invalid("it was made by newer software"));
    }
    let part = |text: &str| hex::decode(text).map_err(|_| invalid("it was changed"));
    let salt: [u8; passphrase::SALT_BYTES] =
        part(&envelope.salt)?.try_into().map_err(|_| invalid("it was changed"))?;
    let nonce: [u8; NONCE_BYTES] =
        part(&envelope.nonce)?.try_into().map_err(|_| invalid("it was changed"))?;
    let ciphertext = part(&envelope.ciphertext)?;
    let key = passphrase::key(passphrase, &salt, envelope.memory_kib, envelope.passes)
        .ok_or_else(|| invalid("it asks for more memory than a box has"))?;
    let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| fault())?;
    let payload = Payload { msg: &ciphertext, aad: &header(&envelope) };
    let plain = cipher.decrypt(XNonce::from_slice(&nonce), payload).map(Zeroizing::new).map_err(|_| {
        bad(
            "passphrase_wrong",
            "the backup does not open: the passphrase is another one, or the file was changed",
            "Try the passphrase again, or another copy of the file.",
        )
    })?;
    read(&plain)
}

/// Reads what was encrypted.
pub(crate) fn read(plain: &[u8]) -> Result<Opened, Problem> {
    let content: BackupContent =
        serde_json::from_slice(plain).map_err(|_| invalid("its content is not as expected"))?;
    carry::unpack(content.made_at_ms, &content.shares, content.secrets, RESTORED_EPOCHS)
}

/// As JSON, in memory of the right size from the beginning: a buffer that grows leaves copies of what it held behind, unwiped.
pub(crate) fn in_one_piece(secrets: &impl Serialize) -> Option<Zeroizing<Vec<u8>>> {
    struct Length(usize);
    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, secrets).ok()?;
    let mut text = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *text, secrets).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_one_piece_never_grows() {
        let secrets: Vec<String> = (0..100).map(|number| format!("secret \"{number}\"")).collect();
        let text = in_one_piece(&secrets).unwrap();
        assert_eq!(*text, serde_json::to_vec(&secrets).unwrap());
        assert_eq!(text.capacity(), text.len());
    }
}
