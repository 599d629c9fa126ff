//! `dv-node.toml`: what the operating system decides. What the owner decides (the cluster) comes over the control socket.

use std::path::{Path, PathBuf};

use ipc::server::CallerNames;
use obol::Multiaddr;
use obol::host::AddressPart;
use serde::Deserialize;
use thiserror::Error;

/// The whole file. Unknown keys are refused, so that a misspelt one cannot silently do nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the cluster, the identity key and the journal are kept.
    pub state_dir: PathBuf,
    /// The signer's signing socket.
    pub signer_socket: PathBuf,
    /// Log filter, such as `info` or `info,libp2p=warn`.
    #[serde(default = "default_log")]
    pub log: String,
    /// Connections to the other members.
    pub p2p: P2p,
    /// Who may use which socket.
    pub callers: Callers,
    /// Where to listen when systemd passes no socket.
    #[serde(default)]
    pub listen: Listen,
    /// Patience with beacon nodes.
    #[serde(default)]
    pub beacon: Patience,
    /// When the clock is trusted.
    #[serde(default)]
    pub clock: ClockLimits,
    /// Chains that are not public, by the fork version in their cluster locks.
    #[serde(default)]
    pub networks: Vec<CustomNetwork>,
    /// The service by which Charon nodes exchange exits. It is called only for clusters whose owner has said so.
    #[serde(default = "default_obol_api")]
    pub obol_api: String,
}

/// Connections to the other members.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct P2p {
    /// Addresses to listen on, such as `/ip4/0.0.0.0/tcp/3610`; empty: only outgoing connections.
    pub listen: Vec<Multiaddr>,
    /// What the others see this box called; at most 32 characters.
    #[serde(default)]
    pub nickname: String,
    /// The address at which the others reach this box, when it cannot see that itself (a router stands before it).
    #[serde(default)]
    pub external_ip: Option<std::net::IpAddr>,
    /// The name at which the others reach this box.
    #[serde(default)]
    pub external_hostname: Option<String>,
}

impl P2p {
    /// The same for the cluster at a place of this box: each has a port of its own, next to that of the one before.
    pub fn at_place(&self, place: u8) -> Self {
        let mut moved = self.clone();
        for address in &mut moved.listen {
            let moved = address.iter().map(|part| {
                // Port 0 is any free one, for each.
                if let AddressPart::Tcp(port @ 1..) = part {
                    return AddressPart::Tcp(port.saturating_add(place.into()));
                }
                part
            });
            *address = moved.collect();
        }
        moved
    }

    /// What is announced besides the addresses listened on: the external ones, with the port listened on.
    pub fn external(&self) -> Vec<Multiaddr> {
        let port = self
            .listen
            .iter()
            .flatten()
            .find_map(|part| if let AddressPart::Tcp(port) = part { Some(port) } else { None });
        let Some(port) = port.filter(|port| *port > 0) else { return Vec::new() };
        let ip = self.external_ip.map(Multiaddr::from);
        let name = self.external_hostname.iter().filter(|name| !name.is_empty());
        let name = name.map(|name| Multiaddr::empty().with(AddressPart::Dns(name.into())));
        ip.into_iter().chain(name).map(|host| host.with(AddressPart::Tcp(port))).collect()
    }
}

/// Who may use which socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// Users that may read the status and set the cluster.
    pub control: CallerNames,
}

/// Paths of sockets that systemd did not pass.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The control socket.
    #[serde(default)]
    pub control: Option<PathBuf>,
}

/// Patience with beacon nodes, in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// A question that takes longer has failed.
    pub read_timeout_ms: u64,
    /// A submission that takes longer has failed.
    pub submit_timeout_ms: u64,
    /// A question that takes longer is asked of the next beacon node too.
    pub hedge_after_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        let timeouts = beacon::Timeouts::default();
        Self {
            read_timeout_ms: timeouts.read_ms,
            submit_timeout_ms: timeouts.submit_ms,
            hedge_after_ms: timeouts.hedge_ms,
        }
    }
}

