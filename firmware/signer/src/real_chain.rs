//! No share of a real chain on an image that everybody can sign.
//!
//! The repository's test keys are public. Whoever has them can sign a system that the TPM takes for this one, and open the
//! shares that this one sealed. An image that was signed with them says so in its os-release, which is part of what was
//! signed. Such a box is for trying things out: shares of a chain that others live on are neither taken in nor served
//! (decision 0282). The same holds for programs that run outside any image.

use std::path::Path;

use chain::{ForkVersion, Root};
use cluster::Network;
use ipc::{
    Problem,
    moving::TEST_KEYS_MARK,
    signer::{ChainClock, ChainPreset},
};

use crate::import::bad;

/// A public network that Obol's files do not name: fork version and genesis validators root.
const HOLESKY: ([u8; 4], &str) =
    ([0x01, 0x01, 0x70, 0x00], "0x9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1");
/// Its genesis, unix seconds.
const HOLESKY_GENESIS: u64 = 1_695_902_400;
/// The file is a page of text.
const MAX_BYTES: u64 = 64 << 10;

/// Whose keys signed what runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageKeys {
    /// A maker's own.
    Release,
    /// Everybody's, or nobody's.
    Others,
}

impl ImageKeys {
    /// As the image says. Anything unreadable or odd is no.
    pub(crate) fn of_image(os_release: &Path) -> Self {
        let text = crate::files::read_small(os_release, MAX_BYTES).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut said = text.lines().filter_map(|line| line.trim().strip_prefix("HEARTH_KEYS="));
        match (said.next().map(|value| value.trim_matches('"')), said.next()) {
            (Some("release"), None) => Self::Release,
            (Some(_) | None, _) => Self::Others,
        }
    }

    /// What is put behind this box's key for moves, so that the other box asks before its shares are gone.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Release => "",
            Self::Others => TEST_KEYS_MARK,
        }
    }

    /// The key that a box was named by, and whose keys signed its image.
    pub(crate) fn of_named(to: &str) -> (&str, Self) {
        to.strip_suffix(TEST_KEYS_MARK).map_or((to, Self::Release), |key| (key, Self::Others))
    }

    /// The public chain that may not be served here.
    pub(crate) fn forbidden(self, genesis_validators_root: &Root) -> Option<String> {
        match self {
            Self::Release => None,
            Self::Others => name_of(genesis_validators_root),
        }
    }

    /// The same by the fork version that names a chain in deposits and registrations.
    pub(crate) fn forbidden_fork(self, genesis: ForkVersion) -> Option<String> {
        match self {
            Self::Release => None,
            Self::Others if genesis.0 == HOLESKY.0 => Some("holesky".to_owned()),
            Self::Others => Network::by_fork_version(genesis).map(|network| network.name),
        }
    }

    /// Refuses what is about a public chain.
    pub(crate) fn allow(self, genesis_validators_root: &Root) -> Result<(), Problem> {
        self.forbidden(genesis_validators_root).map_or(Ok(()), |chain| Err(refused(&chain)))
    }

    /// The same by fork version.
    pub(crate) fn allow_fork(self, genesis: ForkVersion) -> Result<(), Problem> {
        self.forbidden_fork(genesis).map_or(Ok(()), |chain| Err(refused(&chain)))
    }
}

/// The public chain with this genesis validators root.
pub(crate) fn name_of(root: &Root) -> Option<String> {
    if HOLESKY.1.parse() == Ok(*root) {
        return Some("holesky".to_owned());
    }
    Network::known()
        .find(|network| network.genesis_validators_root() == Some(*root))
        .map(|network| network.name)
}

/// The names of the public networks, for whoever has to choose one.
pub(crate) fn names() -> String {
    Network::known().map(|network| network.name).collect::<Vec<_>>().join(", ")
}

/// Refuses what is for a public chain that exists no more: there is nothing to choose and nothing to state.
pub(crate) fn check_lives(
    fork: Option<ForkVersion>,
    genesis_validators_root: Option<&Root>,
    name: Option<&str>,
) -> Result<(), Problem> {
    let is_holesky = fork.is_some_and(|fork| fork.0 == HOLESKY.0)
        || genesis_validators_root.is_some_and(|root| HOLESKY.1.parse() == Ok(*root))
        || name.is_some_and(|name| name.trim().eq_ignore_ascii_case("holesky"));
    if !is_holesky {
        return Ok(());
    }
    Err(bad(
        "chain_gone",
        "these keys are for holesky, a test network that was shut down: there is nothing left for them to sign",
        "Leave them out. To try things out, make new keys for hoodi.",
    ))
}

