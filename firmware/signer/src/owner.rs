//! What the owner says on the control socket: where money goes, and that a validator leaves.

use std::{sync::Arc, time::Instant};

use chain::{Epoch, ForkVersion, PublicKeyBytes, UnixMillis};
use cluster::{Lock, Network, lock::Pledge, read_address};
use ipc::{
    Problem,
    owner::{
        ALL_VALIDATORS, ExitApproval, ExitApprovals, ExitCancel, ExitOrder, OwnerRules, Payment, RulesKept,
        confirmation_of_all,
    },
};

use crate::{
    clock::now,
    ledger::{AllRules, Approvals, ShareRow},
    rules::{Approval, Rules, Waited},
    signer::{Signer, blocking, ledger_problem},
};

/// Gas limit of locks without a registration (obol spec 3.9).
const DEFAULT_GAS_LIMIT: u64 = 30_000_000;
/// Longest delay: a year. More is a typing error.
const MOST_DELAY_S: u64 = 366 * 24 * 3600;

/// A confirmed exit and since when this process knows of it: from the owner, or from the disk at its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    pub(crate) approval: Approval,
    pub(crate) since: Instant,
}

impl Confirmed {
    pub(crate) fn waited(&self) -> Waited {
        Waited { approval: self.approval, known_for: self.since.elapsed() }
    }
}

impl Signer {
    /// Takes over what the owner has settled for the validators of a lock.
    pub(crate) async fn set_rules(self: &Arc<Self>, wanted: OwnerRules) -> Result<RulesKept, Problem> {
        let _one_at_a_time = self.wishing.lock().await;
        let ledger = self.ledger()?;
        let rows = self.known_rows();
        let rules = blocking(move || rules_of(wanted, &rows)).await.unwrap_or_else(|| {
            Err(Problem::new("rules_failed", "Reading the lock failed by a fault of ours.", "Report this."))
        })?;
        rules.values().try_for_each(|rules| self.image_keys.allow_fork(rules.genesis_fork_version))?;
        let with_credentials = rules.values().filter(|rules| rules.withdrawal_credentials.is_some()).count();
        let kept = RulesKept { validators: rules.len(), with_credentials };
        ledger.keep_rules(rules.clone()).await.map_err(|error| ledger_problem(&error))?;
        tracing::info!(validators = kept.validators, with_credentials, "the owner's rules are set");
        self.adopt_rules(rules);
        Ok(kept)
    }

    /// Notes that the owner wants validators to leave. Signed when the delay is over and dv-node asks.
    pub(crate) async fn order_exit(&self, order: ExitOrder) -> Result<ExitApprovals, Problem> {
        let _one_at_a_time = self.wishing.lock().await;
        let ledger = self.ledger()?;
        let validators = self.named(&order)?;
        let delay_s = self.config.exits.checked(order.delay_s)?;
        let (now, ready) = (now(), now().saturating_add(delay_s.saturating_mul(1000)));
        let mut all = self.approvals();
        for validator in validators {
            // The same order again changes nothing: neither its beginning nor its end.
            if all.get(&validator).is_none_or(|known| known.epoch.0 != order.epoch) {
                let approval = Approval {
                    epoch: Epoch(order.epoch),
                    confirmed_at: now,
                    ready_at: ready,
                    signed_at: None,
                };
                all.insert(validator, approval);
                tracing::warn!(%validator, epoch = order.epoch, delay_s, "the owner wants this validator to leave the chain");
            }
        }
        ledger.keep_approvals(all.clone()).await.map_err(|error| ledger_problem(&error))?;
        self.adopt_approvals(&all, Instant::now());
        Ok(self.exit_approvals())
    }

