//! What a daemon tells systemd: that it is ready, how it is, and that it is still alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd that start-up is over. Does nothing when systemd did not ask.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The line `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Tells systemd that the daemon is about to end on purpose.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog for as long as `alive` says yes; returns at once when no watchdog is set.
///
/// `alive` runs on the daemon's own event loop (a ledger query, a message to the main task), so that a loop that hangs
/// stops the feeding and gets the daemon restarted.
pub async fn watchdog<F: Future<Output = bool>>(mut alive: impl FnMut() -> F) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let pause = limit.checked_div(3).unwrap_or(Duration::from_secs(1)).max(Duration::from_millis(10));
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if alive().await {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the daemon is not healthy: the watchdog is not fed");
        }
    }
}

/// From now on a panic in any thread ends the process at once, as our bugs must; systemd starts it anew. Called by daemons
/// that serve one thing; `dv-node` keeps its clusters apart instead (decision 0231).
pub fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

/// Resolves when the service manager or a person asks the daemon to end (SIGTERM or SIGINT). From the call on, and not only
/// once it is awaited, a signal no longer ends the process by itself: to be called before anybody is answered.
pub fn asked_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::warn!("cannot listen for signals: the daemon ends only when it is killed");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping();
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd did not take a notification");
    }
}
