//! A Charon node's folder, taken in whole or not at all.
//!
//! The owner's browser seals it to this process (`ipc::folder`), so passwords, shares and identity key are in the clear there and
//! here only. Every keystore must hold exactly the share that the verified lock gives to the operator whose identity key came
//! along; the identity key is sealed here too and given to `dv-node`, which speaks to the other members with it.
//!
//! The node that used the folder must be stopped (the owner says so), and what it signed until now must not matter: its
//! history is imported when there is one, and in any case the shares begin above the clock (decisions 0127 and 0300).

use std::{collections::BTreeMap, sync::Arc};

use chain::{PublicKeyBytes, Root};
use cluster::{ClusterView, IdentityKey, Lock, Network, keystore::Keystore};
use ipc::{
    Problem, ShareImport,
    folder::{CharonFolder, FOLDER_INFO, FolderImported, FolderKeystore, MAX_FOLDER_BYTES, StatedChain},
    owner::OwnerRules,
    signer::ChainClock,
};
use threshold::SecretKey;

use crate::{
    boot, clock,
    identities::{Said, marks_of, shares_of},
    import::{Found, Incoming, bad, of_another_machine},
    real_chain,
    signer::{Signer, blocking},
};

/// The other machine's clock may differ from ours.
pub(crate) const CLOCKS_APART: u64 = 1;
/// The lock of a thousand validators in a cluster of ten has a quarter of it.
const MAX_FOLDER_PARTS: usize = 400_000;

/// A folder that was checked from end to end.
pub(crate) struct Checked {
    lock: serde_json::Value,
    view: ClusterView,
    share_index: u8,
    identity: IdentityKey,
    shares: Vec<Incoming>,
}

impl Signer {
    /// Takes in a sealed folder.
    pub(crate) async fn import_folder(
        self: &Arc<Self>,
        sealed: ShareImport,
    ) -> Result<FolderImported, Problem> {
        let one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let (vault, _) = self.open_parts()?;
        let key = self.import_key()?;
        let checked = blocking(move || {
            let text = key
                .open_from_page(&sealed, FOLDER_INFO, MAX_FOLDER_BYTES)
                .map_err(|error| unsealed(&error.to_string()))?;
            check(read(&text)?)
        })
        .await
        .ok_or_else(fault)?;
        let Checked { lock, view, share_index, identity, shares } = checked?;
        self.image_keys.allow_fork(view.fork_version)?;
        self.may_come_in(&shares)?;
        self.check_one_share_each(&shares).await?;
        self.check_histories(&shares)?;
        // Before the shares: a folder whose shares are in can always be joined with. Without them it does no harm.
        let shown = shares_of(&view, &identity.public_key());
        let (share, _) = shown.first().copied().ok_or_else(fault)?;
        self.keep_identity(&vault, &view.lock_hash, &identity, Said::Folder(share), &marks_of(&shown))?;
        let taken = self.take_in(shares).await?;
        drop(one_at_a_time);
        let rules = OwnerRules { lock, capella_fork_version: None, payments: Vec::new() };
        if let Err(problem) = self.set_rules(rules).await {
            // Duties do without; only registrations and top-ups are refused until the lock is handed in again.
            tracing::warn!(code = %problem.code, "the rules of an imported cluster were not set");
        }
        tracing::info!(cluster = %view.name, share_index, "a Charon folder was imported");
        let keys: Vec<PublicKeyBytes> =
            taken.imported.iter().filter_map(|held| held.pubshare.parse().ok()).collect();
        let begins = self.beginning_of(&keys);
        Ok(FolderImported {
            cluster: view.name,
            lock_hash: format!("0x{}", hex::encode(view.lock_hash)),
            share_index,
            imported: taken.imported,
            already_held: taken.already_held,
            votes_from_epoch: begins.map(|epoch| epoch.0),
        })
    }
}

/// The plaintext as JSON. The parser's own words may quote a secret: only the place is passed on.
pub(crate) fn read(text: &[u8]) -> Result<CharonFolder, Problem> {
    if has_too_many_parts(text) {
        return Err(bad(
            "folder_invalid",
            "the folder has more parts than that of a thousand validators",
            "Take the folder of the node as it is.",
        ));
    }
    serde_json::from_slice(text).map_err(|error| {
        bad(
            "folder_invalid",
            &format!("the folder is not as expected (line {}, column {})", error.line(), error.column()),
            "Load the box's page again and choose the folder once more.",
        )
    })
}