    /// The owner has changed their mind.
    pub(crate) async fn cancel_exit(&self, cancel: ExitCancel) -> Result<ExitApprovals, Problem> {
        let _one_at_a_time = self.wishing.lock().await;
        let ledger = self.ledger()?;
        let mut all = self.approvals();
        if cancel.validator == ALL_VALIDATORS {
            all.clear();
        } else {
            let validator = key_of(&cancel.validator)?;
            if all.remove(&validator).is_none() {
                return Err(Problem::new(
                    "exit_unknown",
                    format!("No exit of the validator {validator} is confirmed."),
                    "See the list of confirmed exits.",
                ));
            }
        }
        ledger.keep_approvals(all.clone()).await.map_err(|error| ledger_problem(&error))?;
        self.adopt_approvals(&all, Instant::now());
        tracing::warn!(validator = %cancel.validator.chars().take(98).collect::<String>(), "the owner cancelled an exit");
        Ok(self.exit_approvals())
    }

    /// Remembers that an exit was signed, before the signature leaves.
    pub(crate) async fn note_exit_signed(&self, validator: PublicKeyBytes) -> Result<(), Problem> {
        let ledger = self.ledger()?;
        let mut all = self.approvals();
        match all.get_mut(&validator) {
            Some(approval) if approval.signed_at.is_none() => approval.signed_at = Some(now()),
            Some(_) | None => return Ok(()),
        }
        ledger.keep_approvals(all.clone()).await.map_err(|error| ledger_problem(&error))?;
        self.adopt_approvals(&all, Instant::now());
        tracing::warn!(%validator, "signed that this validator leaves the chain, as its owner confirmed");
        Ok(())
    }

    /// The confirmed exits.
    pub(crate) fn exit_approvals(&self) -> ExitApprovals {
        let now = now();
        let shown = |(validator, confirmed): (PublicKeyBytes, Confirmed)| {
            let approval = confirmed.approval;
            ExitApproval {
                validator: validator.to_string(),
                epoch: approval.epoch.0,
                confirmed_at_ms: approval.confirmed_at.0,
                ready_at_ms: confirmed.waited().ready_at(now).0,
                signed_at_ms: approval.signed_at.map(|UnixMillis(at)| at),
            }
        };
        ExitApprovals {
            exits: self.confirmed().into_iter().map(shown).collect(),
            usual_delay_s: self.config.exits.delay_s,
            least_delay_s: self.config.exits.least_delay_s,
        }
    }

    /// Whom the order is about, when it is typed twice as it must be.
    fn named(&self, order: &ExitOrder) -> Result<Vec<PublicKeyBytes>, Problem> {
        let mut held: Vec<PublicKeyBytes> = self.known_rows().iter().map(|row| row.group_key).collect();
        held.sort_unstable();
        held.dedup();
        let (validators, must_be) = if order.validator == ALL_VALIDATORS {
            (held.clone(), confirmation_of_all(held.len()))
        } else {
            let validator = key_of(&order.validator)?;
            (vec![validator], validator.to_string())
        };
        if validators.is_empty() || validators.iter().any(|validator| !held.contains(validator)) {
            return Err(Problem::new(
                "validator_unknown",
                "This box holds no share of that validator.",
                "Copy the validator's public key from the page.",
            ));
        }
        if !order.typed_again.trim().eq_ignore_ascii_case(&must_be) {
            return Err(Problem::new(
                "exit_not_typed_again",
                "An exit cannot be taken back, so it must be typed twice, and the two are not the same.",
                format!("Type exactly this the second time: {must_be}"),
            ));
        }
        Ok(validators)
    }

    fn approvals(&self) -> Approvals {
        self.confirmed().into_iter().map(|(validator, confirmed)| (validator, confirmed.approval)).collect()
    }
}

/// How long an exit can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExitDelays {
    /// For orders that name no delay, seconds.
    pub delay_s: u64,
    /// The least, seconds: also whoever has taken over the page cannot be quicker.
    pub least_delay_s: u64,
}

impl Default for ExitDelays {
    /// A day: long enough that an owner who looks once a day sees it. An hour at least.
    fn default() -> Self {
        Self { delay_s: 24 * 3600, least_delay_s: 3600 }
    }
}

impl ExitDelays {
    fn checked(&self, asked: Option<u64>) -> Result<u64, Problem> {
        let delay_s = asked.unwrap_or(self.delay_s.max(self.least_delay_s));
        if (self.least_delay_s..=MOST_DELAY_S).contains(&delay_s) {
            return Ok(delay_s);
        }
        Err(Problem::new(
            "exit_delay_invalid",
            format!("A delay of {delay_s} seconds is not possible."),
            format!("Choose {} seconds to a year.", self.least_delay_s),
        ))
    }
}

