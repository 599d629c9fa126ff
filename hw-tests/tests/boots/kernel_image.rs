//! A signed kernel image (UKI) taken apart: what is measured of it, and what its maker's keys make of another one.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::tamper::run;

/// What systemd-stub measures into PCR 11 where it is there, in this order (systemd 257, UnifiedSection).
const MEASURED: [&str; 11] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
    ".profile",
];
/// What systemd-pcrphase measures after it, one after the other; each value is approved.
const PHASES: [&str; 4] = ["enter-initrd", "leave-initrd", "sysinit", "ready"];
/// TPM2_PolicyPCR on a new session, SHA-256, PCR 11 alone: what comes before the digest of its value.
const POLICY_PCR_11: [u8; 14] = [0, 0, 1, 0x7f, 0, 0, 0, 1, 0, 0x0b, 3, 0, 8, 0];

/// A kernel image as bytes.
#[derive(Clone)]
pub(crate) struct KernelImage(Vec<u8>);

impl KernelImage {
    /// What is read must be what this module takes it for: its own approvals are those that the sums below arrive at.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let image = Self(bytes);
        assert_eq!(image.approved(), image.policies(), "the image approves of what it measures");
        image
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where a section's content lies.
    fn section(&self, name: &str) -> Option<std::ops::Range<usize>> {
        let word = |at: usize, bytes: usize| {
            self.0[at..at + bytes].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
        };
        let header = word(0x3c, 4);
        let (sections, optional) = (word(header + 6, 2), word(header + 20, 2));
        (0..sections).map(|number| header + 24 + optional + 40 * number).find_map(|entry| {
            let label = &self.0[entry..entry + 8];
            let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
            let (length, start) = (word(entry + 8, 4).min(word(entry + 16, 4)), word(entry + 20, 4));
            (label == name.as_bytes()).then(|| start..start + length)
        })
    }

    /// The policy of each phase of its boot, in hex.
    fn policies(&self) -> Vec<String> {
        let extend = |value: [u8; 32], data: &[u8]| -> [u8; 32] {
            Sha256::new().chain_update(value).chain_update(Sha256::digest(data)).finalize().into()
        };
        let mut value = [0; 32];
        for name in MEASURED {
            let Some(section) = self.section(name) else { continue };
            value = extend(value, format!("{name}\0").as_bytes());
            value = extend(value, &self.0[section]);
        }
        let policy = |phase: &str| {
            value = extend(value, phase.as_bytes());
            let policy = Sha256::new().chain_update([0; 32]).chain_update(POLICY_PCR_11);
            hex::encode(policy.chain_update(Sha256::digest(value)).finalize())
        };
        PHASES.map(policy).to_vec()
    }

    fn approvals(&self) -> Value {
        serde_json::from_slice(&self.0[self.section(".pcrsig").unwrap()]).unwrap()
    }

    fn approved(&self) -> Vec<String> {
        let approvals = self.approvals();
        let entries = approvals["sha256"].as_array().unwrap();
        entries.iter().map(|entry| entry["pol"].as_str().unwrap().to_owned()).collect()
    }

    /// Another version of the system, so far as a TPM can tell: one letter in the description that is measured.
    pub(crate) fn of_another_version(&self) -> Self {
        let mut other = self.clone();
        let section = self.section(".osrel").unwrap();
        let text = b"IMAGE_VERSION=\"";
        let at = self.0[section.clone()].windows(text.len()).position(|bytes| bytes == text).unwrap();
        let digit = &mut other.0[section.start + at + text.len()];
        assert!(digit.is_ascii_digit(), "{digit}");
        *digit = b'9';
        other
    }

    /// The same, with approvals of its own by the measuring key, as an update has.
    pub(crate) fn approved_by(&self, key: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut approvals = serde_json::to_string(&self.approvals()).unwrap();
        let before = self.approvals();
        for (entry, policy) in before["sha256"].as_array().unwrap().iter().zip(self.policies()) {
            let signature = signature(&dir, key, &hex::decode(&policy).unwrap());
            approvals = approvals.replacen(entry["pol"].as_str().unwrap(), &policy, 1);
            approvals = approvals.replacen(entry["sig"].as_str().unwrap(), &signature, 1);
        }
        let mut other = self.clone();
        let section = self.section(".pcrsig").unwrap();
        // JSON does not mind spaces after its end, which fill what is left.
        let filled = format!("{approvals:width$}", width = section.len());
        other.0[section].copy_from_slice(filled.as_bytes());
        Self::new(other.0)
    }
}

/// RSA by PKCS #1 v1.5 over SHA-256, in base64.
fn signature(dir: &TempDir, key: &Path, policy: &[u8]) -> String {
    let [from, to] = ["policy", "signature"].map(|name| dir.path().join(name));
    std::fs::write(&from, policy).unwrap();
    run(Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(key).arg("-out").arg(&to).arg(&from));
    run(Command::new("openssl").args(["base64", "-A", "-in"]).arg(to)).trim().to_owned()
}

/// The keys that every dev image is signed with.
pub(crate) fn test_key(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/test-keys").join(name)
}
