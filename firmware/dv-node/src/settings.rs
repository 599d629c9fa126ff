//! What an owner sets for one cluster apart from what is needed to be in it: fallback beacon nodes, what our blocks are like,
//! and whether Obol's service is used.
//!
//! They have a file of their own beside `cluster.json`, because the software that a failed update returns to refuses members
//! of that file that it does not know, and a box that cannot read its cluster does no duty. The file names its cluster:
//! software that does not know it leaves it lying when another cluster takes the place.

use ipc::{ClusterSetup, Proposals};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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

/// `settings.json` as it is written.
#[derive(Serialize)]
struct Stored {
    lock_hash: Option<String>,
    fallback_beacon_nodes: Vec<String>,
    proposals: Proposals,
    obol_api: bool,
    /// The same of the cluster whose file is about to be replaced: until that is done, it is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Box<Stored>>,
}

impl Stored {
    fn new(settings: &Settings, lock: &serde_json::Value) -> Self {
        Self {
            lock_hash: lock_hash(lock),
            fallback_beacon_nodes: settings.fallback_beacon_nodes.clone(),
            proposals: settings.proposals.clone(),
            obol_api: settings.obol_api,
            before: None,
        }
    }
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

/// What the file says about one cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FoundSettings {
    /// What can be read.
    pub settings: Settings,
    /// Names of what stands there and cannot be read, as of a version that writes it in another way.
    pub unread: Vec<&'static str>,
}

/// What the file says about this cluster; none when it is about another one. What a later version adds is passed over, and one
/// value that cannot be read takes no other with it.
pub(crate) fn read(bytes: &[u8], lock: &serde_json::Value) -> Result<Option<FoundSettings>, String> {
    let stored: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let wanted = lock_hash(lock);
    let of = |stored: &Map<String, Value>| stored.get("lock_hash").and_then(Value::as_str).map(str::to_owned);
    let before = stored.get("before").and_then(Value::as_object);
    let found = [Some(&stored), before].into_iter().flatten().find(|stored| of(stored) == wanted);
    Ok(found.map(|stored| {
        let mut unread = Vec::new();
        let proposals: Map<String, Value> = part(stored, "proposals", &mut unread);
        let settings = Settings {
            fallback_beacon_nodes: part(stored, "fallback_beacon_nodes", &mut unread),
            proposals: Proposals {
                builder_api: part(&proposals, "builder_api", &mut unread),
                graffiti: part(&proposals, "graffiti", &mut unread),
                graffiti_alone: part(&proposals, "graffiti_alone", &mut unread),
            },
            obol_api: part(stored, "obol_api", &mut unread),
        };
        FoundSettings { settings, unread }
    }))
}

fn part<T: DeserializeOwned + Default>(
    of: &Map<String, Value>,
    name: &'static str,
    unread: &mut Vec<&'static str>,
) -> T {
    match of.get(name).map(T::deserialize) {
        None => T::default(),
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            unread.push(name);
            T::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_later_version_may_add_to_the_file() {
        let text = json!({"lock_hash": "aa", "fallback_beacon_nodes": ["http://y"], "new": 1,
            "proposals": {"builder_api": true, "new": 1}});
        let of = |lock| read(text.to_string().as_bytes(), &json!({ "lock_hash": lock })).unwrap();
        let FoundSettings { settings, unread } = of("0xAA").unwrap();
        assert!(settings.proposals.builder_api && settings.fallback_beacon_nodes == ["http://y"]);
        assert_eq!(unread, [""; 0]);
        assert!(of("0xab").is_none());
        assert!(read(b"[]", &json!({})).is_err());
    }

    #[test]
    fn a_value_that_cannot_be_read_takes_no_other_with_it_and_is_named() {
        let text = json!({"lock_hash": "aa", "fallback_beacon_nodes": {"of_tomorrow": 1}, "obol_api": true,
            "proposals": {"builder_api": true, "graffiti": "us", "graffiti_alone": null}});
        let found = read(text.to_string().as_bytes(), &json!({"lock_hash": "aa"})).unwrap().unwrap();
        assert!(found.settings.obol_api && found.settings.proposals.builder_api);
        assert_eq!(found.unread, ["fallback_beacon_nodes", "graffiti", "graffiti_alone"]);
    }
}
