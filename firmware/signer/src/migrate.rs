//! Moving all shares to another box, so that at no moment both can sign (decision 0302).
//!
//! The old box first takes its shares out of service, then in one transaction destroys them, writes down that they never come
//! back, and keeps the certificate, sealed to itself; then it steps the TPM's counter, so that no copy of the disk from before
//! opens any more; and only then the certificate leaves. It can be asked for again after a crash. The new box takes nothing
//! but a certificate that is signed by the old one and sealed to itself, and begins above every mark in it and above the clock.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use cluster::identity::IdentityPublicKey;
use ipc::{
    Problem,
    envelope::{ImportSecret, fingerprint, seal_for},
    moving::{
        Arrival, CarriedSecrets, MAX_CARRIED_BYTES, MOVE_INFO, MoveBody, MoveCertificate, MoveOrder, Moves,
    },
    signer::ShareImported,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    boot,
    carry::{self, Opened, invalid},
    clock::now,
    folder::{CLOCKS_APART, fault},
    import::bad,
    ledger::{LedgerError, Marks},
    real_chain::ImageKeys,
    rollback,
    share::Share,
    signer::{Signer, blocking, ledger_problem},
    vault::Vault,
};

const VERSION: u8 = 1;
/// Binds a kept certificate's seal to its purpose.
const KEPT_LABEL: &[u8] = b"hearth kept certificate v1";
/// A vote that was under way may be recorded while the certificate is made; then it is made again.
const TRIES: u8 = 16;

impl Signer {
    /// Gives all shares away. When this answers, they are gone from here.
    pub(crate) async fn move_away(self: &Arc<Self>, order: MoveOrder) -> Result<MoveCertificate, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        let (vault, _) = self.open_parts()?;
        if vault.facts().is_none() {
            return Err(bad(
                "move_needs_tpm",
                "a move ends with the proof that no copy of this box's disk opens any more, and a board without a TPM cannot give it",
                "Make a backup, switch this box off for good, and restore on the other one: the shares wait there until nothing of this box can matter.",
            ));
        }
        let (to, other_image) = ImageKeys::of_named(order.to.trim());
        let to: [u8; 32] = hex::decode(to.trim_start_matches("0x"))
            .ok()
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| {
                bad(
                    "key_invalid",
                    "the other box's key is not 32 bytes of hex, as its page shows them",
                    "Copy it from the other box's page.",
                )
            })?;
        let own = [self.import_key()?.public_bytes(), self.arrival_key()?.public_bytes()];
        if own.iter().any(|own| own.as_slice() == to.as_slice()) {
            return Err(bad(
                "move_to_itself",
                "this is the key of this very box",
                "Copy the key from the other box's page.",
            ));
        }
        let (shares, identities) = self.everything(&vault).await?;
        // What the other box would refuse for ever, asked while the shares are still here.
        let forbidden =
            shares.iter().find_map(|share| other_image.forbidden(&share.row().genesis_validators_root));
        if let Some(chain) = forbidden {
            return Err(bad(
                "other_box_test_keys",
                &format!(
                    "the other box's image is signed with keys that everybody has, and takes in no share of {chain}"
                ),
                "Install an image there that is signed with its maker's own keys, and copy its key again. Nothing was changed.",
            ));
        }
        let line = format!(
            "all {} key shares shall move to the box with the key {} and leave this one for good; a box that once gave them away cannot take them back",
            shares.len(),
            fingerprint(&to)
        );
        let what = [b"move".as_slice(), &to].concat();
        // What is written beside the shares is a moment, which the other box compares with its own.
        self.trust_clock().map_err(|refusal| refusal.to_problem())?;
        self.presence.confirm(&what, &line, order.code.as_deref(), Instant::now())?;

        let keys: Vec<_> = shares.iter().map(|share| share.row().pubshare).collect();
        // From here on no new signature begins. Whatever happens below, only the ledger says what is held.
        self.withdraw(&keys);
        // A copy of the disk as it was until now goes on to be current until the counter has stepped for this move, too.
        self.certificates_may_leave.store(false, Ordering::Relaxed);
        let released = self.give_away(&vault, &shares, identities, &to).await;
        let (certificate, counter) = match released {
            Ok(released) => released,
            Err(problem) => {
                self.lock_again(problem.clone());
                return Err(problem);
            }
        };
        if let Err(problem) = rollback::settle(self.witness(), counter).await {
            // It leaves when the TPM has caught up: no copy of the disk from before may open then.
            self.lock_again(problem.clone());
            return Err(problem);
        }
        self.forget(&keys);
        tracing::warn!(shares = keys.len(), "all shares were given to another box");
        Ok(certificate)
    }

    /// The transaction: the shares go, their tombstones and the certificate stay.
    async fn give_away(
        &self,
        vault: &Arc<Vault>,
        shares: &[Arc<Share>],
        identities: Vec<ipc::moving::CarriedIdentity>,
        to: &[u8; 32],
    ) -> Result<(MoveCertificate, u64), Problem> {
        let ledger = self.ledger()?;
        let mut secrets = CarriedSecrets { shares: Vec::new(), identities };
        secrets.shares.extend(shares.iter().map(|share| carry::secret_of(share)));
        for _ in 0..TRIES {
            let marks = ledger.watermarks().await.map_err(|error| ledger_problem(&error))?;
            let ours: Vec<Marks> = shares
                .iter()
                .filter_map(|share| marks.iter().find(|marks| marks.key == share.row().pubshare).copied())
                .collect();
            if ours.len() != shares.len() {
                return Err(fault());
            }
            let certificate = certify(vault, shares, &ours, &secrets, to)?;
            let text = serde_json::to_vec(&certificate).map_err(|_| fault())?;
            let kept = vault.seal_bytes(KEPT_LABEL, &text)?;
            match ledger.release(ours, Sha256::digest(&text).into(), kept).await {
                Ok(counter) => return Ok((certificate, counter)),
                Err(LedgerError::SignedMeanwhile) => {}
                Err(error) => return Err(ledger_problem(&error)),
            }
        }
        Err(ledger_problem(&LedgerError::SignedMeanwhile))
    }

    /// The certificates given before but for so many, for an answer that got lost. As many as one answer takes.
    pub(crate) async fn releases(&self, after: usize) -> Result<Moves, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        let (vault, ledger) = self.open_parts()?;
        let kept = ledger.releases().await.map_err(|error| ledger_problem(&error))?;
        if kept.is_empty() {
            return Ok(Moves::default());
        }
        // A copy of the disk from before the move, started and cut off, may be where the counter is now. One step further
        // and none is: a start writes one number beyond the counter and no more.
        if !self.certificates_may_leave.load(Ordering::Relaxed) {
            let counter = match ledger.advance().await {
                Ok(counter) => counter,
                Err(error) => {
                    // Whether it is on the disk is not known: the next start finds out before anything is signed.
                    let problem = ledger_problem(&error);
                    self.lock_again(problem.clone());
                    return Err(problem);
                }
            };
            if let Err(problem) = rollback::settle(self.witness(), counter).await {
                self.lock_again(problem.clone());
                return Err(problem);
            }
            self.certificates_may_leave.store(true, Ordering::Relaxed);
        }
        Ok(answer_with(kept, after, |kept| vault.open_bytes(KEPT_LABEL, kept)))
    }

    /// Takes over what another box gave away to this one.
    pub(crate) async fn arrive(self: &Arc<Self>, arrival: Arrival) -> Result<ShareImported, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let (vault, _) = self.open_parts()?;
        // Whichever of its keys the owner has told the other box.
        let keys = [self.arrival_key()?, self.import_key()?];
        // The marks in it are exact, so the other box's clock does not matter.
        let Opened { made_at: _, shares, identities } =
            blocking(move || open(&keys, &arrival)).await.ok_or_else(fault)??;
        self.may_come_in(&shares)?;
        // Handed in again it brings those in that a power cut left out: the shares it then knows.
        let taken = self.take_in_what_may_come_back(shares, &[]).await?;
        self.keep_identities(&vault, &identities);
        tracing::warn!(shares = taken.imported.len(), "shares of another box have arrived");
        Ok(taken)
    }
}

