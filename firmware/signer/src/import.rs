//! How a share gets in: opened here, checked against what its owner says, stored with its history in one step.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use chain::{PublicKeyBytes, Root, UnixMillis};
use cluster::keystore::Keystore;
use ipc::{
    Problem, ShareImport,
    folder::Past,
    signer::{ChainClock, History as StatedHistory, MAX_IMPORTED, ShareBundle, ShareEntry, ShareImported},
};
use slashing::Interchange;
use threshold::{SecretKey, SecretShare, ShareIndex};

use crate::{
    boot, clock,
    folder::CLOCKS_APART,
    ledger::{Entries, Import, Pending, RESTS, ShareRow},
    real_chain, rollback,
    share::{Share, held},
    signer::{Signer, blocking, ledger_problem},
};

/// A share to be taken in: opened and checked.
pub(crate) struct Incoming {
    /// What belongs to it; not sealed yet.
    pub(crate) row: ShareRow,
    /// The secret.
    pub(crate) secret: SecretKey,
    /// All that it signed before.
    pub(crate) history: Entries,
    /// By how many epochs more than usual a new share waits (decision 0300).
    pub(crate) more_epochs: u64,
    /// It was stopped where it comes from, since it was seen elsewhere then (decision 0284).
    pub(crate) stopped: Option<UnixMillis>,
}

/// A share out of its keystore, and what belongs to it.
struct Unpacked {
    row: ShareRow,
    secret: SecretKey,
}

impl Signer {
    /// Takes in a sealed bundle. Either all of it is stored, or nothing.
    pub(crate) async fn import(self: &Arc<Self>, sealed: ShareImport) -> Result<ShareImported, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let key = self.import_key()?;
        let unpacked = blocking(move || {
            let bundle = key.open(&sealed).map_err(|error| {
                bad(
                    "envelope_invalid",
                    &error.to_string(),
                    "Fetch the import key from this box and seal the file again.",
                )
            })?;
            unpack(bundle)
        })
        .await
        .ok_or_else(|| {
            bad("import_failed", "reading the shares failed by a fault of ours", "Report this.")
        })?;
        let (shares, mut histories, more_epochs) = unpacked?;

