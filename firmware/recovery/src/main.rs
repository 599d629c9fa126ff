//! Keeps the recovery key of /var from the moment it is made until the owner has written it down (decision 0348).
//!
//! In the first system, two short jobs around systemd-cryptenroll: `look` says whether a key is to be made, or has to go, and `keep` puts
//! the new one on /var, inside the encryption. In the system itself, a daemon: gives the key to the page, for its owner, and destroys it at the
//! owner's word. It opens no disk, makes no key, knows none that was written down, and has nothing to do with key shares, which the
//! key does not open.

mod api;
mod config;
mod first_system;
mod folder;
mod key;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use ipc::server::Limits;

use crate::config::Config;

/// More than any order here has.
const BODY_BYTES: usize = 1024;

/// Keeps the recovery key of /var until its owner has written it down.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/usr/lib/hearth/recovery.toml")]
    config: PathBuf,
    /// Which start of the machine this is: its boot ID, as systemd writes it.
    #[arg(long, default_value = "")]
    start: String,
    /// Without one it serves the page.
    #[command(subcommand)]
    job: Option<Job>,
}

/// The first system's jobs.
#[derive(Subcommand)]
enum Job {
    /// Says whether a key is to be made, or one that waits has to go.
    Look {
        /// Where to leave the order for systemd-cryptenroll's units.
        orders: PathBuf,
    },
    /// Puts on /var what systemd-cryptenroll has done.
    Keep {
        /// Where it was left.
        orders: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::load(&arguments.config)?;
    match arguments.job {
        Some(Job::Look { orders }) => {
            let disk = || first_system::disk_beneath(&config.state_dir);
            first_system::look(&config.state_dir, &orders, &arguments.start, &config.signer, disk)
        }
        Some(Job::Keep { orders }) => first_system::keep(&config.state_dir, &orders, &arguments.start),
        None => {
            ipc::logging::start("info");
            ipc::service::end_on_panic();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start")?
                .block_on(serve(config, arguments.start))
        }
    }
}

async fn serve(config: Config, start: String) -> anyhow::Result<()> {
    let listener =
        ipc::listen::Inherited::from_environment()?.take("control", config.listen.control.as_deref())?;
    let stop = ipc::service::asked_to_stop();
    ipc::service::ready("the owner may ask for the recovery key");
    let limits = Limits { body_bytes: BODY_BYTES, ..Limits::default() };
    tokio::select! {
        () = ipc::server::serve(listener, api::router(config.state_dir, start), config.callers.control.resolve(), limits) => {}
        () = stop => {}
    }
    Ok(())
}
