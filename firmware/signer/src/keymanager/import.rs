//! `POST /eth/v1/keystores`: shares from EIP-2335 keystores, with their history, all of them or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chain::{PublicKeyBytes, Root};
use cluster::{Keystore, Lock};
use ipc::{
    Problem, Sensitive,
    signer::{ChainClock, MAX_IMPORTED, ShareImported},
};
use serde::Deserialize;
use slashing::Interchange;
use threshold::SecretKey;

use super::{Data, Outcome, refuse, refuse_as_it_is};
use crate::{
    boot, clock,
    folder::CLOCKS_APART,
    import::Incoming,
    ledger::{Entries, ShareRow},
    real_chain,
    signer::{Signer, blocking},
};

/// The request. Unknown members are refused: they may change what it means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportRequest {
    /// EIP-2335 keystores, each a JSON text.
    keystores: Vec<String>,
    /// A password for each.
    passwords: Vec<Sensitive>,
    /// An EIP-3076 interchange document, as text.
    #[serde(default)]
    slashing_protection: Option<String>,
    /// What a keystore does not say of a share. Not of the standard; shares that were here before need none of it.
    #[serde(default)]
    hearth: Option<Membership>,
}

/// Whose shares they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    /// The cluster lock: it says of which validator a share is, and which one.
    lock: serde_json::Value,
    /// Names the chain, `0x` hex.
    genesis_validators_root: String,
    /// The chain's clock.
    chain: ChainClock,
    /// The owner's word that none of the shares ever signed, in place of a history.
    #[serde(default)]
    history: Option<NeverSigned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NeverSigned {
    NeverSigned,
}

/// A request that can be looked at, with as many passwords as keystores.
pub(crate) struct Parsed {
    keystores: Vec<Result<Keystore, Problem>>,
    passwords: Vec<Sensitive>,
    slashing_protection: Option<String>,
    membership: Option<Known>,
}

/// What the lock says of every share of the cluster.
struct Known {
    rows: BTreeMap<PublicKeyBytes, ShareRow>,
    history: Option<NeverSigned>,
}

/// Reads a request as far as that is possible without a password.
pub(crate) fn read_request(body: &[u8]) -> Result<Parsed, Problem> {
    let request: ImportRequest = serde_json::from_slice(body).map_err(|error| {
        // The parser's own words would quote what it found.
        malformed(&format!("not as expected at line {}, column {}", error.line(), error.column()))
    })?;
    let count = request.keystores.len();
    if count != request.passwords.len() {
        return Err(malformed("there must be one password for each keystore"));
    }
    if count == 0 || count > MAX_IMPORTED {
        return Err(malformed(&format!("it holds {count} keystores; it must be 1 to {MAX_IMPORTED}")));
    }
    let keystores = request.keystores.iter().map(|text| {
        Keystore::from_json(text.as_bytes()).map_err(|error| {
            Problem::new("keystore_invalid", format!("The keystore: {error}."), "Check the file.")
        })
    });
    Ok(Parsed {
        keystores: keystores.collect(),
        passwords: request.passwords,
        slashing_protection: request.slashing_protection,
        membership: request.hearth.map(known_by).transpose()?,
    })
}

fn known_by(membership: Membership) -> Result<Known, Problem> {
    let genesis_validators_root: Root = membership
        .genesis_validators_root
        .parse()
        .map_err(|_| malformed("`genesis_validators_root` is not 32 bytes of hex"))?;
    clock::timing(&membership.chain).map_err(|error| malformed(&error.to_string()))?;
    let invalid = |error: String| {
        Problem::new(
            "lock_invalid",
            format!("The cluster lock cannot be used: {error}."),
            "Get the original cluster-lock.json.",
        )
    };
    let lock = Lock::from_value(membership.lock).map_err(|error| invalid(error.to_string()))?;
    lock.verify_hashes().map_err(|error| invalid(error.to_string()))?;
    real_chain::check_chain(lock.fork_version(), &genesis_validators_root, &membership.chain)?;
    let mut rows = BTreeMap::new();
    for validator in &lock.validators {
        for (share, index) in validator.public_shares.iter().zip(1_u8..) {
            let row = ShareRow {
                pubshare: *share,
                group_key: validator.public_key,
                share_index: index,
                genesis_validators_root,
                clock: membership.chain,
                sealed: Vec::new(),
            };
            rows.insert(*share, row);
        }
    }
    Ok(Known { rows, history: membership.history })
}