        let mut incoming = Vec::with_capacity(shares.len());
        for Unpacked { row, secret } in shares {
            let history = histories.remove(&row.pubshare).ok_or_else(|| {
                bad(
                    "share_twice",
                    &format!("the share {} is in the file twice", row.pubshare),
                    "Make a file with each share once.",
                )
            })?;
            incoming.push(Incoming { row, secret, history, more_epochs, stopped: None });
        }
        self.check_one_share_each(&incoming).await?;
        self.check_histories(&incoming)?;
        self.take_in(incoming).await
    }

    /// What must hold before anything of these shares is kept: this image may serve their chains, which have the clocks that are
    /// stated, and somebody vouches for our own clock, since the floors of a new share are as good as they are.
    pub(crate) fn may_come_in(&self, shares: &[Incoming]) -> Result<(), Problem> {
        shares.iter().try_for_each(|share| self.may_serve(&share.row))?;
        self.trust_clock().map_err(|refusal| refusal.to_problem())
    }

    /// Refuses histories of an epoch that is far from now, by a clock that somebody vouches for. Nothing takes floors back: a file
    /// with one wrong number would silence its share for good (decision 0390).
    pub(crate) fn check_histories(&self, shares: &[Incoming]) -> Result<(), Problem> {
        self.may_come_in(shares)?;
        let now = clock::now();
        shares.iter().try_for_each(|share| not_of_the_far_future(share, now))
    }

    /// Refuses a new share of a validator of which this box has another one, or one that waits. Their votes would be checked
    /// against each other (decision 0128). But two members in one box are lost and led astray together, which a quorum does not
    /// reckon with; and a validator whose key is split in two ways, among two sets of boxes, is one that both sets sign for.
    pub(crate) async fn check_one_share_each(&self, shares: &[Incoming]) -> Result<(), Problem> {
        match self.second_shares(shares).await?.first() {
            Some(second) => Err(second.to_problem()),
            None => Ok(()),
        }
    }

    /// Those that are the second share of a validator here, each with the one there is. What is held already is none. What the
    /// ledger refuses for a better reason is left to it: a share that was given up here, or any while a change is promised.
    pub(crate) async fn second_shares(&self, shares: &[Incoming]) -> Result<Vec<Second>, Problem> {
        let held = self.known_rows();
        let is_held = |key: &PublicKeyBytes| held.iter().any(|row| row.pubshare == *key);
        let ledger = self.ledger()?;
        let pending = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let keys = shares.iter().map(|share| share.row.pubshare).collect();
        let retired = ledger.retired_among(keys).await.map_err(|error| ledger_problem(&error))?;
        let is_promised = |row: &ShareRow| {
            pending.iter().any(|known| {
                known.row.validator() == row.validator() && known.is_frozen && known.replaces.is_some()
            })
        };
        let is_refused = |row: &ShareRow| retired.contains(&row.pubshare) || is_promised(row);
        let waits = |known: &Pending| if known.is_frozen { There::Promised } else { There::Waiting };
        let mut here: BTreeMap<(PublicKeyBytes, Root), (PublicKeyBytes, There)> =
            pending.iter().map(|known| (known.row.validator(), (known.row.pubshare, waits(known)))).collect();
        let state = |row: &ShareRow| match self.known_row(&row.pubshare) {
            Some((_, false)) => There::Damaged,
            Some((_, true)) | None => There::Held,
        };
        here.extend(held.iter().map(|row| (row.validator(), (row.pubshare, state(row)))));
        let mut second = Vec::new();
        for Incoming { row, .. } in shares {
            if is_held(&row.pubshare) || is_refused(row) {
                continue;
            }
            // The first of two in one file is the one there is for the other.
            let (other, there) = *here.entry(row.validator()).or_insert((row.pubshare, There::InTheSameFile));
            if other != row.pubshare {
                second.push(Second { share: row.pubshare, validator: row.group_key, other, there });
            }
        }
        Ok(second)
    }

    /// Whether whoever asks may have the TPM's counter stepped once more. Where no TPM counts, nothing wears.
    pub(crate) fn may_step(&self) -> Result<(), Problem> {
        match self.witness() {
            rollback::Witness::Tpm(_) => self.wear.check(Instant::now()),
            rollback::Witness::Nobody => Ok(()),
        }
    }

    /// Seals shares and puts them into service, with their history, in one step. The caller holds `importing`.
    pub(crate) async fn take_in(self: &Arc<Self>, shares: Vec<Incoming>) -> Result<ShareImported, Problem> {
        self.may_come_in(&shares)?;
        let (vault, ledger) = self.open_parts()?;
        let mut imported = ShareImported::default();
        let (mut imports, mut adopted) = (Vec::new(), Vec::new());
        // Where nothing but the clock says how old this ledger is, a copy in another box may have gone by another clock.
        let least_epochs = if matches!(self.witness(), rollback::Witness::Nobody) { CLOCKS_APART } else { 0 };
        for Incoming { mut row, secret, history, more_epochs, stopped } in shares {
            let more_epochs = more_epochs.max(least_epochs);
            let known = self.known_row(&row.pubshare);
            match known {
                // Its seal, index and chain stay as they are; only history may be added.
                Some((known, true)) => {
                    same_facts(&known, &row)?;
                    imported.already_held.push(row.pubshare.to_string());
                    // What its owner has let go on does not rest anew; what was seen elsewhere is stopped again.
                    let stopped = stopped.filter(|seen_at| *seen_at != RESTS);
                    imports.push(Import { row: known, history, was_damaged: false, more_epochs, stopped });
                }
                // New, or there and damaged: then only its history is believed.
                known => {
                    row.sealed = vault.seal_share(&row, &secret)?;
                    imported.imported.push(held(&row));
                    let index = ShareIndex::try_from(row.share_index).map_err(|_| zero_index())?;
                    adopted.push(Share::new(row.clone(), SecretShare::new(index, secret)));
                    imports.push(Import { row, history, was_damaged: known.is_some(), more_epochs, stopped });
                }
            }
        }
        self.may_step()?;
        // The ledger first, the TPM's counter after it; see `rollback`.
        let stored = ledger.import(imports).await.map_err(|error| ledger_problem(&error))?;
        if stored.is_step {
            self.wear.spend(Instant::now());
        }
        if let Err(problem) = rollback::settle(self.witness(), stored.counter).await {
            // The shares are stored and the ledger is one ahead. Nothing is signed or taken in before the TPM has caught up.
            tracing::error!(code = %problem.code, "the TPM's counter could not be stepped after an import");
            self.lock_again(problem.clone());
            return Err(problem);
        }
        let new_shares = adopted.len();
        self.adopt(adopted, stored.resuming);
        tracing::info!(new_shares, already_held = imported.already_held.len(), "shares imported");
        Ok(imported)
    }
}

