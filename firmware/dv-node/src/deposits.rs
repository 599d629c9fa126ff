//! The deposits of the cluster: who pays what, and the files to pay with. Everything comes from the lock; nothing is signed.

use std::collections::BTreeMap;

use chain::{DepositData, ExecutionAddress, Gwei, PublicKeyBytes};
use cluster::deposit::ETH;
use cluster::parts::{ACTIVATION, Part, most, parts, usual_parts};
use cluster::{Definition, Lock, Network, deposit, read_address};
use ipc::node::{DepositAddresses, DepositPart, DepositPlan, DepositShare, DepositsAsked, NamedFile};
use ipc::{ClusterSetup, Problem};

use crate::setup::sentence;

/// What cannot be seen without asking the chain.
const CONTRACT_WARNING: &str = "Whether an address is a wallet or a contract cannot be seen from here: look it up on the \
    chain before sending anything. A contract that splits must be able to receive, and no withdrawal address can ever be \
    changed.";
const SAME_WARNING: &str = "All parts of one validator must be sent with these files: the first deposit that the chain takes \
    settles where all of them go. Compare the withdrawal address with what your members agreed on.";
const ABOVE_WARNING: &str = "No deposits that this cluster has signed sum to 32 ETH: the parts are a little more. What is above \
    32 ETH earns nothing and is paid out to the withdrawal address.";

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

    let mut by_amount: BTreeMap<Gwei, BTreeMap<PublicKeyBytes, DepositData>> = BTreeMap::new();
    for (number, validator) in (1_usize..).zip(&lock.validators) {
        for deposit in &validator.deposits {
            ensure_own(number, validator.public_key, withdrawal(definition, number)?, definition, deposit)?;
            by_amount.entry(deposit.amount).or_default().insert(deposit.pubkey, *deposit);
        }
    }
    if by_amount.is_empty() {
        return Err(Problem::new(
            "no_deposits",
            "The cluster lock holds no deposits.",
            "Locks before version 1.6 have none: use the deposit files from the key generation.",
        ));
    }
    // A part is paid for every validator, so only with amounts that each of them has signed.
    by_amount.retain(|_, deposits| deposits.len() == lock.validators.len());
    if by_amount.is_empty() {
        return Err(Problem::new(
            "no_deposits",
            "The validators of this lock have signed deposits of different amounts, and none that all of them have.",
            "Use the deposit files from the key generation, one validator after the other.",
        ));
    }
    let mut files = Vec::with_capacity(by_amount.len());
    for (amount, deposits) in &by_amount {
        let deposits: Vec<DepositData> = deposits.values().copied().collect();
        let content = deposit::file_content(&deposits, &network);
        // Every root and signature once more: a wrong deposit is money lost.
        deposit::parse_file(&content).map_err(|error| invalid(&error.to_string()))?;
        let content = serde_json::from_slice(&content).map_err(|error| invalid(&error.to_string()))?;
        files.push(NamedFile { name: deposit::file_name(*amount), content });
    }

    let signed: Vec<Gwei> = by_amount.keys().copied().collect();
    let listed = definition.deposit_amounts.clone().unwrap_or_default();
    let members = view.operators.len();
    let chosen: Vec<Gwei> = asked.parts_gwei.iter().copied().map(Gwei).collect();
    let found = if chosen.is_empty() {
        usual_parts(&signed, &listed, definition.compounding, members)
    } else {
        parts(&signed, definition.compounding, members, &chosen)
    };
    let found = found.map_err(|error| {
        let text = error.to_string();
        let (what, next_step) = text.rsplit_once("; ").unwrap_or((&text, "Choose other parts"));
        Problem::new("parts_impossible", sentence(what), sentence(next_step))
    })?;
    let total_gwei: u64 = found.iter().map(|part| part.total().0).sum();
    let shown = |part: &Part| DepositPart {
        member: u8::try_from(part.member).unwrap_or(u8::MAX),
        name: view.operators.get(part.member - 1).map(|operator| operator.name.clone()).unwrap_or_default(),
        total_gwei: part.total().0,
        deposits: part.deposits.iter().map(|(amount, times)| share(*amount, *times)).collect(),
    };
    let mut warnings = vec![CONTRACT_WARNING.to_owned(), SAME_WARNING.to_owned()];
    if !definition.compounding && total_gwei > ACTIVATION.0 {
        warnings.push(ABOVE_WARNING.to_owned());
    }
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

/// The withdrawal address that the definition names for a validator, numbered from 1.
fn withdrawal(definition: &Definition, number: usize) -> Result<ExecutionAddress, Problem> {
    let addresses = definition.validators.get(number - 1);
    let text = addresses.map(|addresses| addresses.withdrawal_address.as_str()).unwrap_or_default();
    // Older tools wrote addresses without their checksum's letters: those are warned about, not refused.
    let digits = text.trim().strip_prefix("0x").unwrap_or_default();
    let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(ExecutionAddress).ok_or_else(|| {
        invalid(&format!(
            "validator {number} has no withdrawal address that its deposits could be compared with"
        ))
    })
}

