//! One workflow for every duty of a distributed validator: schedule → fetch → agree → sign → collect → combine → publish,
//! and in the end exactly one outcome.
//!
//! A plain state machine that holds one `qbft` instance per duty. It opens no socket, reads no clock, holds no key and
//! signs nothing; what it wants done is an [`Output`], done in order by `dv-node` (or by `sim`, which breaks everything
//! around it). It knows nothing of Obol, SSV or pools: a [`Network`] says who proposes and what a value means, and the
//! kinds of duties are rows of one table ([`Row`]).

mod agree;
mod collect;
mod engine;
mod guard;
mod kind;
mod needs;
mod network;
mod outcome;
mod publish;
mod refusal;
mod retry;
mod schedule;
mod sign;
mod values;
mod why;
mod work;

pub use collect::Partial;
pub use engine::{Clock, Engine, Event, FetchError, Output, PublishError, Saved, Settings, SignError};
pub use guard::UnknownView;
pub use kind::{
    Agreement, Deadline, Duty, DutyKind, Input, Join, Publication, ROWS, Row, SlotShare, Trigger,
    UnknownKind, Who,
};
pub use network::{Given, Known, Network, Payload, Task, TaskId, Unreadable, Value, Vote};
pub use outcome::{Component, Outcome, Reason, Record};
pub use publish::{Aggregate, CombineJob};
pub use qbft::{Digest, Member};
pub use refusal::Refusal;

/// Agreement messages and sets of partial signatures that wait for a duty which has not begun here.
pub const MAX_WAITING: usize = 100;

/// Distinct proposed values one member may introduce per duty. Honest members name one per round they lead at most.
pub const MAX_VALUES_PER_MEMBER: usize = 8;

/// Bytes of proposed values one member may introduce per duty, apart from blocks.
pub const MAX_VALUE_BYTES_PER_MEMBER: usize = 4 << 20;

/// Bytes of proposed blocks one member may introduce per proposal: as many as one message may carry. A block with all its
/// blobs has three megabytes and may come as hex, and whoever hears of it before its proposal is charged for it.
pub const MAX_BLOCK_BYTES_PER_MEMBER: usize = 16 << 20;

/// Bytes of proposed values that all duties together keep for one member: proposals last less than a slot, so an honest
/// member has one or two of them here.
pub const MAX_VALUE_BYTES_PER_MEMBER_IN_ALL: usize = 48 << 20;

/// Messages of one duty that one member may partially sign; more validators than one box can serve.
pub const MAX_TASKS: usize = 4096;

/// Duties that one member may speak of although we have not scheduled them, apart from the selections below.
pub const MAX_UNSCHEDULED_PER_MEMBER: usize = 64;

/// Epochs for which one member may tell the selections of every slot before we schedule them. Some validator clients send
/// those of a whole epoch when it begins, and those of the next one shortly before.
pub const MAX_UNSCHEDULED_SELECTION_EPOCHS: u64 = 3;

/// Partial signatures that one member may have waiting here for duties we have not scheduled: a few megabytes.
pub const MAX_UNSCHEDULED_PARTIALS_PER_MEMBER: usize = 8192;

/// Bytes that the partial signatures of one member may fill here, all duties together. What two members sign alike is kept,
/// and counted, once. A thousand validators need a tenth of it, a block with all its blobs a quarter.
pub const MAX_PARTIAL_BYTES_PER_MEMBER: usize = 32 << 20;

/// Duties scheduled at once: every kind of duty in each slot of four mainnet epochs.
pub const MAX_SCHEDULED: usize = 2048;

/// Duties of one kind that never expire; the oldest makes room.
pub const MAX_WITHOUT_DEADLINE: usize = 10;

/// How far in the future a duty may lie.
pub const MAX_EPOCHS_AHEAD: u64 = 2;
