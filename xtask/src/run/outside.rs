//! A member whose stock validator client asks that member's own signer: what it signed, as the signer counts.

use std::collections::BTreeMap;

use anyhow::Context as _;
use hw_tests::client_manners::Finding;

use super::members::Cluster;
use super::options::Occupant;
use crate::say;

/// What a client that does all duties asks for in an epoch or two, whether or not it may propose.
const ALWAYS: [&str; 6] = [
    "ATTESTATION",
    "AGGREGATION_SLOT",
    "AGGREGATE_AND_PROOF_V2",
    "SYNC_COMMITTEE_MESSAGE",
    "SYNC_COMMITTEE_SELECTION_PROOF",
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF",
];
/// What it asks for as well when the cluster is to propose.
const TO_PROPOSE: [&str; 2] = ["RANDAO_REVEAL", "BLOCK_V2"];

/// Nothing when no member has such a client. In that member, dv-node asks the signer for nothing: whatever it signed, it signed
/// for the client.
pub(super) fn look_at_signer(cluster: &Cluster, proposals: u64) -> anyhow::Result<Option<Finding>> {
    let has_one = |occupant: &Occupant| *occupant == Occupant::HearthWithRemoteClient;
    let Some(seat) = cluster.seats.iter().find(|seat| has_one(&seat.occupant) && seat.is_on()) else {
        return Ok(None);
    };
    let page = seat.page()?.context("that member has no page")?;
    let signed = signed_by_type(&page.metrics()?);
    let refused = refused_by_reason(&page.metrics()?);
    let must = ALWAYS.iter().chain(TO_PROPOSE.iter().filter(|_| proposals > 0));
    let missing: Vec<&str> =
        must.filter(|kind| signed.get(**kind).is_none_or(|count| *count == 0)).copied().collect();
    let said: Vec<String> = signed
        .iter()
        .chain(refused.iter())
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let finding = Finding {
        what: "a stock client's duties are signed by the sealed shares, over mutual TLS",
        holds: missing.is_empty(),
        found: format!(
            "{}{}",
            said.join(", "),
            if missing.is_empty() { String::new() } else { format!("; never: {}", missing.join(", ")) }
        ),
    };
    let line = format!("{}: {}", finding.what, finding.found);
    if finding.holds {
        say::good(&line)
    } else {
        say::failed(&line)
    }
    Ok(Some(finding))
}

fn signed_by_type(metrics: &str) -> BTreeMap<String, u64> {
    counts(metrics, "hearth_signer_signatures_total{type=\"")
}

fn refused_by_reason(metrics: &str) -> BTreeMap<String, u64> {
    let counted = counts(metrics, "hearth_signer_refusals_total{reason=\"");
    counted.into_iter().map(|(reason, count)| (format!("refused: {reason}"), count)).collect()
}

fn counts(metrics: &str, prefix: &str) -> BTreeMap<String, u64> {
    let count = |line: &str| {
        let (label, value) = line.strip_prefix(prefix)?.split_once("\"} ")?;
        Some((label.to_owned(), value.trim().parse().ok()?))
    };
    metrics.lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_their_label() {
        let metrics = "# HELP x\nhearth_signer_signatures_total{type=\"ATTESTATION\"} 12\n\
                       hearth_signer_signatures_total{type=\"BLOCK_V2\"} 0\nhearth_signer_refusals_total{reason=\"slashable\"} 3\n";
        assert_eq!(
            signed_by_type(metrics),
            [("ATTESTATION".to_owned(), 12), ("BLOCK_V2".to_owned(), 0)].into()
        );
        assert_eq!(refused_by_reason(metrics), [("refused: slashable".to_owned(), 3)].into());
    }
}