/// The public shares in a bundle, for whoever tries the unpacking alone.
pub(crate) fn unpacked_keys(bundle: ShareBundle) -> Option<Vec<PublicKeyBytes>> {
    let (shares, ..) = unpack(bundle).ok()?;
    Some(shares.iter().map(|share| share.row.pubshare).collect())
}

/// The shares of a bundle, what each has signed, and by how many epochs more than usual they wait.
type UnpackedBundle = (Vec<Unpacked>, BTreeMap<PublicKeyBytes, Entries>, u64);

/// Decrypts every share and checks it against what the bundle says of it. Also gives by how many epochs more than usual the shares
/// wait: a client that signed with them until now did so by another clock (decision 0300).
fn unpack(bundle: ShareBundle) -> Result<UnpackedBundle, Problem> {
    if bundle.validators.is_empty() || bundle.validators.len() > MAX_IMPORTED {
        return Err(bad(
            "bundle_size",
            &format!("the file holds {} shares; it must be 1 to {MAX_IMPORTED}", bundle.validators.len()),
            "Split the file.",
        ));
    }
    let genesis_validators_root: Root =
        bundle.genesis_validators_root.parse().map_err(|_| not_hex("genesis_validators_root"))?;
    clock::timing(&bundle.chain).map_err(|error| {
        bad("clock_invalid", &error.to_string(), "Take the values from a beacon node of the chain.")
    })?;
    // Before any key is derived; what comes in is asked once more.
    real_chain::check_clock(&genesis_validators_root, &bundle.chain)?;
    let mut shares = Vec::with_capacity(bundle.validators.len());
    for entry in &bundle.validators {
        shares.push(unpack_one(entry, genesis_validators_root, &bundle)?);
    }
    let keys: Vec<PublicKeyBytes> = shares.iter().map(|share| share.row.pubshare).collect();
    let histories = histories(&bundle.history, genesis_validators_root, &keys)?;
    let more_epochs = match bundle.history {
        StatedHistory::NeverSigned => 0,
        StatedHistory::Interchange(_) => CLOCKS_APART,
    };
    Ok((shares, histories, more_epochs))
}