impl From<Patience> for beacon::Timeouts {
    fn from(patience: Patience) -> Self {
        Self {
            read_ms: patience.read_timeout_ms,
            submit_ms: patience.submit_timeout_ms,
            hedge_ms: patience.hedge_after_ms,
            ..Self::default()
        }
    }
}

/// When the clock is trusted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockLimits {
    /// Further from the beacon node's or most members' clocks than this, nothing is signed. Milliseconds.
    pub max_offset_ms: u32,
}

impl Default for ClockLimits {
    fn default() -> Self {
        Self { max_offset_ms: 1_000 }
    }
}

/// A chain that is not public.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomNetwork {
    /// Name, as the beacon node's `CONFIG_NAME` has it.
    pub name: String,
    /// Execution-layer chain id, part of what operators sign.
    pub chain_id: u64,
    /// `GENESIS_FORK_VERSION`, `0x` hex: how cluster locks name the chain.
    pub genesis_fork_version: chain::ForkVersion,
    /// Genesis, unix seconds; 0 when it is not fixed.
    #[serde(default)]
    pub genesis_time: u64,
}

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
}

impl Config {
    /// Reads the file once, at the start.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// The custom networks in the form that the cluster documents want.
    pub fn custom_networks(&self) -> Vec<cluster::Network> {
        let network = |custom: &CustomNetwork| cluster::Network {
            name: custom.name.clone(),
            chain_id: custom.chain_id,
            genesis_fork_version: custom.genesis_fork_version,
            genesis_time: custom.genesis_time,
        };
        self.networks.iter().map(network).collect()
    }
}

fn default_obol_api() -> String {
    cluster::exit::OBOL_API.to_owned()
}

fn default_log() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_is_valid_and_shows_every_default() {
        let config: Config = toml::from_str(include_str!("../dv-node.example.toml")).unwrap();
        let defaults = Patience::default();
        assert_eq!(config.beacon.read_timeout_ms, defaults.read_timeout_ms);
        assert_eq!(config.beacon.submit_timeout_ms, defaults.submit_timeout_ms);
        assert_eq!(config.beacon.hedge_after_ms, defaults.hedge_after_ms);
        assert_eq!(config.obol_api, default_obol_api());
        assert_eq!(config.clock.max_offset_ms, ClockLimits::default().max_offset_ms);
        assert_eq!(config.custom_networks()[0].chain_id, 1337);
    }

    #[test]
    fn external_addresses_have_the_port_listened_on() {
        let text = include_str!("../dv-node.example.toml")
            .replace("nickname = \"\"", "external_ip = \"192.0.2.1\"\nexternal_hostname = \"box.example\"");
        let config: Config = toml::from_str(&text).unwrap();
        let external: Vec<String> = config.p2p.external().iter().map(Multiaddr::to_string).collect();
        assert_eq!(external, ["/ip4/192.0.2.1/tcp/3610", "/dns/box.example/tcp/3610"]);
    }

    #[test]
    fn each_place_listens_on_its_own_port() {
        let text = include_str!("../dv-node.example.toml");
        let mut config: Config = toml::from_str(text).unwrap();
        config.p2p.listen.push("/ip6/::/tcp/0".parse().unwrap());
        let at = |place| -> Vec<String> {
            config.p2p.at_place(place).listen.iter().map(Multiaddr::to_string).collect()
        };
        assert_eq!(at(0), ["/ip4/0.0.0.0/tcp/3610", "/ip6/::/tcp/0"]);
        assert_eq!(at(3), ["/ip4/0.0.0.0/tcp/3613", "/ip6/::/tcp/0"]);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = include_str!("../dv-node.example.toml").replace("nickname", "nick_name");
        assert!(toml::from_str::<Config>(&text).is_err());
    }
}
