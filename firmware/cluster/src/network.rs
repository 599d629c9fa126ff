//! The public networks Obol knows, by genesis fork version.

use chain::{ForkVersion, Root, SlotTiming};

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

/// Genesis validators roots of the public networks, by genesis fork version.
const GENESIS_ROOTS: [([u8; 4], &str); 6] = [
    ([0x00, 0x00, 0x00, 0x00], "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"),
    ([0x00, 0x00, 0x10, 0x20], "0x043db0d9a83813551ee2f33450d23797757d430911a9320530ad8a0eabc43efb"),
    ([0x00, 0x00, 0x00, 0x64], "0xf5dcb5564e829aab27264b9becd5dfaa017085611224cb3036f573368dbb9d47"),
    ([0x00, 0x00, 0x00, 0x6f], "0x9d642dac73058fbf39c0ae41ab1e34e4d889043cb199851ded7095bc99eb4c1e"),
    ([0x90, 0x00, 0x00, 0x69], "0xd8ea171f3c94aea21ebc42a1ed61052acf3f9209c00e4efbaaddac09ed9b8078"),
    ([0x10, 0x00, 0x09, 0x10], "0x212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f"),
];

/// The public networks whose slots are not twelve seconds and 32 an epoch: milliseconds of a slot, slots of an epoch.
const OTHER_SLOTS: [([u8; 4], u64, u64); 2] =
    [([0x00, 0x00, 0x00, 0x64], 5_000, 16), ([0x00, 0x00, 0x00, 0x6f], 5_000, 16)];

/// Capella's fork versions, by genesis fork version (obol spec 3.8): exits are signed with them for good (EIP-7044).
const CAPELLA_VERSIONS: [([u8; 4], [u8; 4]); 6] = [
    ([0x00, 0x00, 0x00, 0x00], [0x03, 0x00, 0x00, 0x00]),
    ([0x00, 0x00, 0x10, 0x20], [0x03, 0x00, 0x10, 0x20]),
    ([0x00, 0x00, 0x00, 0x64], [0x03, 0x00, 0x00, 0x64]),
    ([0x00, 0x00, 0x00, 0x6f], [0x03, 0x00, 0x00, 0x6f]),
    ([0x90, 0x00, 0x00, 0x69], [0x90, 0x00, 0x00, 0x72]),
    ([0x10, 0x00, 0x09, 0x10], [0x40, 0x00, 0x09, 0x10]),
];

impl Network {
    /// Capella's fork version, when this is a public network.
    pub fn capella_fork_version(genesis: ForkVersion) -> Option<ForkVersion> {
        let found = CAPELLA_VERSIONS.iter().find(|(version, _)| *version == genesis.0);
        found.map(|(_, capella)| ForkVersion(*capella))
    }

    /// The genesis validators root, when this is a public network: by it, its beacon nodes are told from others.
    pub fn genesis_validators_root(&self) -> Option<Root> {
        let public = Self::by_fork_version(self.genesis_fork_version)?;
        let found = GENESIS_ROOTS.iter().find(|(version, _)| *version == public.genesis_fork_version.0);
        found.and_then(|(_, root)| root.parse().ok())
    }

    /// When slots start and duties are due, when this is a public network.
    pub fn timing(&self) -> Option<SlotTiming> {
        let public = Self::by_fork_version(self.genesis_fork_version)?;
        let other = OTHER_SLOTS.iter().find(|(version, _, _)| *version == public.genesis_fork_version.0);
        let (slot_ms, slots_per_epoch) = other.map_or((12_000, 32), |(_, slot, epoch)| (*slot, *epoch));
        SlotTiming::new(public.genesis_time.saturating_mul(1_000), slot_ms, slots_per_epoch).ok()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_network_is_known_by_its_genesis_and_no_other_is() {
        for network in Network::known() {
            assert!(network.genesis_validators_root().is_some(), "{}", network.name);
            assert!(Network::capella_fork_version(network.genesis_fork_version).is_some());
            let slots = network.timing().map(|timing| (timing.slot_ms, timing.slots_per_epoch));
            let is_gnosis = ["gnosis", "chiado"].contains(&network.name.as_str());
            assert_eq!(slots, Some(if is_gnosis { (5_000, 16) } else { (12_000, 32) }), "{}", network.name);
        }
        let devnet = Network {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: ForkVersion([0x20, 0, 0, 0x89]),
            genesis_time: 0,
        };
        assert_eq!((devnet.genesis_validators_root(), devnet.timing()), (None, None));
    }
}
