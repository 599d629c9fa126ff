//! Where a daemon's log goes: the journal when systemd started it, standard error otherwise.

use std::os::unix::fs::MetadataExt as _;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Starts logging. `filter` is the configured level, such as `info` or `info,libp2p=warn`; a bad one means `info`.
///
/// Calling it twice does nothing the second time.
pub fn start(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = if stderr_is_the_journal() { tracing_journald::layer().ok() } else { None };
    // The error says only that logging runs already.
    let _ = match journal {
        Some(journal) => registry.with(journal).try_init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(false)
                    // A log that cannot be written (a full disk) must not end the daemon.
                    .log_internal_errors(false),
            )
            .try_init(),
    };
}

/// Whether systemd connected our standard error to the journal (`JOURNAL_STREAM`, see systemd.exec(5)). A member run
/// by hand on a machine with a journal must not write into it.
fn stderr_is_the_journal() -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    announced == format!("{}:{}", stderr.dev(), stderr.ino())
}