/// The kept certificates after so many, up to the one with which an answer is full.
fn answer_with(
    kept: Vec<Vec<u8>>,
    after: usize,
    open: impl Fn(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
) -> Moves {
    let (mut moves, mut bytes) = (Vec::new(), 0_usize);
    let all = kept.len();
    let mut seen = after.min(all);
    for sealed in kept.into_iter().skip(after) {
        if bytes >= MAX_CARRIED_BYTES {
            break;
        }
        seen += 1;
        bytes = bytes.saturating_add(sealed.len());
        // One that was changed on the disk does not keep the others back.
        let opened = open(&sealed).and_then(|text| serde_json::from_slice(&text).ok());
        moves.extend::<Option<MoveCertificate>>(opened);
    }
    Moves { moves, next: (seen < all).then_some(seen) }
}

fn certify(
    vault: &Vault,
    shares: &[Arc<Share>],
    marks: &[Marks],
    secrets: &CarriedSecrets,
    to: &[u8; 32],
) -> Result<MoveCertificate, Problem> {
    let carried = shares.iter().zip(marks).map(|(share, marks)| carry::pack(share, marks).0);
    let body = MoveBody {
        version: VERSION,
        from: hex::encode(vault.release_key().public_key().as_bytes()),
        to: hex::encode(to),
        issued_at_ms: now().0,
        shares: carried.collect(),
    };
    let body = serde_json::to_string(&body).map_err(|_| fault())?;
    let plain = crate::backup::in_one_piece(secrets).ok_or_else(fault)?;
    // The other box's own rules, before anything is destroyed.
    let read_back: MoveBody = serde_json::from_str(&body).map_err(|_| fault())?;
    let secrets_back = serde_json::from_slice(&plain).map_err(|_| fault())?;
    carry::unpack(read_back.issued_at_ms, &read_back.shares, secrets_back, CLOCKS_APART)?;
    let context: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    let (enc, ciphertext) = seal_for(to, MOVE_INFO, &context, &plain)
        .map_err(|error| bad("key_invalid", &error.to_string(), "Copy it from the other box's page."))?;
    let mut certificate = MoveCertificate {
        body,
        enc: hex::encode(enc),
        ciphertext: hex::encode(ciphertext),
        signature: String::new(),
    };
    certificate.signature = hex::encode(vault.release_key().sign(&digest(&certificate)));
    let from = hex::encode(vault.release_key().public_key().as_bytes());
    read(&Arrival { from, certificate: certificate.clone() })?;
    Ok(certificate)
}

/// What is signed: everything but the signature, each part with its length.
pub(crate) fn digest(certificate: &MoveCertificate) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"hearth move certificate v1");
    for part in [&certificate.body, &certificate.enc, &certificate.ciphertext] {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// What a certificate says, once it is seen to be by the box that the owner named.
pub(crate) fn read(arrival: &Arrival) -> Result<MoveBody, Problem> {
    let certificate = &arrival.certificate;
    if certificate.body.len() + certificate.ciphertext.len() > MAX_CARRIED_BYTES {
        return Err(invalid("it is larger than any certificate"));
    }
    let body: MoveBody =
        serde_json::from_str(&certificate.body).map_err(|_| invalid("it says nothing that can be read"))?;
    if body.version != VERSION {
        return Err(invalid("it was made by newer software"));
    }
    let stated = arrival.from.trim().trim_start_matches("0x").to_ascii_lowercase();
    if body.from != stated {
        return Err(bad(
            "certificate_of_another_box",
            "the certificate is not by the box that you named",
            "Copy the old box's release key from its page, and compare it with the one on its screen.",
        ));
    }
    let signed = hex::decode(&body.from)
        .ok()
        .and_then(|key| IdentityPublicKey::from_bytes(&key).ok())
        .zip(hex::decode(&certificate.signature).ok())
        .is_some_and(|(key, signature)| key.verify(&digest(certificate), &signature).is_ok());
    if !signed {
        return Err(bad(
            "certificate_invalid",
            "the certificate's signature is not valid: it was changed",
            "Fetch it from the old box again.",
        ));
    }
    Ok(body)
}

fn open(keys: &[ImportSecret], arrival: &Arrival) -> Result<Opened, Problem> {
    let body = read(arrival)?;
    let key = keys.iter().find(|key| body.to == key.public_hex()).ok_or_else(|| {
        bad(
            "certificate_for_another_box",
            "the certificate is for another box, or for a time before this one deleted shares or was set up anew",
            "Hand it to the box whose key was named when the shares were given away.",
        )
    })?;
    let part = |text: &str| hex::decode(text).map_err(|_| invalid("it was changed"));
    let (enc, ciphertext) = (part(&arrival.certificate.enc)?, part(&arrival.certificate.ciphertext)?);
    let context: [u8; 32] = Sha256::digest(arrival.certificate.body.as_bytes()).into();
    let plain =
        key.open_for(&enc, &ciphertext, MOVE_INFO, &context).map_err(|_| invalid("it does not open here"))?;
    let secrets: CarriedSecrets =
        serde_json::from_slice(&plain).map_err(|_| invalid("its content is not as expected"))?;
    carry::unpack(body.issued_at_ms, &body.shares, secrets, CLOCKS_APART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::moving::MAX_CARRIED_ANSWER;

    #[test]
    fn certificates_that_do_not_fit_in_one_answer_come_in_several() {
        // Five moves of as many shares as there can be in one: about one and a half megabytes each.
        let certificate = |number: usize| MoveCertificate {
            body: "b".repeat(1_000_000),
            enc: number.to_string(),
            ciphertext: "c".repeat(500_000),
            signature: String::new(),
        };
        let kept = || -> Vec<Vec<u8>> {
            (0..5).map(|number| serde_json::to_vec(&certificate(number)).unwrap()).collect()
        };
        let open = |sealed: &[u8]| Some(Zeroizing::new(sealed.to_vec()));
        let mut known = Vec::new();
        let mut next = Some(0);
        while let Some(after) = next {
            let answer = answer_with(kept(), after, open);
            let size = serde_json::to_vec(&answer).unwrap().len();
            assert!(size < MAX_CARRIED_ANSWER, "{size}");
            known.extend(answer.moves.into_iter().map(|certificate| certificate.enc));
            next = answer.next;
            assert_eq!(next, (known.len() < 5).then_some(3), "after {after}");
        }
        assert_eq!(known, ["0", "1", "2", "3", "4"]);
        for after in [5, 6, usize::MAX] {
            assert_eq!(answer_with(kept(), after, open), Moves::default(), "{after}");
        }
        // One that does not open is passed over.
        let only_first = |sealed: &[u8]| open(sealed).filter(|text| text.starts_with(b"{\"body\""));
        let mut spoilt = kept();
        spoilt[0] = b"x".to_vec();
        let answer = answer_with(spoilt, 0, only_first);
        assert_eq!((answer.moves.len(), answer.moves[0].enc.as_str()), (3, "1"));
        assert_eq!(answer.next, Some(4));
    }
}
