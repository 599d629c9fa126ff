//! `dv-node --config PATH`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use dv_node::config::Config;

/// The member of the cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "/usr/lib/hearth/dv-node.toml")]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::read(&arguments.config)?;
    ipc::logging::start(&config.log);
    dv_node::isolation::end_process_on_other_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(dv_node::daemon::run(config));
    // A lock that is still being verified is of no use to anybody any more.
    runtime.shutdown_background();
    ended
}
