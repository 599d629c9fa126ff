//! What an operator of the SSV network brings along: its RSA key, and the shares that were encrypted to it.
//!
//! The owner's browser seals both files to this process (`ipc::ssv`). The operator's key opens the shares in here and is forgotten:
//! nothing here uses it yet, and with it shares would come in out of what is on the chain for everybody to read. Each share must be
//! the one that the document's public shares say, and these must make up the validator's key, which has signed owner and nonce. It
//! has not signed the shares: that they are the ones in use, only the chain knows.
//!
//! The node that used the operator's key must be stopped (the owner says so), as with a Charon folder: a history counts when there is
//! one, and in any case a share begins above the clock and one epoch more for another machine's clock (decisions 0127, 0300, 0341).
//! There is no "never signed": every operator's node opens its share by itself. And each share *rests*, as one that was seen
//! signing elsewhere (decision 0284): no node here speaks SSV's protocol yet, so whoever is told so may start the old node again.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::Response,
    routing::post,
};
use chain::{PublicKeyBytes, Root};
use cluster::{
    Network,
    ssv::{KeyShares, OperatorKey, ValidatorShares},
};
use ipc::{
    Problem, ShareImport,
    server::Body,
    signer::ChainClock,
    ssv::{MAX_SSV_BYTES, SSV_INFO, SSV_PATH, SsvFiles, SsvImported, SsvKeyFile},
};
use threshold::SecretKey;

use crate::{
    api::{
        control::{Place, answer},
        moving::finished,
    },
    boot,
    folder::{chain_of, fault, has_too_many_parts, unsealed},
    import::{Found, Incoming, bad, of_another_machine},
    ledger::RESTS,
    real_chain,
    signer::{Signer, blocking},
};

/// To be merged into the control socket's router.
pub(crate) fn control_routes() -> Router<Arc<Signer>> {
    Router::new().route(SSV_PATH, post(import).layer(DefaultBodyLimit::max(crate::MAX_LARGE_BYTES)))
}

async fn import(
    State(signer): State<Arc<Signer>>,
    place: Place,
    Body(sealed): Body<ShareImport>,
) -> Response {
    answer(finished(place, async move { signer.import_ssv(sealed).await }).await)
}

/// What came along, checked from end to end.
pub(crate) struct Checked {
    /// SHA-256 of the operator's public key.
    operator: String,
    shares: Vec<Incoming>,
}

impl Checked {
    /// The public shares, for whoever tries the checks alone.
    pub(crate) fn public_shares(&self) -> Vec<PublicKeyBytes> {
        self.shares.iter().map(|share| share.row.pubshare).collect()
    }
}

impl Signer {
    /// Takes in an operator's sealed files: all of it or nothing.
    async fn import_ssv(self: &Arc<Self>, sealed: ShareImport) -> Result<SsvImported, Problem> {
        let _one_at_a_time = self.importing.lock().await;
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let key = self.import_key()?;
        let checked = blocking(move || {
            let text = key
                .open_from_page(&sealed, SSV_INFO, MAX_SSV_BYTES)
                .map_err(|error| unsealed(&error.to_string()))?;
            check(read(&text)?)
        });
        let Checked { operator, shares } = checked.await.ok_or_else(fault)??;
        self.check_one_share_each(&shares).await?;
        self.check_histories(&shares)?;
        let taken = self.take_in(shares).await?;
        tracing::info!(
            operator,
            new_shares = taken.imported.len(),
            "SSV key shares were imported; they rest"
        );
        Ok(SsvImported { operator, imported: taken.imported, already_held: taken.already_held })
    }
}

/// The plaintext as JSON. The parser's own words may quote a secret: only the place is passed on.
pub(crate) fn read(text: &[u8]) -> Result<SsvFiles, Problem> {
    const NEXT: &str = "Load the box's page again and choose the files once more.";
    if has_too_many_parts(text) {
        return Err(bad("ssv_files_invalid", "the files have more parts than those of an operator", NEXT));
    }
    serde_json::from_slice(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        bad("ssv_files_invalid", &format!("what was sent is not as expected ({place})"), NEXT)
    })
}

