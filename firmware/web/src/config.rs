//! What the shipped `web.toml` may say. Every default is visible in that file; unknown keys are refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The typed form of `web.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the TLS key and the claim code are kept (mode 0700, ours alone).
    pub(crate) state_dir: PathBuf,
    /// The name that the page shows and that the certificate carries, as `<name>.local`.
    pub(crate) name: String,
    /// Where to listen when systemd hands over no socket named `https`.
    #[serde(default)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where to leave what belongs on the box's screen. Without it, it goes to standard output.
    #[serde(default)]
    pub(crate) notice: Option<PathBuf>,
    /// The dv-node's control socket.
    pub(crate) node_socket: PathBuf,
    /// The signer's control socket.
    pub(crate) signer_socket: PathBuf,
    /// The control socket of what keeps the recovery key, where there is one.
    #[serde(default)]
    pub(crate) recovery_socket: Option<PathBuf>,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is not as expected; correct the named line")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

impl Config {
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }
}
