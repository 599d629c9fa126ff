//! What the process does to itself before it touches a secret: no swap, no core file, no debugger.
//!
//! The unit file says the same from outside. Here it is said again for members run by hand, and because a process that
//! is not dumpable cannot be attached to even by its own user.

use nix::{
    errno::Errno,
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl,
        resource::{Resource, setrlimit},
    },
};

/// A keystore's scrypt takes 256 MB (EIP-2335's parameters); with all memory locked the limit must have room for it.
const ROOM_TO_LOCK: u64 = 768 * 1024 * 1024;

/// Hardens the process. Called once, before any secret is read; failures are logged, and weaken only this one layer.
pub(crate) fn harden() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "the process can be dumped");
    }
    // Refused by the unit's system-call filter, where systemd has set the limit already.
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::debug!(%error, "the core limit stays as it is");
    }
    if !may_lock(&limits) {
        tracing::warn!("memory is not locked: this user's limit for locked memory is below 768 MB");
    } else if let Err(error) = lock_memory() {
        tracing::warn!(%error, "memory is not locked");
    }
}

/// Locks every page from the moment it is first touched: what was never written holds no secret, and reading in all of the
/// program and its libraries for it would cost twice the memory. Kernels before 4.4 lock everything at once.
fn lock_memory() -> nix::Result<()> {
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    match mlockall(all | on_fault) {
        Err(Errno::EINVAL) => mlockall(all),
        locked => locked,
    }
}

/// Whether the soft limit in `/proc/self/limits` has room. Locking with too low a limit would make a later allocation
/// fail, which ends the process in the middle of its work.
fn may_lock(limits: &str) -> bool {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => true,
        Some(bytes) => bytes.parse::<u64>().is_ok_and(|bytes| bytes >= ROOM_TO_LOCK),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_locked_only_when_the_limit_has_room() {
        let line =
            |soft: &str| format!("Limit  Soft  Hard\nMax locked memory         {soft}   unlimited   bytes\n");
        for (soft, expected) in [("unlimited", true), ("1073741824", true), ("8388608", false), ("?", false)]
        {
            assert_eq!(may_lock(&line(soft)), expected, "{soft}");
        }
        assert!(!may_lock(""));
    }
}