/// A public chain's slots.
pub(crate) fn clock_of(network: &Network) -> Option<ChainClock> {
    let timing = network.timing()?;
    Some(ChainClock {
        genesis_time: network.genesis_time,
        slot_ms: timing.slot_ms,
        slots_per_epoch: timing.slots_per_epoch,
        preset: ChainPreset::Mainnet,
    })
}

/// Refuses the root of a public chain beside another clock than that chain has. Messages are bound to the root alone: by
/// another clock the floors would mean nothing, and a share would sign for epochs in which it has signed elsewhere.
pub(crate) fn check_clock(genesis_validators_root: &Root, stated: &ChainClock) -> Result<(), Problem> {
    let holesky = ChainClock {
        genesis_time: HOLESKY_GENESIS,
        slot_ms: 12_000,
        slots_per_epoch: 32,
        preset: ChainPreset::Mainnet,
    };
    let known = if HOLESKY.1.parse() == Ok(*genesis_validators_root) {
        Some(("holesky".to_owned(), Some(holesky)))
    } else {
        let network =
            Network::known().find(|known| known.genesis_validators_root() == Some(*genesis_validators_root));
        network.map(|network| (network.name.clone(), clock_of(&network)))
    };
    match known {
        Some((name, clock)) if clock != Some(*stated) => Err(bad(
            "chain_clock_wrong",
            &format!("the genesis validators root is that of {name}, and the clock beside it is not"),
            "Import the share with root, genesis time and slots as one beacon node of the chain has them.",
        )),
        Some(_) | None => Ok(()),
    }
}

/// The same where the genesis fork version is known too: a public one, its root and its clock go together or not at all.
pub(crate) fn check_chain(
    fork: ForkVersion,
    genesis_validators_root: &Root,
    stated: &ChainClock,
) -> Result<(), Problem> {
    check_clock(genesis_validators_root, stated)?;
    let by_fork = if fork.0 == HOLESKY.0 {
        Some("holesky".to_owned())
    } else {
        Network::by_fork_version(fork).map(|network| network.name)
    };
    let by_root = name_of(genesis_validators_root);
    if by_fork == by_root {
        return Ok(());
    }
    let chain = |name: Option<String>| name.unwrap_or_else(|| "a chain that is not public".to_owned());
    Err(bad(
        "chain_root_wrong",
        &format!(
            "the genesis fork version is that of {}, and the genesis validators root that of {}",
            chain(by_fork),
            chain(by_root)
        ),
        "Take the root from a beacon node of the chain that the cluster is for.",
    ))
}

