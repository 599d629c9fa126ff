//! The deposits of the cluster: who pays what, and the files to pay with. Everything comes from the lock; nothing is signed.

use std::collections::BTreeMap;

use chain::{DepositData, Gwei};
use cluster::parts::{Part, parts, usual_parts};
use cluster::{Lock, Network, deposit, read_address};
use ipc::node::{DepositAddresses, DepositPart, DepositPlan, DepositShare, DepositsAsked, NamedFile};
use ipc::{ClusterSetup, Problem};

use crate::setup::sentence;

/// What cannot be seen without asking the chain.
const CONTRACT_WARNING: &str = "Whether an address is a wallet or a contract cannot be seen from here: look it up on the \
    chain before sending anything. A contract that splits must be able to receive, and no withdrawal address can ever be \
    changed.";
const SAME_WARNING: &str = "All parts of one validator must be sent with these files: the first deposit that the chain takes \
    settles where all of them go. Compare the withdrawal address with what your members agreed on.";

/// Makes the plan. Checks every signature of the lock: not for the event loop.
pub fn plan(
    setup: &ClusterSetup,
    networks: &[Network],
    asked: &DepositsAsked,
) -> Result<DepositPlan, Problem> {
    let lock = Lock::from_value(setup.lock.clone()).map_err(|error| invalid(&error.to_string()))?;
    let view = lock.verify(networks).map_err(|error| invalid(&error.to_string()))?;
    let definition = &lock.definition;
    let custom = networks.iter().find(|network| network.genesis_fork_version == definition.fork_version);
    let network = custom.cloned().or_else(|| Network::by_fork_version(definition.fork_version));
    let network = network.ok_or_else(|| invalid("its fork version belongs to no known network"))?;

    let mut by_amount: BTreeMap<Gwei, Vec<DepositData>> = BTreeMap::new();
    for deposit in lock.validators.iter().flat_map(|validator| &validator.deposits) {
        by_amount.entry(deposit.amount).or_default().push(*deposit);
    }
    if by_amount.is_empty() {
        return Err(Problem::new(
            "no_deposits",
            "The cluster lock holds no deposits.",
            "Locks before version 1.6 have none: use the deposit files from the key generation.",
        ));
    }
    let mut files = Vec::with_capacity(by_amount.len());
    for (amount, deposits) in &by_amount {
        let content = deposit::file_content(deposits, &network);
        // Every root and signature once more: a wrong deposit is money lost.
        deposit::parse_file(&content).map_err(|error| invalid(&error.to_string()))?;
        let content = serde_json::from_slice(&content).map_err(|error| invalid(&error.to_string()))?;
        files.push(NamedFile { name: deposit::file_name(*amount), content });
    }

    let amounts = definition.deposit_amounts.clone().unwrap_or_default();
    let members = view.operators.len();
    let chosen: Vec<Gwei> = asked.parts_gwei.iter().copied().map(Gwei).collect();
    let found = if chosen.is_empty() {
        usual_parts(&amounts, definition.compounding, members)
    } else {
        parts(&amounts, definition.compounding, members, &chosen)
    };
    let found = found.map_err(|error| {
        let text = error.to_string();
        let (what, next_step) = text.rsplit_once("; ").unwrap_or((&text, "Choose other parts"));
        Problem::new("parts_impossible", sentence(what), sentence(next_step))
    })?;
    let total_gwei = found.iter().map(|part| part.total().0).sum();
    let shown = |part: &Part| DepositPart {
        member: u8::try_from(part.member).unwrap_or(u8::MAX),
        name: view.operators.get(part.member - 1).map(|operator| operator.name.clone()).unwrap_or_default(),
        total_gwei: part.total().0,
        deposits: part.deposits.iter().map(|(amount, times)| share(*amount, *times)).collect(),
    };
    let mut warnings = vec![CONTRACT_WARNING.to_owned(), SAME_WARNING.to_owned()];
    let mut validators = Vec::with_capacity(lock.validators.len());
    for (validator, addresses) in lock.validators.iter().zip(&definition.validators) {
        for address in [&addresses.withdrawal_address, &addresses.fee_recipient_address] {
            if let Err(error) = read_address(address) {
                warnings.push(sentence(&error.to_string()));
            }
        }
        validators.push(DepositAddresses {
            validator: validator.public_key.to_string(),
            withdrawal_address: addresses.withdrawal_address.clone(),
            fee_recipient: addresses.fee_recipient_address.clone(),
        });
    }
    warnings.dedup();
    Ok(DepositPlan {
        network: network.name.clone(),
        parts: found.iter().map(shown).collect(),
        total_gwei,
        validators,
        files,
        warnings,
    })
}

