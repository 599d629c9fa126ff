//! Whole clusters in one thread: n members with the real `duty`, `qbft` and `slashing`, and everything around them broken.
//!
//! Time is virtual and every accident comes from one seed, so a seed and a commit replay a run exactly. After every step the
//! run is checked: members never agree on two things, an honest signer never signs two conflicting messages, no slashable
//! group signature can be put together, every duty ends with exactly one outcome, and once the accidents stop, duties get
//! done. Developers and the tests call this; nothing that ships does.

mod byzantine;
mod check;
mod crypto;
mod member;
mod messages;
mod run;
mod send;
mod signer;
mod values;
mod world;

pub use run::{Report, run, run_with_log};
pub use world::{Crypto, Journals, Ledger, World};