fn unpack_one(
    entry: &ShareEntry,
    genesis_validators_root: Root,
    bundle: &ShareBundle,
) -> Result<Unpacked, Problem> {
    let stated: PublicKeyBytes = entry.public_key.parse().map_err(|_| not_hex("public_key"))?;
    let group_key: PublicKeyBytes =
        entry.group_public_key.parse().map_err(|_| not_hex("group_public_key"))?;
    threshold::PublicKey::parse(&group_key).map_err(|error| {
        bad(
            "group_key_invalid",
            &format!("the validator key {group_key}: {error}"),
            "Check the cluster lock.",
        )
    })?;
    if entry.share_index == 0 {
        return Err(zero_index());
    }
    let json = serde_json::to_vec(&entry.keystore).unwrap_or_default();
    let invalid = |error: cluster::keystore::KeystoreError| {
        bad(
            "keystore_invalid",
            &format!("the share {stated}: {error}"),
            "Check the file and its password, and try again.",
        )
    };
    let secret = Keystore::from_json(&json)
        .map_err(invalid)?
        .decrypt_key(entry.password.expose_secret())
        .map_err(invalid)?;
    let found = secret.public_key().to_bytes();
    if found != stated {
        return Err(bad(
            "pubshare_mismatch",
            &format!("the keystore holds the share {found}, not {stated}"),
            "Use the keystore of this member: each member of the cluster has its own.",
        ));
    }
    let row = ShareRow {
        pubshare: found,
        group_key,
        share_index: entry.share_index,
        genesis_validators_root,
        clock: bundle.chain,
        sealed: Vec::new(),
    };
    Ok(Unpacked { row, secret })
}

/// A share out of the files of another machine's node.
pub(crate) struct Found {
    pub(crate) pubshare: PublicKeyBytes,
    pub(crate) group_key: PublicKeyBytes,
    pub(crate) share_index: u8,
    pub(crate) secret: SecretKey,
}

/// Such shares with what they have signed, in their order. They wait an epoch longer than others, for the other machine's clock.
pub(crate) fn of_another_machine(
    found: Vec<Found>,
    (genesis_validators_root, clock): (Root, ChainClock),
    past: Past,
    stopped: Option<UnixMillis>,
) -> Result<Vec<Incoming>, Problem> {
    let keys: Vec<PublicKeyBytes> = found.iter().map(|found| found.pubshare).collect();
    let stated = match past {
        Past::Interchange(document) => StatedHistory::Interchange(document),
        // The shares wait in any case; this says only that nothing more is known.
        Past::Wait => StatedHistory::NeverSigned,
    };
    let mut histories = histories(&stated, genesis_validators_root, &keys)?;
    let incoming = |Found { pubshare, group_key, share_index, secret }| Incoming {
        row: ShareRow {
            pubshare,
            group_key,
            share_index,
            genesis_validators_root,
            clock,
            sealed: Vec::new(),
        },
        secret,
        history: histories.remove(&pubshare).unwrap_or_default(),
        more_epochs: CLOCKS_APART,
        stopped,
    };
    Ok(found.into_iter().map(incoming).collect())
}

/// What each share signed before. A history that does not mention a share is no statement about it.
fn histories(
    stated: &StatedHistory,
    genesis_validators_root: Root,
    keys: &[PublicKeyBytes],
) -> Result<BTreeMap<PublicKeyBytes, Entries>, Problem> {
    let document = match stated {
        StatedHistory::NeverSigned => {
            return Ok(keys.iter().map(|key| (*key, Entries::default())).collect());
        }
        StatedHistory::Interchange(document) => serde_json::to_vec(document).unwrap_or_default(),
    };
    let next_step = "Export the slashing protection history from the client that used these shares, or state that they never signed.";
    let mut entries = Interchange::parse(&document, genesis_validators_root)
        .map_err(|error| bad("history_invalid", &error.to_string(), next_step))?
        .by_key();
    keys.iter()
        .map(|key| match entries.remove(key) {
            // A record without entries is the old client's word that the key never signed.
            Some(history) => Ok((*key, history)),
            None => Err(bad(
                "history_missing",
                &format!("the history says nothing about the share {key}"),
                next_step,
            )),
        })
        .collect()
}

