//! The signer's configuration, read once at start.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipc::server::CallerNames;
use serde::Deserialize;

use crate::{boot, owner::ExitDelays};

/// Everything the signer is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the ledger, the sealed shares and the sealed vault key are.
    pub state_dir: PathBuf,
    /// Log level.
    #[serde(default = "default_log")]
    pub log: String,
    /// Seal nothing and take no share in while Secure Boot is off. Set in the image; native members have no such boot.
    #[serde(default)]
    pub require_secure_boot: bool,
    /// Where the firmware's variables are.
    #[serde(default = "default_efivars")]
    pub efivars: PathBuf,
    /// Where the image says whose keys signed it.
    #[serde(default = "default_os_release")]
    pub os_release: PathBuf,
    /// How much memory it takes to try a passphrase, KiB. Less is for tests alone.
    #[serde(default = "default_argon2_memory")]
    pub argon2_memory_kib: u32,
    /// What secrets are sealed to.
    pub tpm: TpmConfig,
    /// What may take the TPM's place on a board that has none. Left out, nothing.
    #[serde(default)]
    pub passphrase: PassphraseConfig,
    /// Who may call.
    pub callers: Callers,
    /// Who vouches for the clock.
    #[serde(default)]
    pub clock: ClockConfig,
    /// How long an exit can be cancelled.
    #[serde(default)]
    pub exits: ExitDelays,
    /// Sockets of a signer that systemd did not start.
    #[serde(default)]
    pub listen: Listen,
}

/// What secrets are sealed to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmConfig {
    /// `device:/dev/tpmrm0`, or a software TPM's address.
    pub tcti: String,
    /// The image's key.
    pub pcr_public_key: PathBuf,
    /// The image's approvals of PCR 11 values.
    pub pcr_signature: PathBuf,
    /// PCRs that must be as they were when sealing.
    pub literal_pcrs: Vec<u8>,
    /// NV index of the anti-rollback counter.
    #[serde(default = "default_counter_index")]
    pub counter_index: u32,
}

/// When the owner's passphrase takes the TPM's place.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassphraseConfig {
    /// Files that are there, and folders that are not empty, when the board has a TPM, whether it answers or not. Only when there
    /// is nothing of all of them a passphrase will do. An empty list means that none ever does.
    pub signs_of_a_tpm: Vec<PathBuf>,
    /// A folder that is there only when this start was made as that of a board without a TPM: the first system makes it when the signed
    /// command line says so and nothing speaks of a TPM (decision 0345).
    #[serde(default = "default_started_without")]
    pub started_without: PathBuf,
    /// Where the kernel lists the TPMs it knows: a folder that is there and empty on a board that has none. One that is missing
    /// proves nothing.
    #[serde(default = "default_tpm_class")]
    pub tpm_class: PathBuf,
    /// Where the firmware's description of the board is, when it is a device tree.
    #[serde(default = "default_device_tree")]
    pub device_tree: PathBuf,
}

impl Default for PassphraseConfig {
    fn default() -> Self {
        Self {
            signs_of_a_tpm: Vec::new(),
            started_without: default_started_without(),
            tpm_class: default_tpm_class(),
            device_tree: default_device_tree(),
        }
    }
}

/// Who vouches for the clock.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// A file that is rewritten as long as the time service calls the clock synchronised. Without one, nobody vouches for the
    /// clock, and only a clock that is set while the signer runs is noticed.
    pub mark: Option<PathBuf>,
}

/// Users, by name or number; `self` is the user the signer runs as.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// Who may ask for signatures.
    pub sign: CallerNames,
    /// Who may read the status and hand in sealed shares.
    pub control: CallerNames,
    /// Who may carry the bytes of clients outside the box; nobody when it is left out. They cannot read or change them.
    #[serde(default)]
    pub remote: CallerNames,
}

/// Socket paths.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The signing socket.
    pub sign: Option<PathBuf>,
    /// The control socket.
    pub control: Option<PathBuf>,
    /// The socket for clients outside the box; left out, there is none.
    pub remote: Option<PathBuf>,
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_efivars() -> PathBuf {
    "/sys/firmware/efi/efivars".into()
}

fn default_os_release() -> PathBuf {
    "/usr/lib/os-release".into()
}

fn default_started_without() -> PathBuf {
    "/run/hearth-no-tpm".into()
}

fn default_tpm_class() -> PathBuf {
    "/sys/class/tpm".into()
}

fn default_device_tree() -> PathBuf {
    "/sys/firmware/devicetree/base".into()
}

fn default_argon2_memory() -> u32 {
    crate::passphrase::MEMORY_KIB
}

fn default_counter_index() -> u32 {
    0x0150_0021
}

impl Config {
    /// Whether Secure Boot must be on and is not.
    pub(crate) fn lacks_secure_boot(&self) -> bool {
        self.require_secure_boot && !boot::is_secure(&self.efivars)
    }

    /// Reads the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("the configuration {} is not valid", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_is_valid() {
        let shipped =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/mkosi.extra/usr/lib/hearth/signer.toml");
        let config = Config::load(&shipped).unwrap();
        assert!(config.require_secure_boot);
        assert_eq!(config.efivars, default_efivars());
        assert_eq!(config.os_release, default_os_release());
        assert_eq!(config.argon2_memory_kib, default_argon2_memory());
        assert_eq!(config.exits, ExitDelays::default());
        // The unit that writes it, and the unit that shows it to the signer.
        let unit = |name: &str| {
            let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd/system");
            std::fs::read_to_string(units.join(name)).unwrap()
        };
        let mark = config.clock.mark.unwrap();
        let written = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../image/mkosi.extra/usr/lib/hearth/clock-mark.conf");
        let written = std::fs::read_to_string(written).unwrap();
        assert!(written.contains(&format!("f+ {} ", mark.display())), "{written}");
        assert!(unit("clock-mark.service").contains("RuntimeDirectory=hearth-clock\n"));
        assert_eq!(mark.parent(), Some(Path::new("/run/hearth-clock")));
        assert_eq!(config.tpm.literal_pcrs, [7, 12]);
        assert_eq!(config.tpm.counter_index, default_counter_index());
        // No release asks for a passphrase.
        assert!(config.passphrase.signs_of_a_tpm.is_empty());
    }

    /// What the build appends for a dev image (decision 0345).
    #[test]
    fn the_part_for_boards_without_a_tpm_names_what_speaks_of_one() {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image");
        let part = "mkosi.profiles/dev/mkosi.extra/usr/lib/hearth/signer-no-tpm.toml";
        let text = ["mkosi.extra/usr/lib/hearth/signer.toml", part]
            .map(|name| std::fs::read_to_string(image.join(name)).unwrap())
            .concat();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("signer.toml");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        // The kernel, the firmware, the boot loader.
        let signs = &config.passphrase.signs_of_a_tpm;
        for sign in ["/dev/tpmrm0", "/sys/firmware/acpi/tables/TPM2", "/sys/firmware/acpi/tables/TCPA"] {
            assert!(signs.contains(&PathBuf::from(sign)), "{sign}");
        }
        let by_stub = format!("{}/StubPcrKernelImage-", config.efivars.display());
        assert!(signs.iter().any(|sign| sign.display().to_string().starts_with(&by_stub)));
        assert_eq!(config.passphrase.started_without, default_started_without());
        assert_eq!(config.passphrase.tpm_class, default_tpm_class());
        assert_eq!(config.passphrase.device_tree, default_device_tree());
    }
}
