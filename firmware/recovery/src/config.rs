//! The typed form of `recovery.toml`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipc::server::CallerNames;
use serde::Deserialize;

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the key is kept (mode 0700).
    pub(crate) state_dir: PathBuf,
    pub(crate) signer: Signer,
    pub(crate) callers: Callers,
    #[serde(default)]
    pub(crate) listen: Listen,
}

/// Where the signer's state is. After it has any, no key is made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signer {
    /// Its folder on /var.
    pub(crate) state_dir: PathBuf,
    /// The TPM, as its library names it.
    pub(crate) tcti: String,
    /// NV index of its counter there.
    pub(crate) counter_index: u32,
}

/// Who may talk on the socket.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Callers {
    pub(crate) control: CallerNames,
}

/// The socket, when systemd passes none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    pub(crate) control: Option<PathBuf>,
}

impl Config {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("the configuration {} is not as expected", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What decides whether a key is made must look where the signer really is.
    #[test]
    fn the_shipped_configuration_looks_where_the_signer_s_says_that_it_is() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/mkosi.extra/usr/lib/hearth");
        let ours = Config::load(&shipped.join("recovery.toml")).unwrap().signer;
        let text = std::fs::read_to_string(shipped.join("signer.toml")).unwrap();
        let theirs: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(theirs["state_dir"].as_str(), ours.state_dir.to_str());
        assert_eq!(theirs["tpm"]["tcti"].as_str(), Some(ours.tcti.as_str()));
        assert_eq!(theirs["tpm"]["counter_index"].as_integer(), Some(i64::from(ours.counter_index)));
    }
}
