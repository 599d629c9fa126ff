//! The public networks Obol knows, by genesis fork version.

use chain::ForkVersion;

/// What a cluster file needs to know of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name as written in deposit files.
    pub name: String,
    /// Execution-layer chain id (EIP-712 domains).
    pub chain_id: u64,
    /// Genesis fork version: how cluster files name the chain.
    pub genesis_fork_version: ForkVersion,
    /// Genesis, unix seconds: the timestamp of builder registrations.
    pub genesis_time: u64,
}

/// Name, chain id, genesis fork version, genesis time (obol spec 3.8).
const KNOWN: [(&str, u64, [u8; 4], u64); 6] = [
    ("mainnet", 1, [0x00, 0x00, 0x00, 0x00], 1_606_824_023),
    ("goerli", 5, [0x00, 0x00, 0x10, 0x20], 1_616_508_000),
    ("gnosis", 100, [0x00, 0x00, 0x00, 0x64], 1_638_993_340),
    ("chiado", 10_200, [0x00, 0x00, 0x00, 0x6f], 1_665_396_300),
    ("sepolia", 11_155_111, [0x90, 0x00, 0x00, 0x69], 1_655_733_600),
    ("hoodi", 560_048, [0x10, 0x00, 0x09, 0x10], 1_742_213_400),
];

impl Network {
    /// All public networks.
    pub fn known() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|(name, chain_id, fork_version, genesis_time)| Self {
            name: (*name).to_owned(),
            chain_id: *chain_id,
            genesis_fork_version: ForkVersion(*fork_version),
            genesis_time: *genesis_time,
        })
    }

    /// The network of that name; `prater` is another word for goerli.
    pub fn by_name(name: &str) -> Option<Self> {
        let name = if name == "prater" { "goerli" } else { name };
        Self::known().find(|network| network.name == name)
    }

    /// The network with that genesis fork version.
    pub fn by_fork_version(version: ForkVersion) -> Option<Self> {
        Self::known().find(|network| network.genesis_fork_version == version)
    }
}
