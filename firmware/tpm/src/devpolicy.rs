//! Approvals of a native member's "boot", so that it takes the very path a real box takes.
//!
//! A native member has no measured boot: its software TPM's PCR 11 keeps its start value of zeros. Here a throw-away
//! key pair approves that value, in systemd's file format. The private key is made and used by the `openssl` command
//! and stays in the directory; no code that handles such keys is in the image.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use crate::policy::{Digest, SIGNED_PCR, policy_pcr};

/// What PCR 11 holds after a TPM's start, before anything was measured.
pub const UNMEASURED: Digest = [0; 32];

/// The files that systemd would have put into `/run/systemd`.
#[derive(Clone, Debug)]
pub struct Files {
    /// `tpm2-pcr-public-key.pem`
    pub public_key: PathBuf,
    /// `tpm2-pcr-signature.json`
    pub signature: PathBuf,
}

/// Makes a key pair in `dir` (or takes the one already there) and approves these PCR 11 values.
pub fn make(dir: &Path, approved: &[Digest]) -> io::Result<Files> {
    std::fs::create_dir_all(dir)?;
    let private = dir.join("pcr-private-key.pem");
    let files = Files {
        public_key: dir.join("tpm2-pcr-public-key.pem"),
        signature: dir.join("tpm2-pcr-signature.json"),
    };
    if !private.exists() {
        openssl(&["genrsa", "-out", &text(&private), "2048"])?;
    }
    openssl(&["rsa", "-in", &text(&private), "-pubout", "-out", &text(&files.public_key)])?;
    let entries: io::Result<Vec<_>> = approved.iter().map(|pcr11| approval(dir, &private, pcr11)).collect();
    let json = serde_json::json!({ "sha256": entries? });
    std::fs::write(&files.signature, serde_json::to_vec_pretty(&json)?)?;
    Ok(files)
}

/// What a PCR holds after one more event.
pub fn extended(before: &Digest, event: &[u8]) -> Digest {
    Sha256::new().chain_update(before).chain_update(Sha256::digest(event)).finalize().into()
}

fn approval(dir: &Path, private: &Path, pcr11: &Digest) -> io::Result<serde_json::Value> {
    let policy = policy_pcr(&[0; 32], &[SIGNED_PCR], &[*pcr11]);
    let (message, signature) = (dir.join("approved-policy.bin"), dir.join("approved-policy.sig"));
    std::fs::write(&message, policy)?;
    openssl(&["dgst", "-sha256", "-sign", &text(private), "-out", &text(&signature), &text(&message)])?;
    let signature = base64::engine::general_purpose::STANDARD.encode(std::fs::read(&signature)?);
    Ok(serde_json::json!({ "pcrs": [SIGNED_PCR], "pkfp": "", "pol": hex::encode(policy), "sig": signature }))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn openssl(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("openssl").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("openssl {}: {reason}", arguments.first().copied().unwrap_or_default())))
}
