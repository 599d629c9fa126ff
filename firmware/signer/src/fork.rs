//! Whether a duty is signed under its chain's fork (decision 0376).
//!
//! The version in a request is part of what is signed, and who asks names it. A vote under another one counts nowhere, and yet it
//! uses the duty up. So for public chains it is compared with what is known of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chain::{Epoch, Fork, ForkVersion, Root};
use cluster::Network;

use crate::refusal::Refusal;

/// A fork's version and its first epoch.
type Known = (ForkVersion, Epoch);

const fn fork(version: u32, epoch: u64) -> Known {
    (ForkVersion(version.to_be_bytes()), Epoch(epoch))
}

/// The forks of public chains in their order (eth-clients' and gnosischain's `config.yaml`), by genesis fork version. Later ones
/// than these may come.
const PUBLIC: [(ForkVersion, &[Known]); 5] = [
    (
        ForkVersion([0, 0, 0, 0]),
        &[
            fork(0x0000_0000, 0),
            fork(0x0100_0000, 74_240),
            fork(0x0200_0000, 144_896),
            fork(0x0300_0000, 194_048),
            fork(0x0400_0000, 269_568),
            fork(0x0500_0000, 364_032),
            fork(0x0600_0000, 411_392),
        ],
    ),
    (
        ForkVersion([0x90, 0, 0, 0x69]),
        &[
            fork(0x9000_0069, 0),
            fork(0x9000_0070, 50),
            fork(0x9000_0071, 100),
            fork(0x9000_0072, 56_832),
            fork(0x9000_0073, 132_608),
            fork(0x9000_0074, 222_464),
            fork(0x9000_0075, 272_640),
        ],
    ),
    (
        ForkVersion([0x10, 0, 0x09, 0x10]),
        &[
            fork(0x1000_0910, 0),
            fork(0x2000_0910, 0),
            fork(0x3000_0910, 0),
            fork(0x4000_0910, 0),
            fork(0x5000_0910, 0),
            fork(0x6000_0910, 2_048),
            fork(0x7000_0910, 50_688),
        ],
    ),
    (
        ForkVersion([0, 0, 0, 0x64]),
        &[
            fork(0x0000_0064, 0),
            fork(0x0100_0064, 512),
            fork(0x0200_0064, 385_536),
            fork(0x0300_0064, 648_704),
            fork(0x0400_0064, 889_856),
            fork(0x0500_0064, 1_337_856),
        ],
    ),
    (
        ForkVersion([0, 0, 0, 0x6f]),
        &[
            fork(0x0000_006f, 0),
            fork(0x0100_006f, 90),
            fork(0x0200_006f, 180),
            fork(0x0300_006f, 244_224),
            fork(0x0400_006f, 516_608),
        ],
    ),
];

/// By genesis validators root, which is all that a share knows of its chain.
static BY_ROOT: LazyLock<BTreeMap<Root, &'static [Known]>> = LazyLock::new(|| {
    let of = |(genesis, forks): (ForkVersion, &'static [Known])| {
        Some((Network::by_fork_version(genesis)?.genesis_validators_root()?, forks))
    };
    PUBLIC.into_iter().filter_map(of).collect()
});

/// Refuses a fork under which this chain has no messages of that epoch. What nothing is known of is let through: chains that are
/// not public, and forks after the last one that is known, which must not stop a box that was not updated in time.
pub(crate) fn check(genesis_validators_root: &Root, fork: &Fork, epoch: Epoch) -> Result<(), Refusal> {
    let Some(known) = BY_ROOT.get(genesis_validators_root) else { return Ok(()) };
    check_among(known, fork, epoch)
}

