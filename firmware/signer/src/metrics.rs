//! What Prometheus sees. Nothing here names a key.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{ledger::SLOW_COMMIT, message::Kind, refusal::Refusal};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The signer's counters. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    signatures: Family<TypeLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    commits: Histogram,
    recorded: Counter,
    failed_commits: Counter,
    shares: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hearth_signer");
        let signatures = Family::<TypeLabel, Counter>::default();
        let refusals = Family::<ReasonLabel, Counter>::default();
        for (_, name) in Kind::ALL {
            let _ = signatures.get_or_create(&TypeLabel { r#type: name });
        }
        for code in Refusal::CODES {
            let _ = refusals.get_or_create(&ReasonLabel { reason: code });
        }
        let commits = Histogram::new([0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]);
        let (recorded, failed_commits) = (Counter::default(), Counter::default());
        let shares = Gauge::<u64, AtomicU64>::default();
        registry.register("signatures", "Signatures given out", signatures.clone());
        registry.register("refusals", "Requests refused", refusals.clone());
        registry.register(
            "commit_seconds",
            "Time to check, record and sync a batch of votes",
            commits.clone(),
        );
        registry.register("recorded_votes", "Votes that went through the ledger", recorded.clone());
        registry.register("failed_commits", "Batches that could not be written", failed_commits.clone());
        registry.register("shares", "Shares ready to sign", shares.clone());
        Self { registry: Arc::new(registry), signatures, refusals, commits, recorded, failed_commits, shares }
    }
}

impl Metrics {
    /// A signature left the signer.
    pub(crate) fn signed(&self, kind: Kind) {
        self.signatures.get_or_create(&TypeLabel { r#type: kind.name() }).inc();
    }

    /// A request was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&ReasonLabel { reason: refusal.code() }).inc();
    }

    /// A batch went through the ledger.
    pub(crate) fn committed(&self, took: Duration, votes: usize, written: bool) {
        if !written {
            self.failed_commits.inc();
            return;
        }
        self.commits.observe(took.as_secs_f64());
        self.recorded.inc_by(u64::try_from(votes).unwrap_or(u64::MAX));
        if took >= SLOW_COMMIT {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(took_ms, votes, "the disk is slow to confirm");
        }
    }

    /// How many shares are ready.
    pub(crate) fn holding(&self, shares: usize) {
        self.shares.set(u64::try_from(shares).unwrap_or(u64::MAX));
    }

    /// Whether the last write failed is told by the status; this is the whole text for `/metrics`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::warn!(%error, "metrics could not be written");
                String::new()
            }
        }
    }
}