fn share(amount: Gwei, times: usize) -> DepositShare {
    DepositShare {
        amount_gwei: amount.0,
        times: u32::try_from(times).unwrap_or(u32::MAX),
        file: deposit::file_name(amount),
    }
}

fn invalid(text: &str) -> Problem {
    Problem::new(
        "lock_invalid",
        sentence(text),
        "Get the original cluster-lock.json from whoever created the cluster.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::ExecutionAddress;
    use cluster::create::{self, Addresses, CreateOptions};
    use cluster::deposit::ETH;
    use ipc::Sensitive;

    fn setup(amounts: &[u64], compounding: bool) -> ClusterSetup {
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let network = Network::by_name("hoodi").unwrap();
        let mut options = CreateOptions::new("friends", 4, 2, network, addresses);
        options.deposit_amounts = amounts.iter().map(|eth| Gwei(eth * ETH.0)).collect();
        options.compounding = compounding;
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        ClusterSetup {
            lock: serde_json::from_slice(&created.lock.to_json().unwrap()).unwrap(),
            identity_key: Sensitive::new(String::new()),
            beacon_nodes: Vec::new(),
            peers: Vec::new(),
            relays: None,
            signing: ipc::Signing::BuiltIn,
            fallback_beacon_nodes: None,
            proposals: None,
            obol_api: None,
        }
    }

    fn eth(plan: &DepositPlan) -> Vec<u64> {
        plan.parts.iter().map(|part| part.total_gwei / ETH.0).collect()
    }

    #[test]
    fn each_member_s_part_is_made_of_the_files_it_gets() {
        let plan = plan(&setup(&[8, 8, 8, 8], false), &[], &DepositsAsked::default()).unwrap();
        assert_eq!((eth(&plan), plan.total_gwei), (vec![8, 8, 8, 8], 32 * ETH.0));
        assert_eq!(plan.files.len(), 1);
        assert_eq!(plan.files[0].name, "deposit-data-8eth.json");
        let entries = plan.files[0].content.as_array().unwrap();
        assert_eq!((entries.len(), entries[0]["network_name"].as_str()), (2, Some("hoodi")));
        assert_eq!(plan.parts[2].deposits[0].file, plan.files[0].name);
        assert_eq!(plan.validators[1].withdrawal_address.to_lowercase(), format!("0x{}", "d1".repeat(20)));
        assert!(plan.warnings.iter().any(|warning| warning.contains("contract")));
    }

    #[test]
    fn owners_may_choose_other_parts_and_not_impossible_ones() {
        let compounding = setup(&[], true);
        let asked = |eth: &[u64]| DepositsAsked { parts_gwei: eth.iter().map(|eth| eth * ETH.0).collect() };
        let chosen = plan(&compounding, &[], &asked(&[1024, 512, 512, 0])).unwrap();
        assert_eq!(eth(&chosen), [1024, 512, 512, 0]);
        assert!(chosen.parts[3].deposits.is_empty());
        for parts in [&[1, 1, 1, 1][..], &[2048, 1, 0, 0], &[32]] {
            let problem = plan(&compounding, &[], &asked(parts)).unwrap_err();
            assert_eq!(problem.code, "parts_impossible", "{problem:?}");
        }
    }
}
