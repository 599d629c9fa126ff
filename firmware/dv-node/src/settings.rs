//! What an owner sets for one cluster apart from what is needed to be in it: fallback beacon nodes, what our blocks are like,
//! and whether Obol's service is used.
//!
//! They have a file of their own beside `cluster.json`, because the software that a failed update returns to refuses members
//! of that file that it does not know, and a box that cannot read its cluster does no duty. The file names its cluster:
//! software that does not know it leaves it lying when another cluster takes the place.

use ipc::{ClusterSetup, Proposals};
use serde::{Deserialize, Serialize};

/// What is set, or the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Beacon nodes for when none of the others can be used.
    pub fallback_beacon_nodes: Vec<String>,
    /// What our blocks are like.
    pub proposals: Proposals,
    /// Whether the Obol API is used.
    pub obol_api: bool,
}

/// `settings.json`. What a later version adds is passed over.
#[derive(Serialize, Deserialize)]
struct Stored {
    lock_hash: Option<String>,
    #[serde(default)]
    fallback_beacon_nodes: Vec<String>,
    #[serde(default)]
    proposals: StoredProposals,
    #[serde(default)]
    obol_api: bool,
    /// The same of the cluster whose file is about to be replaced: until that is done, it is what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<Stored>>,
}

impl Stored {
    fn new(settings: &Settings, lock: &serde_json::Value) -> Self {
        let Proposals { builder_api, graffiti, graffiti_alone } = settings.proposals.clone();
        Self {
            lock_hash: lock_hash(lock),
            fallback_beacon_nodes: settings.fallback_beacon_nodes.clone(),
            proposals: StoredProposals { builder_api, graffiti, graffiti_alone },
            obol_api: settings.obol_api,
            before: None,
        }
    }
}

/// [`Proposals`], with what a later version adds passed over.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredProposals {
    builder_api: bool,
    graffiti: Vec<String>,
    graffiti_alone: bool,
}

impl Settings {
    /// What a setup says; what it leaves out is as if nobody had set anything.
    pub fn said(setup: &ClusterSetup) -> Self {
        Self {
            fallback_beacon_nodes: setup.fallback_beacon_nodes.clone().unwrap_or_default(),
            proposals: setup.proposals.clone().unwrap_or_default(),
            obol_api: setup.obol_api.unwrap_or_default(),
        }
    }

    /// The same in a setup, with the defaults left out: who reads it may be of a version that does not know them.
    pub fn into_setup(self, setup: &mut ClusterSetup) {
        setup.fallback_beacon_nodes =
            Some(self.fallback_beacon_nodes).filter(|fallbacks| !fallbacks.is_empty());
        setup.proposals = Some(self.proposals).filter(|proposals| !proposals.is_default());
        setup.obol_api = Some(self.obol_api).filter(|is_used| *is_used);
    }
}

/// What a lock file says that its hash is, for comparing.
pub(crate) fn lock_hash(lock: &serde_json::Value) -> Option<String> {
    let hash = lock.get("lock_hash")?.as_str()?.to_ascii_lowercase();
    Some(hash.strip_prefix("0x").map_or_else(|| hash.clone(), str::to_owned))
}

/// The content of the file; none when nothing is set. `before` is what counts until the cluster's own file is replaced.
pub(crate) fn write(
    settings: &Settings,
    lock: &serde_json::Value,
    before: Option<&(Settings, serde_json::Value)>,
) -> Option<Vec<u8>> {
    let before = before.filter(|(settings, _)| *settings != Settings::default());
    if *settings == Settings::default() && before.is_none() {
        return None;
    }
    let before = before.map(|(settings, lock)| Box::new(Stored::new(settings, lock)));
    let stored = Stored { before, ..Stored::new(settings, lock) };
    Some(serde_json::to_vec(&stored).expect("plain structures always encode"))
}

/// What the file says about this cluster; none when it is about another one.
pub(crate) fn read(bytes: &[u8], lock: &serde_json::Value) -> Result<Option<Settings>, String> {
    let mut stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let before = stored.before.take();
    let found = [Some(stored), before.map(|before| *before)]
        .into_iter()
        .flatten()
        .find(|stored| stored.lock_hash == lock_hash(lock));
    Ok(found.map(|stored| {
        let StoredProposals { builder_api, graffiti, graffiti_alone } = stored.proposals;
        Settings {
            fallback_beacon_nodes: stored.fallback_beacon_nodes,
            proposals: Proposals { builder_api, graffiti, graffiti_alone },
            obol_api: stored.obol_api,
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_later_version_may_add_to_the_file() {
        let text = json!({"lock_hash": "aa", "fallback_beacon_nodes": ["http://y"], "new": 1,
            "proposals": {"builder_api": true, "new": 1}});
        let read = read(text.to_string().as_bytes(), &json!({"lock_hash": "0xAA"})).unwrap().unwrap();
        assert!(read.proposals.builder_api && read.fallback_beacon_nodes == ["http://y"]);
        assert!(super::read(text.to_string().as_bytes(), &json!({"lock_hash": "0xab"})).unwrap().is_none());
        assert!(super::read(b"[]", &json!({})).is_err());
    }
}
