//! The desk where the owner's wishes about exits lie: put there by the control socket, picked up by the node.
//!
//! A wish is no permission: the signer gives an exit's signature only when the owner has confirmed it on the signer's own
//! control socket (decision 0200). What is here only says when to ask.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chain::{Epoch, PublicKeyBytes, UnixMillis};
use cluster::exit::{FullExitAnswer, PartialExits};
use ipc::Problem;
use ipc::node::{ExitFiles, WantedExit};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::store::{Store, StoreError};

/// More validators than any cluster has.
const MAX_WISHES: usize = 65_536;
/// Files waiting for the node. The control socket sends them one at a time.
const MAX_FILES: usize = 4;

/// One exit the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The epoch in the message; all members must choose the same.
    pub epoch: Epoch,
    /// When the signer may be asked: the owner's time to cancel is over.
    pub not_before: UnixMillis,
}

/// Partial exits as a file.
#[derive(Debug)]
pub enum ExitFile {
    /// As a member's box gave them out.
    OfMember(PartialExits),
    /// As the Obol API answers.
    OfObolApi(FullExitAnswer),
}

impl ExitFile {
    /// Tells them apart by their members. Nothing in it is believed yet.
    pub fn from_value(value: serde_json::Value) -> Result<Self, Problem> {
        let read = if value.get("signatures").is_some() {
            serde_json::from_value(value).map(Self::OfObolApi)
        } else {
            serde_json::from_value(value).map(Self::OfMember)
        };
        // The parser's own words quote what was sent, which may be another file than its owner thinks.
        read.map_err(|_| {
            invalid("the file is no partial exits: a member of it is missing or not as it should be")
        })
    }
}

/// A file of which a part cannot be used.
pub(crate) fn partly_wrong(members: &str) -> Problem {
    Problem::new(
        "exit_partial_wrong",
        format!(
            "In the file a signature that is not this cluster's stands in the place of {members}. The others were taken."
        ),
        "Ask that member to sign the exit again.",
    )
}

/// A file that cannot be used.
pub(crate) fn invalid(why: &str) -> Problem {
    Problem::new(
        "exit_file_invalid",
        crate::setup::sentence(why),
        "Ask the member who sent it for the file of this cluster.",
    )
}

/// What was handed in, and where to say what became of it.
pub type HandedIn = (ExitFile, oneshot::Sender<Result<(), Problem>>);

/// The desk.
#[derive(Debug)]
pub struct Desk {
    store: Store,
    wishes: Mutex<BTreeMap<PublicKeyBytes, Wish>>,
    handed_in: Mutex<Vec<HandedIn>>,
    files: Mutex<ExitFiles>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// With what was wished before a restart.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        let wishes = match store.load_exit_wishes() {
            // The owner can ask for an exit again. The duties do not wait for that.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "wishes for exits are lost; ask for the exits again");
                store.set_exit_wishes_aside()?;
                BTreeMap::new()
            }
            wishes => wishes?,
        };
        Ok(Self { wishes: Mutex::new(wishes), ..Self::empty(store) })
    }

    /// With no wishes, whatever the disk has.
    pub fn empty(store: Store) -> Self {
        Self {
            store,
            wishes: Mutex::default(),
            handed_in: Mutex::default(),
            files: Mutex::new(ExitFiles::default()),
        }
    }

    /// Notes wishes; durable when it returns.
    pub fn wish(&self, wanted: &[WantedExit]) -> Result<(), Problem> {
        let mut wishes = lock(&self.wishes);
        let mut changed = wishes.clone();
        for exit in wanted {
            let wish = Wish { epoch: Epoch(exit.epoch), not_before: UnixMillis(exit.not_before_ms) };
            changed.insert(key_of(&exit.validator)?, wish);
        }
        if changed.len() > MAX_WISHES {
            return Err(Problem::new(
                "too_many_exits",
                "More exits are asked for than a cluster has validators.",
                "Name only validators of this cluster.",
            ));
        }
        self.store.save_exit_wishes(&changed).map_err(|error| disk(&error))?;
        *wishes = changed;
        Ok(())
    }

    /// Forgets one wish, or all of them.
    pub fn forget(&self, validator: &str) -> Result<(), Problem> {
        let mut wishes = lock(&self.wishes);
        let mut changed = wishes.clone();
        if validator == ipc::owner::ALL_VALIDATORS {
            changed.clear();
        } else {
            changed.remove(&key_of(validator)?);
        }
        self.store.save_exit_wishes(&changed).map_err(|error| disk(&error))?;
        *wishes = changed;
        Ok(())
    }

    /// The wishes now.
    pub fn wishes(&self) -> BTreeMap<PublicKeyBytes, Wish> {
        lock(&self.wishes).clone()
    }

    /// Leaves a file for the node.
    pub fn hand_in(&self, file: ExitFile) -> Result<oneshot::Receiver<Result<(), Problem>>, Problem> {
        let (to, answer) = oneshot::channel();
        let mut waiting = lock(&self.handed_in);
        // Whoever gave up waiting does not keep its place.
        waiting.retain(|(_, to)| !to.is_closed());
        if waiting.len() >= MAX_FILES {
            return Err(Problem::new("busy", "Other files are being checked.", "Try again in a minute."));
        }
        waiting.push((file, to));
        Ok(answer)
    }

    /// What was handed in since the last time.
    pub fn take_handed_in(&self) -> Vec<HandedIn> {
        std::mem::take(&mut *lock(&self.handed_in))
    }

    /// The files as the node has them.
    pub fn files(&self) -> ExitFiles {
        lock(&self.files).clone()
    }

    /// Replaces the files.
    pub fn set_files(&self, files: ExitFiles) {
        *lock(&self.files) = files;
    }
}

fn key_of(text: &str) -> Result<PublicKeyBytes, Problem> {
    text.trim().to_ascii_lowercase().parse().map_err(|_| {
        Problem::new(
            "validator_unknown",
            "This is not the public key of a validator.",
            "Copy the validator's public key from the page: 0x and 96 hex digits.",
        )
    })
}

pub(crate) fn disk(error: &StoreError) -> Problem {
    Problem::new(
        "disk_write_failed",
        crate::setup::sentence(&error.to_string()),
        "Free space on this box's disk, then try again.",
    )
}