fn not_of_the_far_future(share: &Incoming, now: UnixMillis) -> Result<(), Problem> {
    let Incoming { row, history: (blocks, votes), .. } = share;
    let latest = clock::latest_signed(&row.clock, now).unwrap_or_default();
    let vote = votes
        .iter()
        .find(|vote| vote.source_epoch.max(vote.target_epoch) > latest)
        .map(|vote| format!("a vote from epoch {} to {}", vote.source_epoch, vote.target_epoch));
    let block = blocks
        .iter()
        .find(|block| block.slot.epoch(row.clock.slots_per_epoch) > latest)
        .map(|block| format!("a block of slot {}", block.slot));
    let Some(entry) = vote.or(block) else { return Ok(()) };
    Err(bad(
        "history_invalid",
        &format!(
            "the history says of the share {} that it signed {entry}; by this box's clock nothing can have been signed beyond epoch {latest}, and with this the share would sign nothing until then",
            row.pubshare
        ),
        "Export the slashing protection history anew from the client that used these shares, and check that it is for this chain. If that client's clock was wrong, wait until the chain is there.",
    ))
}

fn same_facts(known: &ShareRow, stated: &ShareRow) -> Result<(), Problem> {
    let same = known.group_key == stated.group_key
        && known.share_index == stated.share_index
        && known.genesis_validators_root == stated.genesis_validators_root;
    if same {
        return Ok(());
    }
    Err(bad(
        "share_conflict",
        &format!("the share {} is already held with another validator, index or chain", known.pubshare),
        "Check that the file belongs to this cluster.",
    ))
}

/// A share that would be the second one of its validator here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Second {
    pub(crate) share: PublicKeyBytes,
    pub(crate) validator: PublicKeyBytes,
    /// The one that there is.
    pub(crate) other: PublicKeyBytes,
    pub(crate) there: There,
}

/// What becomes of the share that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// It is held.
    Held,
    /// It is held and does not open.
    Damaged,
    /// It comes in before the other in the same file.
    InTheSameFile,
    /// It waits in a change of the cluster of which nothing is promised yet.
    Waiting,
    /// Its box joins with it, and has promised: the complete lock may be with others.
    Promised,
}

impl Second {
    /// That a box holds one share of a validator.
    pub(crate) fn to_problem(self) -> Problem {
        let Self { share: _, validator, other, there } = self;
        bad(
            "validator_already_here",
            &format!(
                "this is another share of the validator {validator} besides {other}: two members in one box weaken the cluster, and two clusters that sign for one validator get it slashed"
            ),
            match there {
                There::Held => {
                    "Decide which of the two this box signs with. If it is the new one, end what the old one belongs to for good, on all of its boxes if that is another cluster, and delete the old share here (keymanager API)."
                }
                There::Damaged => {
                    "The other one is on this box's disk and does not open, but what it signed still counts. If this box signs with that one, import it again from its own file; if with the new one, end what the old one belongs to for good and delete the old share here (keymanager API)."
                }
                There::InTheSameFile => {
                    "Both are in this file, and nothing of it came in. Make a file with the one of the two that this box is to sign with."
                }
                There::Waiting => {
                    "The other one waits in a change of the cluster: bring that to its end, or give it up, then try again."
                }
                There::Promised => {
                    "The other one is this box's place in a changed cluster, and waits for the new cluster lock: ask every member for it, and hand it in here. Only if none has it, and the others make the shares anew without this box, give it up on the page."
                }
            },
        )
    }
}

pub(crate) fn bad(code: &str, message: &str, next_step: &str) -> Problem {
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    Problem::new(code, format!("{first}{}.", letters.as_str()), next_step)
}

fn not_hex(field: &str) -> Problem {
    bad(
        "bundle_invalid",
        &format!("`{field}` is not hex of the right length"),
        "Make the file again with a current tool.",
    )
}

fn zero_index() -> Problem {
    bad(
        "share_index_zero",
        "share indices start at 1",
        "Take the index from the cluster lock: the first member has 1.",
    )
}