fn check_among(known: &[Known], fork: &Fork, epoch: Epoch) -> Result<(), Refusal> {
    let asked = fork.version_at(epoch);
    let (Some((expected, _)), Some((_, last))) =
        (known.iter().rev().find(|(_, from)| *from <= epoch), known.last())
    else {
        return Ok(());
    };
    let is_later = epoch >= *last && fork.epoch > *last && known.iter().all(|(version, _)| *version != asked);
    if asked == *expected || is_later {
        return Ok(());
    }
    Err(Refusal::WrongFork { asked: asked.to_string(), epoch: epoch.0, expected: expected.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_of(name: &str) -> Root {
        Network::by_name(name).unwrap().genesis_validators_root().unwrap()
    }

    fn is_allowed(name: &str, previous: u32, current: u32, from: u64, epoch: u64) -> bool {
        let version = |number: u32| ForkVersion(number.to_be_bytes());
        let fork = Fork {
            previous_version: version(previous),
            current_version: version(current),
            epoch: Epoch(from),
        };
        check(&root_of(name), &fork, Epoch(epoch)).is_ok()
    }

    #[test]
    fn a_public_chain_s_messages_are_signed_under_its_own_fork_of_their_epoch() {
        let (electra, fulu, gloas) = (0x0500_0000, 0x0600_0000, 0x0700_0000);
        for (previous, current, from, epoch, allowed) in [
            (electra, fulu, 411_392, 411_392, true),
            (electra, fulu, 411_392, 500_000, true),
            (electra, fulu, 411_392, 411_391, true),
            // A node that has missed the fork, or that is ahead of it.
            (0x0400_0000, electra, 364_032, 411_392, false),
            (electra, fulu, 411_390, 411_391, false),
            (fulu, fulu, 0, 364_031, false),
            // Versions of nobody, of another chain, and of a fork that cannot have been yet.
            (0x1234_5678, 0x1234_5678, 0, 500_000, false),
            (0x6000_0910, 0x7000_0910, 50_688, 500_000, false),
            (fulu, gloas, 411_392, 500_000, false),
            (fulu, gloas, 400_000, 411_391, false),
            // A fork that this version of the firmware does not know yet, before and after it.
            (fulu, gloas, 490_000, 500_000, true),
            (fulu, gloas, 490_000, 480_000, true),
            (electra, gloas, 490_000, 480_000, false),
            (gloas, 0x0800_0000, 510_000, 505_000, true),
        ] {
            let what = format!("{previous:x} {current:x} from {from}, epoch {epoch}");
            assert_eq!(is_allowed("mainnet", previous, current, from, epoch), allowed, "{what}");
        }
        // Forks that were all there from the beginning.
        assert!(is_allowed("hoodi", 0x5000_0910, 0x5000_0910, 0, 5));
        assert!(!is_allowed("hoodi", 0x4000_0910, 0x4000_0910, 0, 5));
    }

    #[test]
    fn of_a_chain_that_is_not_public_any_version_is_signed() {
        let any = Fork {
            previous_version: ForkVersion([9; 4]),
            current_version: ForkVersion([9; 4]),
            epoch: Epoch(0),
        };
        assert_eq!(check(&Root([0x42; 32]), &any, Epoch(7)), Ok(()));
    }

    #[test]
    fn the_tables_are_in_order_and_begin_with_the_genesis_and_capella_of_their_chain() {
        assert_eq!(BY_ROOT.len(), PUBLIC.len(), "each is a public chain");
        for (genesis, known) in PUBLIC {
            assert_eq!(known[0], (genesis, Epoch(0)));
            assert!(known.windows(2).all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 != pair[1].0));
            assert_eq!(Network::capella_fork_version(genesis), Some(known[3].0));
        }
    }

    /// The recorded forks of public chains are as the tables have them.
    #[test]
    fn recorded_messages_of_public_chains_are_under_their_forks() {
        let folder = std::env::var_os("HEARTH_VECTORS").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
            std::path::PathBuf::from,
        );
        let folder = folder.join("signing-roots");
        if !folder.is_dir() {
            println!("SKIPPED: no vectors at {}", folder.display());
            return;
        }
        let mut seen = 0;
        for (network, fork) in ["mainnet", "hoodi"]
            .into_iter()
            .flat_map(|network| ["deneb", "electra", "fulu"].into_iter().map(move |fork| (network, fork)))
        {
            for file in std::fs::read_dir(folder.join(network).join(fork)).into_iter().flatten() {
                let text = std::fs::read(file.unwrap().path()).unwrap();
                let case: serde_json::Value = serde_json::from_slice(&text).unwrap();
                let kind = case["type"].as_str().unwrap();
                // Signed under one fork for good.
                if ["VOLUNTARY_EXIT", "DEPOSIT", "VALIDATOR_REGISTRATION", "BLS_TO_EXECUTION_CHANGE"]
                    .contains(&kind)
                {
                    continue;
                }
                let info: chain::ForkInfo = serde_json::from_value(case["fork_info"].clone()).unwrap();
                let epoch = Epoch(case["epoch"].as_str().unwrap().parse().unwrap());
                assert_eq!(check(&info.genesis_validators_root, &info.fork, epoch), Ok(()), "{case}");
                let mut other = info.fork;
                (other.previous_version, other.current_version) =
                    (ForkVersion([0xee; 4]), ForkVersion([0xee; 4]));
                assert!(check(&info.genesis_validators_root, &other, epoch).is_err(), "{case}");
                seen += 1;
            }
        }
        assert!(seen > 30, "{seen}");
    }
}