/// Refuses a deposit that is not this validator's, that pays out to another address than the lock's definition names, or that
/// the chain does not take. The signature alone does not say that: whoever made the keys can have signed anything. Where
/// nobody signed the definition its author chose the address as well: that one the owner compares ([`SAME_WARNING`]).
fn ensure_own(
    number: usize,
    key: PublicKeyBytes,
    withdrawal: ExecutionAddress,
    definition: &Definition,
    deposit: &DepositData,
) -> Result<(), Problem> {
    let wrong = |what: &str| {
        Problem::new(
            "deposit_not_agreed",
            format!("A deposit of {} gwei for validator {number} {what}.", deposit.amount.0),
            "Send nothing with this lock: ask the other members where it comes from, and compare theirs.",
        )
    };
    if deposit.pubkey != key {
        return Err(wrong("names the key of another validator"));
    }
    if deposit.withdrawal_credentials != deposit::credentials(withdrawal, definition.compounding) {
        return Err(wrong("pays out to another address than the cluster's definition names"));
    }
    if deposit.amount < ETH || deposit.amount > most(definition.compounding) {
        return Err(wrong("is less or more than one deposit may be"));
    }
    Ok(())
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
    use cluster::SchemaVersion;
    use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
    use ipc::Sensitive;

    fn created(members: usize, amounts: &[u64], compounding: bool) -> CreatedCluster {
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let network = Network::by_name("hoodi").unwrap();
        let mut options = CreateOptions::new("friends", members, 2, network, addresses);
        options.deposit_amounts = amounts.iter().map(|eth| Gwei(eth * ETH.0)).collect();
        options.compounding = compounding;
        create::cluster(&options, &mut rand::rng()).unwrap()
    }

    fn setup_of(lock: &Lock) -> ClusterSetup {
        ClusterSetup {
            lock: serde_json::from_slice(&lock.to_json().unwrap()).unwrap(),
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

    fn setup(amounts: &[u64], compounding: bool) -> ClusterSetup {
        setup_of(&created(4, amounts, compounding).lock)
    }

    /// The lock with something else in it, sealed again as whoever made all of it could.
    fn changed(created: &CreatedCluster, change: impl FnOnce(&mut Lock)) -> ClusterSetup {
        let mut lock = created.lock.clone();
        change(&mut lock);
        lock.definition.set_hashes().unwrap();
        lock.lock_hash = lock.compute_lock_hash().unwrap();
        let shares = created.nodes.iter().flat_map(|node| &node.shares);
        let signatures: Vec<_> = shares.map(|share| share.sign(&lock.lock_hash)).collect();
        lock.signature_aggregate =
            threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
        let nodes = created.nodes.iter();
        lock.node_signatures = nodes.map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
        setup_of(&lock)
    }

    /// Every file that a part names is there.
    fn files_are_there(plan: &DepositPlan) -> bool {
        let mut named = plan.parts.iter().flat_map(|part| &part.deposits);
        named.all(|deposit| plan.files.iter().any(|file| file.name == deposit.file))
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
    #[test]
    fn seven_members_pay_as_equally_as_the_signed_deposits_allow() {
        let plan = plan(&setup_of(&created(7, &[], false).lock), &[], &DepositsAsked::default()).unwrap();
        assert_eq!((eth(&plan), plan.total_gwei), (vec![5, 5, 5, 5, 4, 4, 4], 32 * ETH.0));
        assert!(files_are_there(&plan), "{:?}", plan.parts);
        assert_eq!(plan.parts[0].deposits[0].times, 5);
    }

    #[test]
    fn only_deposits_that_the_lock_holds_are_planned_with() {
        let made = created(4, &[], false);
        // Locks of 1.6 and 1.7 hold one deposit of 32 ETH, and their definitions no amounts.
        let old = changed(&made, |lock| {
            lock.definition.version = SchemaVersion::V1_7;
            lock.definition.target_gas_limit = 0;
            lock.validators.iter_mut().for_each(|validator| validator.deposits = vec![validator.deposits[1]]);
        });
        let found = plan(&old, &[], &DepositsAsked::default()).unwrap();
        assert_eq!((eth(&found), files_are_there(&found)), (vec![32, 0, 0, 0], true));
        let chosen = DepositsAsked { parts_gwei: vec![8 * ETH.0; 4] };
        assert_eq!(plan(&old, &[], &chosen).unwrap_err().code, "parts_impossible");
        // An amount that one of the validators lacks pays for the others only.
        let uneven = changed(&made, |lock| {
            lock.validators[0].deposits.remove(0);
        });
        let found = plan(&uneven, &[], &DepositsAsked::default()).unwrap();
        let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!((eth(&found), names), (vec![32, 0, 0, 0], vec!["deposit-data.json"]));
        assert!(files_are_there(&found));
    }

    #[test]
    fn a_deposit_that_is_not_as_the_definition_says_is_refused() {
        let made = created(4, &[], false);
        let code = |setup: &ClusterSetup| plan(setup, &[], &DepositsAsked::default()).map_err(|p| p.code);
        assert!(code(&changed(&made, |_| {})).is_ok());
        // Signed by the validator itself, but the definition now names another address.
        let elsewhere = changed(&made, |lock| {
            lock.definition.validators[1].withdrawal_address = format!("0x{}", "ee".repeat(20));
        });
        assert_eq!(code(&elsewhere).unwrap_err(), "deposit_not_agreed");
        let compounding = changed(&made, |lock| lock.definition.compounding = true);
        assert_eq!(code(&compounding).unwrap_err(), "deposit_not_agreed");
        // The other validator's deposit, whose signature is as good.
        let swapped = changed(&made, |lock| {
            let other = lock.validators[1].deposits.clone();
            lock.validators[0].deposits = other;
        });
        assert_eq!(code(&swapped).unwrap_err(), "deposit_not_agreed");
        for gwei in [0, 1, 33 * ETH.0, u64::MAX] {
            let odd = changed(&made, |lock| lock.validators[0].deposits[0].amount = Gwei(gwei));
            assert_eq!(code(&odd).unwrap_err(), "deposit_not_agreed", "{gwei}");
        }
    }
}