/// What the owner is told.
pub(crate) fn refused(chain: &str) -> Problem {
    Problem::new(
        "test_keys_real_chain",
        format!(
            "This system is signed with keys that everybody has, so anybody who holds the box could open its shares. It takes in and serves no share of {chain}."
        ),
        "Install an image that is signed with its maker's own keys, and import the shares there.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_that_says_release_serves_public_chains() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os-release");
        for (text, keys) in [
            ("ID=debian\nHEARTH_KEYS=release\n", ImageKeys::Release),
            ("HEARTH_KEYS=\"release\"\n", ImageKeys::Release),
            ("HEARTH_KEYS=test\n", ImageKeys::Others),
            ("HEARTH_KEYS=unknown\n", ImageKeys::Others),
            ("HEARTH_KEYS=\n", ImageKeys::Others),
            ("HEARTH_KEYS=release2\n", ImageKeys::Others),
            ("XHEARTH_KEYS=release\n", ImageKeys::Others),
            ("HEARTH_KEYS=release\nHEARTH_KEYS=test\n", ImageKeys::Others),
            ("", ImageKeys::Others),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(ImageKeys::of_image(&path), keys, "{text}");
        }
        assert_eq!(ImageKeys::of_image(Path::new("/no/such/file")), ImageKeys::Others);
        let known: Vec<Network> = Network::known().collect();
        assert!(known.len() >= 6);
        for network in known {
            let root = network.genesis_validators_root().unwrap();
            assert_eq!(ImageKeys::Others.forbidden(&root), Some(network.name.clone()));
            assert_eq!(ImageKeys::Others.forbidden_fork(network.genesis_fork_version), Some(network.name));
            assert_eq!(ImageKeys::Release.forbidden(&root), None);
            assert_eq!(ImageKeys::Release.forbidden_fork(network.genesis_fork_version), None);
        }
        let holesky: Root = HOLESKY.1.parse().unwrap();
        assert_eq!(ImageKeys::Others.forbidden(&holesky).as_deref(), Some("holesky"));
        assert_eq!(ImageKeys::Others.forbidden_fork(ForkVersion(HOLESKY.0)).as_deref(), Some("holesky"));
        assert_eq!(ImageKeys::Others.forbidden(&Root([0x42; 32])), None);
        assert_eq!(ImageKeys::Others.forbidden_fork(ForkVersion([0x20, 0, 0, 0x89])), None);
    }

    /// Written down here once more: what is compared with itself is never wrong.
    #[test]
    fn the_clocks_of_the_public_chains_are_theirs() {
        let table = [
            ("mainnet", 1_606_824_023, 12_000, 32),
            ("sepolia", 1_655_733_600, 12_000, 32),
            ("holesky", 1_695_902_400, 12_000, 32),
            ("hoodi", 1_742_213_400, 12_000, 32),
            ("goerli", 1_616_508_000, 12_000, 32),
            ("gnosis", 1_638_993_340, 5_000, 16),
            ("chiado", 1_665_396_300, 5_000, 16),
        ];
        for (name, genesis_time, slot_ms, slots_per_epoch) in table {
            let root = Network::by_name(name).and_then(|network| network.genesis_validators_root());
            let root = root.unwrap_or_else(|| HOLESKY.1.parse().unwrap());
            assert_eq!(name_of(&root).as_deref(), Some(name));
            let clock = ChainClock { genesis_time, slot_ms, slots_per_epoch, preset: ChainPreset::Mainnet };
            assert_eq!(check_clock(&root, &clock), Ok(()), "{name}");
        }
        for network in Network::known() {
            assert!(
                table.iter().any(|(name, ..)| *name == network.name),
                "{} is not in the table",
                network.name
            );
        }
    }

    #[test]
    fn a_public_chain_has_the_root_the_fork_version_and_the_clock_that_it_has() {
        let private = (ForkVersion([0x20, 0, 0, 0x89]), Root([0x42; 32]));
        let mut known: Vec<(ForkVersion, Root, ChainClock)> = Network::known()
            .map(|network| {
                let root = network.genesis_validators_root().unwrap();
                (network.genesis_fork_version, root, clock_of(&network).unwrap())
            })
            .collect();
        let mainnet = known[0].2;
        assert_eq!(
            (mainnet.genesis_time, mainnet.slot_ms, mainnet.slots_per_epoch),
            (1_606_824_023, 12_000, 32)
        );
        let holesky = ChainClock { genesis_time: HOLESKY_GENESIS, ..mainnet };
        known.push((ForkVersion(HOLESKY.0), HOLESKY.1.parse().unwrap(), holesky));
        for (fork, root, clock) in known {
            assert_eq!((check_clock(&root, &clock), check_chain(fork, &root, &clock)), (Ok(()), Ok(())));
            for other in [
                ChainClock { genesis_time: clock.genesis_time + 1, ..clock },
                ChainClock { slot_ms: clock.slot_ms - 1, ..clock },
                ChainClock { slots_per_epoch: 8, ..clock },
                ChainClock { preset: ChainPreset::Minimal, ..clock },
            ] {
                for refused in [check_clock(&root, &other), check_chain(fork, &root, &other)] {
                    assert_eq!(refused.unwrap_err().code, "chain_clock_wrong");
                }
                assert_eq!(check_chain(private.0, &private.1, &other), Ok(()));
            }
            for (fork, root) in [(private.0, root), (fork, private.1)] {
                assert_eq!(check_chain(fork, &root, &clock).unwrap_err().code, "chain_root_wrong");
            }
        }
    }
}