pub(super) async fn import(State(signer): State<Arc<Signer>>, body: Bytes) -> Response {
    // Finished even when the caller hangs up: what is begun is stored whole, and the caller can ask again.
    match tokio::spawn(async move { signer.import_keystores(body).await }).await {
        Ok(Ok(outcomes)) => Json(Data { data: outcomes }).into_response(),
        Ok(Err(problem)) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "an import was refused");
            refuse_as_it_is(problem)
        }
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            Problem::new("import_failed", "The import failed by a fault of ours.", "Report this."),
        ),
    }
}

impl Signer {
    /// Takes in all keystores of a request or none; one outcome for each.
    async fn import_keystores(self: &Arc<Self>, body: Bytes) -> Result<Vec<Outcome>, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        self.open_parts()?;
        // Only of a share that is open now: a deleted one may have signed elsewhere since, and what the disk says of one that
        // does not open is sealed by nothing.
        let opened = self
            .known_rows()
            .into_iter()
            .filter(|row| self.known_row(&row.pubshare).is_some_and(|(_, is_open)| is_open));
        let before: BTreeMap<PublicKeyBytes, ShareRow> = opened.map(|row| (row.pubshare, row)).collect();
        let opened = blocking(move || {
            let opened = prepare(&body, &before);
            // It held the passwords. What the TLS and HTTP layers copied on the way is freed unwiped, in locked memory.
            if let Ok(mut body) = body.try_into_mut() {
                zeroize::Zeroize::zeroize(body.as_mut());
            }
            opened
        })
        .await
        .unwrap_or_else(|| {
            Err(Problem::new(
                "import_failed",
                "Reading the keystores failed by a fault of ours.",
                "Report this.",
            ))
        })?;
        let incoming = match opened {
            Opened::All(incoming) => incoming,
            Opened::Not(outcomes) => return Ok(outcomes),
        };
        let keys: Vec<PublicKeyBytes> = incoming.iter().map(|share| share.row.pubshare).collect();
        let taken = match self.take_in_one_each(incoming).await {
            Ok(taken) => taken,
            // Said of every keystore, for every one is not in; unless it is the box's own trouble.
            Err(problem) if crate::api::control::status_of(&problem) == StatusCode::UNPROCESSABLE_ENTITY => {
                return Ok(keys.iter().map(|_| Outcome::error(&problem)).collect());
            }
            Err(problem) => return Err(problem),
        };
        let held: BTreeSet<&String> = taken.already_held.iter().collect();
        let outcome = |key: &PublicKeyBytes| {
            if held.contains(&key.to_string()) {
                Outcome::new("duplicate", "This share was here already; only its history was added.")
            } else {
                Outcome::new("imported", "")
            }
        };
        Ok(keys.iter().map(outcome).collect())
    }
}

impl Signer {
    async fn take_in_one_each(self: &Arc<Self>, incoming: Vec<Incoming>) -> Result<ShareImported, Problem> {
        self.check_one_share_each(&incoming).await?;
        self.check_histories(&incoming)?;
        self.take_in(incoming).await
    }
}

enum Opened {
    All(Vec<Incoming>),
    Not(Vec<Outcome>),
}