/// Everything that can be checked, and the shares in the clear.
pub(crate) fn check(files: SsvFiles) -> Result<Checked, Problem> {
    let chain = chain_for(&files)?;
    let key = read_key(&files.operator_key)?;
    if !files.old_node_stopped {
        return Err(bad(
            "old_node_running",
            "the SSV node that has this operator's key may still sign with the same shares, and two nodes that sign with one share get its validator slashed",
            "Stop the old SSV node for good, take the operator's key off it, and say so.",
        ));
    }
    let document = KeyShares::from_json(files.key_shares.as_bytes()).map_err(|error| {
        bad(
            "key_shares_invalid",
            &format!("keyshares.json: {}", with_causes(&error)),
            "Take the file as the tool that split the validator's key has written it.",
        )
    })?;
    let mut opened = Vec::with_capacity(document.validators().len());
    for validator in document.validators() {
        let (share_index, secret) = own_share(validator, &key)?;
        let pubshare = secret.public_key().to_bytes();
        opened.push(Found { pubshare, group_key: validator.public_key, share_index, secret });
    }
    if opened.iter().map(|found| found.pubshare).collect::<BTreeSet<_>>().len() < opened.len() {
        return Err(bad(
            "share_twice",
            "two validators of the file have the same share for this operator",
            "Take the file as the tool that split the validator's key has written it.",
        ));
    }
    let shares = of_another_machine(opened, chain, files.past, Some(RESTS))?;
    Ok(Checked { operator: key.public_key().fingerprint(), shares })
}

/// All that is known of a refusal. No error of these files quotes a secret.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

fn read_key(file: &SsvKeyFile) -> Result<OperatorKey, Problem> {
    let password = file.password.as_ref().map(|password| password.expose_secret());
    OperatorKey::from_file(file.file.expose_secret().as_bytes(), password).map_err(|error| {
        bad(
            "operator_key_invalid",
            &format!("the operator's key: {}", with_causes(&error)),
            "Take the private key of your SSV node: the text of its configuration, or encrypted_private_key.json and its password.",
        )
    })
}

/// The share of the operator whose key this is, with that operator's place among all, from 1: our word for which share it is. The
/// place where the polynomial was evaluated is the operator's id.
fn own_share(validator: &ValidatorShares, key: &OperatorKey) -> Result<(u8, SecretKey), Problem> {
    let name = validator.public_key;
    let Some((index, operator)) = validator.operator(&key.public_key()) else {
        return Err(bad(
            "operator_not_in_shares",
            &format!("this key is that of none of the operators of validator {name}"),
            "Choose the private key of your operator, or the file that was made for your operator.",
        ));
    };
    let secret = key
        .decrypt_share(&operator.encrypted_share, &operator.public_share, &mut rand::rng())
        .map_err(|error| {
            bad(
                "ssv_share_invalid",
                &format!("validator {name}, operator {}: {error}", operator.id),
                "Have the validator's owner split the key again: for this operator the file is worth nothing.",
            )
        })?;
    Ok((index, secret))
}

/// The chain that the owner names. No file of SSV does.
fn chain_for(files: &SsvFiles) -> Result<(Root, ChainClock), Problem> {
    real_chain::check_lives(None, None, files.network.as_deref())?;
    let fork = match (&files.network, &files.chain) {
        (Some(name), None) => Network::by_name(name).map(|network| network.genesis_fork_version),
        (None, Some(chain)) => chain.genesis_fork_version.parse().ok(),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let fork = fork.ok_or_else(|| {
        bad(
            "chain_unknown",
            "it is not said which chain the validators are on, or not in a way that is known here",
            &format!(
                "Choose the network by its name ({}), or state the chain as a beacon node of it has it.",
                real_chain::names()
            ),
        )
    })?;
    chain_of(fork, files.chain.as_ref())
}
