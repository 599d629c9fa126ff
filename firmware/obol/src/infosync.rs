//! Info-sync: what versions and protocols the cluster agreed on, epoch by epoch.

use std::collections::{BTreeMap, VecDeque};

use crate::peerinfo::{SUPPORTED_MINORS, Version};
use crate::protocol::Protocol;
use crate::wire::{PriorityResult, StringValue};

/// Results remembered.
const MAX_RESULTS: usize = 100;
/// First version whose nodes read several sync contributions per validator.
const PLURAL_CONTRIBUTIONS: &str = "v1.11";
/// Topic of supported versions.
pub const VERSION: &str = "version";
/// Topic of protocol identifiers.
pub const PROTOCOL: &str = "protocol";
/// Topic of proposal types.
pub const PROPOSAL: &str = "proposal";

/// What identifiers of protocols for agreeing begin with.
const CONSENSUS: &str = "/charon/consensus/";

/// What we wish, best first: our side of the exchange.
pub fn own_topics(builder_api: bool) -> Vec<(&'static str, Vec<String>)> {
    let texts = |texts: &mut dyn Iterator<Item = &'static str>| texts.map(str::to_owned).collect();
    let proposals = ["builder", "full"].into_iter().filter(|name| builder_api || *name != "builder");
    vec![
        (VERSION, texts(&mut SUPPORTED_MINORS.into_iter())),
        (PROTOCOL, texts(&mut Protocol::all_ids())),
        (PROPOSAL, texts(&mut { proposals })),
    ]
}

/// Whether a slot ends its epoch and so carries an info-sync duty.
pub fn is_due(slot: u64, slots_per_epoch: u64) -> bool {
    slots_per_epoch > 0 && slot % slots_per_epoch == slots_per_epoch - 1
}

/// The agreed results of past epochs.
#[derive(Clone, Debug, Default)]
pub struct InfoSync {
    results: VecDeque<(u64, BTreeMap<String, Vec<String>>)>,
}

impl InfoSync {
    /// Remembers the decided result of a slot. Entries that are no strings are left out.
    pub fn add(&mut self, slot: u64, result: &PriorityResult) {
        let topic = |topic: &crate::wire::PriorityTopicResult| {
            let name = StringValue::text(topic.topic.as_ref()?)?;
            let text =
                |scored: &crate::wire::PriorityScoredResult| StringValue::text(scored.priority.as_ref()?);
            Some((name, topic.priorities.iter().filter_map(text).collect()))
        };
        let agreed: BTreeMap<String, Vec<String>> = result.topics.iter().filter_map(topic).collect();
        let at = self.results.partition_point(|(known, _)| *known < slot);
        match self.results.get_mut(at) {
            Some((known, result)) if *known == slot => *result = agreed,
            _ => self.results.insert(at, (slot, agreed)),
        }
        if self.results.len() > MAX_RESULTS {
            self.results.pop_front();
        }
    }

    /// What the newest result not after `slot` says about a topic, best first.
    pub fn at(&self, slot: u64, topic: &str) -> &[String] {
        let newest = self.results.iter().rev().find(|(known, _)| *known <= slot);
        newest.and_then(|(_, result)| result.get(topic)).map_or(&[], Vec::as_slice)
    }

    /// Whether a leader may propose several sync contributions per validator.
    pub fn plural_contributions(&self, slot: u64) -> bool {
        let Some(first) = Version::parse(PLURAL_CONTRIBUTIONS) else { return false };
        let mut versions = self.at(slot, VERSION).iter().filter_map(|text| Version::parse(text));
        versions.any(|version| version.compare(first).is_ge())
    }

    /// The protocol for agreeing that the members prefer, when we do not speak it. Agreements then go on by QBFT, which every
    /// release speaks (obol.md 6.12).
    pub fn unspoken_consensus(&self, slot: u64) -> Option<&str> {
        let preferred = self.at(slot, PROTOCOL).iter().find(|id| id.starts_with(CONSENSUS))?;
        (!Protocol::Qbft.ids().contains(&preferred.as_str())).then_some(preferred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{PriorityScoredResult, PriorityTopicResult};

    fn result(versions: &[&str]) -> PriorityResult {
        result_on(VERSION, versions)
    }

    fn result_on(topic: &str, agreed: &[&str]) -> PriorityResult {
        let scored =
            |text: &&str| PriorityScoredResult { priority: Some(StringValue::any(text)), score: 4000 };
        let topic = PriorityTopicResult {
            topic: Some(StringValue::any(topic)),
            priorities: agreed.iter().map(scored).collect(),
        };
        PriorityResult { msgs: Vec::new(), topics: vec![topic] }
    }

    #[test]
    fn the_newest_result_not_after_the_slot_counts() {
        let mut info = InfoSync::default();
        info.add(63, &result(&["v1.11", "v1.10"]));
        info.add(31, &result(&["v1.10"]));
        for (slot, plural) in [(0, false), (31, false), (62, false), (63, true), (1000, true)] {
            assert_eq!(info.plural_contributions(slot), plural, "slot {slot}");
        }
        assert!(info.at(1000, PROTOCOL).is_empty());
    }

    #[test]
    fn a_preferred_protocol_that_is_not_spoken_is_named_and_changes_nothing_else() {
        let qbft = Protocol::Qbft.ids()[0];
        let table: [(&[&str], Option<&str>); 5] = [
            (&[], None),
            (&["/charon/parsigex/2.0.0"], None),
            (&["/charon/parsigex/2.0.0", qbft, "/charon/consensus/abft/1.0.0"], None),
            (&["/charon/consensus/abft/1.0.0", qbft], Some("/charon/consensus/abft/1.0.0")),
            (&["/charon/consensus/qbft/3.0.0"], Some("/charon/consensus/qbft/3.0.0")),
        ];
        for (agreed, unspoken) in table {
            let mut info = InfoSync::default();
            info.add(31, &result_on(PROTOCOL, agreed));
            assert_eq!(info.unspoken_consensus(30), None, "not agreed on yet");
            assert_eq!(info.unspoken_consensus(32), unspoken, "{agreed:?}");
        }
        // What we offer ourselves is headed by the one protocol there is.
        assert_eq!(own_topics(false)[1].1[0], qbft);
    }

    #[test]
    fn a_hundred_results_are_kept_and_the_oldest_gives_way() {
        let mut info = InfoSync::default();
        for epoch in 0..150 {
            info.add(epoch * 32 + 31, &result(&["v1.10"]));
        }
        assert_eq!(info.results.len(), MAX_RESULTS);
        assert!(info.at(49 * 32 + 31, VERSION).is_empty());
        assert_eq!(info.at(50 * 32 + 31, VERSION), ["v1.10"]);
    }

    #[test]
    fn the_last_slot_of_an_epoch_is_due() {
        let due: Vec<u64> = (0..70).filter(|slot| is_due(*slot, 32)).collect();
        assert_eq!(due, [31, 63]);
        assert_eq!(own_topics(false)[2].1, ["full"]);
        assert_eq!(own_topics(true)[2].1, ["builder", "full"]);
    }
}