/// Opens every keystore and finds what belongs to it. `before` is what this box knows of the shares that are open here.
fn prepare(body: &[u8], before: &BTreeMap<PublicKeyBytes, ShareRow>) -> Result<Opened, Problem> {
    let Parsed { keystores, passwords, slashing_protection, membership } = read_request(body)?;
    let mut seen = BTreeSet::new();
    let shares: Vec<Result<(ShareRow, SecretKey), Problem>> = keystores
        .into_iter()
        .zip(&passwords)
        .map(|(keystore, password)| {
            let secret = keystore?.decrypt_key(password.expose_secret()).map_err(|error| {
                Problem::new(
                    "keystore_invalid",
                    format!("The keystore: {error}."),
                    "Check the file and its password, and try again.",
                )
            })?;
            let key = secret.public_key().to_bytes();
            if !seen.insert(key) {
                return Err(Problem::new(
                    "share_twice",
                    format!("The share {key} is in the request twice."),
                    "Send each keystore once.",
                ));
            }
            let stated = membership.as_ref().and_then(|known| known.rows.get(&key));
            let row = before.get(&key).or(stated).cloned().ok_or_else(|| unknown_cluster(key))?;
            Ok((row, secret))
        })
        .collect();
    if shares.iter().any(Result::is_err) {
        let outcome = |share: Result<_, Problem>| match share {
            Ok(_) => Outcome::new(
                "error",
                "Not imported, because another keystore of this request was refused: all of them or none.",
            ),
            Err(problem) => Outcome::error(&problem),
        };
        return Ok(Opened::Not(shares.into_iter().map(outcome).collect()));
    }
    let shares: Vec<(ShareRow, SecretKey)> = shares.into_iter().collect::<Result<_, _>>()?;
    let root = shares.first().map(|(row, _)| row.genesis_validators_root).unwrap_or_default();
    if shares.iter().any(|(row, _)| row.genesis_validators_root != root) {
        return Err(malformed("the shares are of different chains; send a request for each chain"));
    }
    let mut told = match &slashing_protection {
        Some(text) => Some(
            Interchange::parse(text.as_bytes(), root)
                .map_err(|error| Problem::new("history_invalid", sentence(&error.to_string()), EXPORT))?
                .by_key(),
        ),
        None => None,
    };
    let never_signed = membership.is_some_and(|known| known.history == Some(NeverSigned::NeverSigned));
    let incoming = shares.into_iter().map(|(mut row, secret)| {
        let told = told.as_mut().and_then(|told| told.remove(&row.pubshare));
        // A client that signed with it until now did so by another clock (decision 0300).
        let more_epochs = if told.is_some() { CLOCKS_APART } else { 0 };
        let history = match told {
            Some(history) => history,
            // Its history is here: nothing can be forgotten by saying nothing.
            None if before.contains_key(&row.pubshare) => Entries::default(),
            None if never_signed && slashing_protection.is_none() => Entries::default(),
            None => {
                return Err(Problem::new(
                    "history_missing",
                    format!("Nothing is said about what the share {} has signed.", row.pubshare),
                    EXPORT,
                ));
            }
        };
        row.sealed = Vec::new();
        Ok(Incoming { row, secret, history, more_epochs, stopped: None })
    });
    Ok(Opened::All(incoming.collect::<Result<_, Problem>>()?))
}

const EXPORT: &str = "Send the slashing protection history of the client that used these shares in `slashing_protection`, or state in `hearth` that they never signed.";

fn unknown_cluster(key: PublicKeyBytes) -> Problem {
    Problem::new(
        "share_of_unknown_cluster",
        format!("The keystore holds the key {key}, of which this box does not know the cluster."),
        "Send the cluster lock and the chain in `hearth` (docs/keymanager.md); a keystore with a whole validator key has no place here.",
    )
}

fn malformed(what: &str) -> Problem {
    Problem::new(
        "request_invalid",
        format!("The request makes no sense: {what}."),
        "Send it as the keymanager API has it (docs/keymanager.md).",
    )
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
