//! Which shares are kept and not served, or not yet, and what the owner is told of them.

use std::collections::BTreeMap;

use chain::{Epoch, PublicKeyBytes};
use ipc::Problem;

use crate::{
    clock::{self, now},
    ledger::{Pending, Resuming, ShareRow},
    real_chain,
    refusal::Refusal,
    signer::Signer,
};

impl Signer {
    /// Whether a share may be in service with the chain that it is held for.
    pub(crate) fn may_serve(&self, row: &ShareRow) -> Result<(), Problem> {
        self.image_keys.allow(&row.genesis_validators_root)?;
        real_chain::check_clock(&row.genesis_validators_root, &row.clock)
    }

    /// Why there is no such share in service.
    pub(crate) fn not_held(&self, key: PublicKeyBytes) -> Refusal {
        let row = self.known_row(&key);
        let forbidden = row.and_then(|(row, _)| self.image_keys.forbidden(&row.genesis_validators_root));
        forbidden.map_or_else(|| Refusal::UnknownKey(key.to_string()), Refusal::TestKeys)
    }
}

/// The note that some shares do not vote yet; none once their epoch has come.
pub(crate) fn waiting(rows: &[ShareRow], resuming: &Resuming, code: &str, why: &str) -> Option<Problem> {
    let now = now();
    let still = |row: &&ShareRow| {
        let begins = resuming.get(&row.pubshare)?;
        (clock::epoch_at(&row.clock, now) < Some(*begins)).then_some(*begins)
    };
    let epochs: Vec<Epoch> = rows.iter().filter_map(|row| still(&row)).collect();
    let last = epochs.iter().max()?;
    Some(Problem::new(
        code,
        format!("{why} {} of {} shares vote again from epoch {last} on.", epochs.len(), rows.len()),
        "Nothing to do: it goes on by itself.",
    ))
}

/// The note that a validator has two shares here, as another box's arrival can bring it about.
pub(crate) fn held_twice(rows: &[ShareRow]) -> Option<Problem> {
    let mut by_validator: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for row in rows {
        by_validator.entry(row.validator()).or_default().push(row.pubshare.to_string());
    }
    let ((validator, _), shares) = by_validator.iter().find(|(_, shares)| shares.len() > 1)?;
    Some(Problem::new(
        "validator_twice",
        format!(
            "This box holds {} shares of the validator {validator}: {}. They sign nothing that conflicts, but the cluster loses two members with one box.",
            shares.len(),
            shares.join(", ")
        ),
        "Find out which one the cluster uses in this box's place, and delete the other (keymanager API). Do not delete before other boxes' shares on their way have arrived.",
    ))
}

/// The note that the old shares wait to be replaced and sign no more.
pub(crate) fn unfinished_edit(pending: &[Pending]) -> Option<Problem> {
    let frozen = pending.iter().filter(|pending| pending.is_frozen && pending.replaces.is_some()).count();
    (frozen > 0).then(|| {
        Problem::new(
            "edit_unfinished",
            format!("A change of the cluster is not finished: {frozen} old shares vote no more and their new ones are not in force yet."),
            "Hand this box the new cluster lock that another member has. If no member has one, make all shares anew (`recreate`) with every member of the lock in force.",
        )
    })
}

/// The note that a share does not open.
pub(crate) fn damaged_share(row: &ShareRow) -> Problem {
    Problem::new(
        "share_damaged",
        format!("The sealed share {} was changed and does not open.", row.pubshare),
        "Import this share again from your own copy; what it has signed is still known.",
    )
}
