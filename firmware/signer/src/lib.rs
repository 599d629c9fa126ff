//! Holds this box's key shares and signs with them: the one process that could cost an owner their stake.
//!
//! A request goes through a fixed order: caller, key, chain, signing root recomputed from the whole message, clock and the
//! owner's rules, EIP-3076, durable record, signature. Each step uses up the proof of the one before, so no step can be left out. Shares
//! are in the clear only in this process's memory; on the disk they are sealed under a key that the TPM gives out to
//! the measured, signed boot alone.
//!
//! It has no network. It must never sign a bare root, never sign before the record is on the disk, never log or store a
//! secret in the clear. `dv-node` asks for signatures, `web` for the status and hands in sealed shares; clients outside the box
//! ask for signatures over mutual TLS if the owner has let them in; nobody else may call.

mod api;
mod backup;
mod boot;
mod carry;
mod ceremony;
mod clock;
mod clock_guard;
mod config;
mod edit;
mod elsewhere;
mod files;
mod folder;
mod fork;
mod harden;
mod held;
mod history;
mod identities;
mod import;
mod keymanager;
mod ledger;
mod many;
mod message;
mod metrics;
mod migrate;
mod no_tpm;
#[doc(hidden)]
pub mod outside;
mod owner;
mod passphrase;
mod presence;
mod real_chain;
mod refusal;
mod remote;
mod rollback;
mod rules;
mod screen;
mod share;
mod signer;
mod ssv;
mod unserved;
mod vault;
mod wear;

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use ipc::{listen::Inherited, server::Limits, service};

pub use config::Config;
pub use owner::ExitDelays;
pub use refusal::Refusal;

/// A thousand keystores with scrypt take minutes on a small board.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(900);
/// An envelope is hex in JSON: twice the plaintext, and a little.
const MAX_IMPORT_BYTES: usize = 2 * ipc::envelope::MAX_PLAINTEXT_BYTES + 4096;
/// Folders and files of shares that are carried are larger, and few at a time.
const MAX_LARGE_BYTES: usize = 2 * ipc::folder::MAX_FOLDER_BYTES + 4096;

/// Runs the signer until it is asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // A stop that comes early, too, ends the run in an orderly way: another end costs two epochs (decision 0126).
    let stop = service::asked_to_stop();
    let mut inherited = Inherited::from_environment()?;
    let sign_socket =
        inherited.take("sign", config.listen.sign.as_deref()).context("opening the signing socket")?;
    let control_socket =
        inherited.take("control", config.listen.control.as_deref()).context("opening the control socket")?;
    let remote_socket = inherited
        .take_optional("remote", config.listen.remote.as_deref())
        .context("opening the socket for clients outside the box")?;
    let (sign_callers, control_callers) = (config.callers.sign.resolve(), config.callers.control.resolve());
    let remote_callers = config.callers.remote.resolve();

    let signer = signer::Signer::start(config, metrics::Metrics::default()).await;
    tokio::spawn(std::sync::Arc::clone(&signer).keep_unlocking());
    tokio::spawn(std::sync::Arc::clone(&signer).keep_watching_the_clock());
    let sign = ipc::server::serve(
        sign_socket,
        api::sign::router(std::sync::Arc::clone(&signer)),
        sign_callers,
        Limits::default(),
    );
    let control_limits =
        Limits { body_bytes: MAX_IMPORT_BYTES, request_timeout: IMPORT_TIMEOUT, ..Limits::default() };
    let control = ipc::server::serve(
        control_socket,
        api::control::router(std::sync::Arc::clone(&signer)),
        control_callers,
        control_limits,
    );
    let outside = {
        let signer = std::sync::Arc::clone(&signer);
        async move {
            match remote_socket {
                Some(socket) => remote::serve(socket, signer, remote_callers, Limits::default()).await,
                None => std::future::pending().await,
            }
        }
    };
    service::ready("answering");
    let watchdog = async {
        service::watchdog(|| signer.is_alive()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sign => {}
        () = control => {}
        () = outside => {}
        () = watchdog => {}
        () = stop => tracing::info!("asked to stop"),
    }
    signer.close().await;
    Ok(())
}

/// Reads the configuration, starts the log and hardens the process: all that must come before the first thread.
pub fn prepare(config: &Path) -> anyhow::Result<Config> {
    let config = Config::load(config)?;
    ipc::logging::start(&config.log);
    harden::harden();
    Ok(config)
}