/// Eight bytes of JSON can be six hundred in memory.
pub(crate) fn has_too_many_parts(text: &[u8]) -> bool {
    text.iter().filter(|byte| b",:[{".contains(byte)).count() > MAX_FOLDER_PARTS
}

/// Everything that can be checked of a folder, and its shares in the clear.
pub(crate) fn check(folder: CharonFolder) -> Result<Checked, Problem> {
    if !folder.old_node_stopped {
        return Err(bad(
            "old_node_running",
            "the same keys may still be in use elsewhere, and two nodes that sign with one key get its validator slashed",
            "Stop the old node and its validator client for good, take the keys off it, and say so.",
        ));
    }
    let custom = folder.chain.as_ref().map(network_of).transpose()?;
    let text = folder.lock;
    let invalid = |error: String| {
        bad("lock_invalid", &format!("cluster-lock.json: {error}"), "Take the folder of the node as it is.")
    };
    let lock = Lock::from_value(text.clone()).map_err(|error| invalid(error.to_string()))?;
    real_chain::check_lives(Some(lock.fork_version()), None, None)?;
    let view = lock.verify(custom.as_slice()).map_err(|error| invalid(error.to_string()))?;
    if lock.signature_aggregate.is_empty() {
        return Err(invalid("it does not show that every member holds its share".to_owned()));
    }
    let chain = chain_of(view.fork_version, folder.chain.as_ref())?;
    let identity = IdentityKey::from_file_text(folder.identity_key.expose_secret()).map_err(|error| {
        bad(
            "identity_key_invalid",
            &format!("charon-enr-private-key: {error}"),
            "Take the folder of the node as it is.",
        )
    })?;
    let share_index = view.share_index_of(&identity.public_key()).map_err(|error| {
        bad("identity_not_in_lock", &error.to_string(), "Take lock and identity key from the same folder.")
    })?;
    let secrets = secrets(&view, share_index, folder.keystores)?;
    let found = secrets.into_iter().map(|(pubshare, group_key, secret)| Found {
        pubshare,
        group_key,
        share_index,
        secret,
    });
    let shares = of_another_machine(found.collect(), chain, folder.past, None)?;
    Ok(Checked { lock: text, view, share_index, identity, shares })
}

impl Checked {
    /// The public shares, for whoever tries the checks alone.
    pub(crate) fn public_shares(&self) -> Vec<PublicKeyBytes> {
        self.shares.iter().map(|share| share.row.pubshare).collect()
    }
}

/// Opens the keystores: for each validator exactly the share of this operator, and nothing else.
fn secrets(
    view: &ClusterView,
    share_index: u8,
    keystores: Vec<FolderKeystore>,
) -> Result<Vec<(PublicKeyBytes, PublicKeyBytes, SecretKey)>, Problem> {
    const NEXT: &str =
        "Take the folder of the node as it is, with every keystore and the .txt file beside it.";
    let place = usize::from(share_index).saturating_sub(1);
    let wanted: BTreeMap<PublicKeyBytes, PublicKeyBytes> = view
        .validators
        .iter()
        .filter_map(|validator| Some((*validator.public_shares.get(place)?, validator.group_public_key)))
        .collect();
    if keystores.len() != wanted.len() {
        return Err(bad(
            "keystores_incomplete",
            &format!("the folder has {} keystores and the lock {} validators", keystores.len(), wanted.len()),
            NEXT,
        ));
    }
    let mut found: BTreeMap<PublicKeyBytes, SecretKey> = BTreeMap::new();
    for FolderKeystore { name, keystore, password } in keystores {
        let name = shown(&name);
        let refused = |error: String| bad("keystore_invalid", &format!("{name}: {error}"), NEXT);
        let json = serde_json::to_vec(&keystore).unwrap_or_default();
        let secret = Keystore::from_json(&json)
            .and_then(|keystore| keystore.decrypt_key(password.expose_secret()))
            .map_err(|error| refused(error.to_string()))?;
        let pubshare = secret.public_key().to_bytes();
        if !wanted.contains_key(&pubshare) {
            return Err(bad("pubshare_mismatch", &whose(view, &name, &pubshare, share_index), NEXT));
        }
        if found.insert(pubshare, secret).is_some() {
            return Err(bad(
                "share_twice",
                &format!("{name} holds a share that another keystore holds too"),
                NEXT,
            ));
        }
    }
    let with_group = |(pubshare, secret)| wanted.get(&pubshare).map(|group| (pubshare, *group, secret));
    Ok(found.into_iter().filter_map(with_group).collect())
}

