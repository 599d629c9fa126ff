//! The signer's program; see the library for what it does and what it must never do.

use std::path::PathBuf;

use clap::Parser;

/// Holds this box's key shares and signs with them.
#[derive(Parser)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "/usr/lib/hearth/signer.toml")]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    ipc::service::end_on_panic();
    let config = signer::prepare(&Arguments::parse().config)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()?
        .block_on(signer::run(config))
}