fn key_of(text: &str) -> Result<PublicKeyBytes, Problem> {
    text.trim().to_ascii_lowercase().parse().map_err(|_| {
        Problem::new(
            "validator_unknown",
            "This is not the public key of a validator.",
            "Copy the validator's public key from the page: 0x and 96 hex digits.",
        )
    })
}

/// The rules that a lock and the owner's own settings make.
pub(crate) fn rules_of(wanted: OwnerRules, rows: &[ShareRow]) -> Result<AllRules, Problem> {
    let invalid = |text: String| {
        Problem::new(
            "lock_invalid",
            format!("The cluster lock cannot be used: {text}."),
            "Get the original cluster-lock.json.",
        )
    };
    let lock = Lock::from_value(wanted.lock).map_err(|error| invalid(error.to_string()))?;
    lock.verify_hashes().map_err(|error| invalid(error.to_string()))?;
    let genesis_fork_version = lock.fork_version();
    let stated = wanted.capella_fork_version.as_deref().map(str::parse::<ForkVersion>).transpose();
    let stated = stated.map_err(|_| invalid("capella_fork_version is not 4 bytes of hex".to_owned()))?;
    // What everybody knows of a public network cannot be stated otherwise.
    let capella_fork_version = Network::capella_fork_version(genesis_fork_version).or(stated);
    let mut rules = AllRules::new();
    for pledge in lock.pledges() {
        same_cluster(&pledge, rows, genesis_fork_version)?;
        let registration = pledge.registration;
        let Some(fee_recipient) = registration.map(|registration| registration.fee_recipient) else {
            continue; // Nothing is settled by the validator's own key; the owner's word may follow below.
        };
        rules.insert(
            pledge.validator,
            Rules {
                genesis_fork_version,
                capella_fork_version,
                fee_recipient,
                gas_limit: registration.map_or(DEFAULT_GAS_LIMIT, |registration| registration.gas_limit),
                withdrawal_credentials: pledge.withdrawal_credentials,
            },
        );
    }
    for payment in &wanted.payments {
        pay(payment, &mut rules)?;
    }
    Ok(rules)
}

/// A lock that names a held validator must name the held share too: else it is of another cluster, or of before a change.
fn same_cluster(pledge: &Pledge, rows: &[ShareRow], genesis: ForkVersion) -> Result<(), Problem> {
    let public_root = Network::by_fork_version(genesis).and_then(|network| network.genesis_validators_root());
    let mut held = rows.iter().filter(|row| row.group_key == pledge.validator).peekable();
    if held.peek().is_none() {
        return Ok(());
    }
    let fits = held.any(|row| {
        let position = usize::from(row.share_index).checked_sub(1);
        let share = position.and_then(|position| pledge.public_shares.get(position));
        share == Some(&row.pubshare) && public_root.is_none_or(|root| root == row.genesis_validators_root)
    });
    if fits {
        return Ok(());
    }
    Err(Problem::new(
        "lock_of_another_cluster",
        format!(
            "The lock names other shares of the validator {} than the one this box holds.",
            pledge.validator
        ),
        "Hand in the lock that belongs to the shares on this box.",
    ))
}

fn pay(payment: &Payment, rules: &mut AllRules) -> Result<(), Problem> {
    let validator = key_of(&payment.validator)?;
    let fee_recipient = read_address(&payment.fee_recipient).map_err(|error| {
        Problem::new("address_invalid", format!("{error}."), "Copy the address again from your wallet.")
    })?;
    let known = rules.get_mut(&validator).ok_or_else(|| {
        Problem::new(
            "validator_unknown",
            format!("The lock has no registered validator {validator}."),
            "Name a validator of this lock.",
        )
    })?;
    known.fee_recipient = fee_recipient;
    known.gas_limit = payment.gas_limit.unwrap_or(known.gas_limit);
    Ok(())
}