/// Whose share it is that is not ours.
fn whose(view: &ClusterView, name: &str, pubshare: &PublicKeyBytes, share_index: u8) -> String {
    let place = view
        .validators
        .iter()
        .find_map(|validator| validator.public_shares.iter().position(|share| share == pubshare));
    match place {
        Some(place) => format!(
            "{name} holds the share of member {}, and the identity key is that of member {share_index}",
            place + 1
        ),
        None => format!("{name} holds a key that is no share of this cluster"),
    }
}

/// A file's name for a sentence.
fn shown(name: &str) -> String {
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
    if name.is_empty() { "A keystore".to_owned() } else { name }
}

/// The chain with this genesis fork version: of a public one, what everybody knows; of another one, what the owner states.
pub(crate) fn chain_of(
    fork: chain::ForkVersion,
    stated: Option<&StatedChain>,
) -> Result<(Root, ChainClock), Problem> {
    if let Some(network) = Network::by_fork_version(fork)
        && let (Some(root), Some(clock)) = (network.genesis_validators_root(), real_chain::clock_of(&network))
    {
        return Ok((root, clock));
    }
    let stated = stated.ok_or_else(|| {
        bad(
            "chain_unknown",
            "these keys are for a chain that is not public",
            "State the chain's genesis validators root and its clock, as a beacon node of it has them.",
        )
    })?;
    let root: Root = stated.genesis_validators_root.parse().map_err(|_| {
        bad(
            "chain_invalid",
            "the genesis validators root is not 32 bytes of hex",
            "Ask a beacon node of the chain.",
        )
    })?;
    real_chain::check_lives(Some(fork), Some(&root), None)?;
    // Messages are bound to the root alone: by another clock, such a share would sign for epochs in which it has signed elsewhere.
    if let Some(name) = real_chain::name_of(&root) {
        return Err(bad(
            "chain_invalid",
            &format!(
                "the genesis validators root is that of {name}, and the genesis fork version is that of another chain"
            ),
            &format!(
                "Take both from a beacon node of the chain that the keys are for. A public network ({}) is known by its name or by the fork version in the lock, and nothing is stated of it.",
                real_chain::names()
            ),
        ));
    }
    clock::timing(&stated.clock)
        .map_err(|error| bad("chain_invalid", &error.to_string(), "Ask a beacon node of the chain."))?;
    Ok((root, stated.clock))
}

/// A stated chain as the lock's signatures want it. Its fork version is the lock's own, whatever that is: a public one is
/// known before this is looked at.
pub(crate) fn network_of(stated: &StatedChain) -> Result<Network, Problem> {
    let too_long = stated.name.len() > 64;
    if too_long {
        return Err(bad("chain_invalid", "the chain's name is too long", "Give it a shorter name."));
    }
    Ok(Network {
        name: stated.name.clone(),
        chain_id: stated.chain_id,
        genesis_fork_version: stated.genesis_fork_version.parse().map_err(|_| {
            bad(
                "chain_invalid",
                "the genesis fork version is not 4 bytes of hex",
                "Ask a beacon node of the chain.",
            )
        })?,
        genesis_time: stated.clock.genesis_time,
    })
}

pub(crate) fn unsealed(error: &str) -> Problem {
    bad("envelope_invalid", error, "Load the box's page again, and try once more.")
}

pub(crate) fn disk(error: &std::io::Error) -> Problem {
    bad(
        "disk_failed",
        &format!("a file of the signer cannot be used: {error}"),
        "Free some disk space and try again.",
    )
}

pub(crate) fn fault() -> Problem {
    bad("import_failed", "reading the file failed by a fault of ours", "Report this.")
}
