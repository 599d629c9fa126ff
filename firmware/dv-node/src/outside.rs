//! The parsers of outside bytes and of files as plain functions on bytes: the way in for fuzzing.
//!
//! Not an interface: nothing that runs on the box calls it.

use std::collections::BTreeMap;
use std::io;

use cluster::Network;
use ipc::ClusterSetup;
use obol::dkg::ceremony::Record;

use crate::journal::{Found, Key};
use crate::settings::{FoundSettings, Settings};
use crate::setup::Membership;

/// The journal's states, and whether the file is whole.
pub fn journal(bytes: &[u8]) -> (BTreeMap<Key, Vec<u8>>, Found) {
    crate::journal::read_bytes(bytes)
}

/// A journal with these states.
pub fn write_journal(live: &BTreeMap<Key, Vec<u8>>) -> io::Result<Vec<u8>> {
    crate::journal::write_bytes(live)
}

/// A ceremony's records, if each can be read, and how much of the file is whole.
pub fn records(bytes: &[u8]) -> (Option<Vec<Record>>, usize) {
    crate::dkg::parse_records(bytes)
}

/// A cluster's setup as the page hands it in, or what is wrong with it.
pub fn cluster_setup(bytes: &[u8]) -> Result<ClusterSetup, String> {
    crate::control::parse_setup(bytes)
}

/// What the settings file says about the cluster with this lock, if it can be read and says something.
pub fn settings(bytes: &[u8], lock: &serde_json::Value) -> Option<FoundSettings> {
    crate::settings::read(bytes, lock).ok().flatten()
}

/// The settings file with this in it; none when nothing is set.
pub fn write_settings(settings: &Settings, lock: &serde_json::Value) -> Option<Vec<u8>> {
    crate::settings::write(settings, lock, None)
}

/// A setup that was read, checked: who takes part and with which keys.
pub fn membership(setup: &ClusterSetup, networks: &[Network]) -> Option<Membership> {
    crate::setup::verify(setup, networks).ok()
}
