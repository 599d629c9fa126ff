//! Boots things for tests and for `./hearth run`: a local chain of real parts, the image in QEMU, a software TPM.
//!
//! Everything it starts ends with the process that asked for it, even when that is killed. It must never be linked into
//! anything that runs on the box. Called by `xtask` and by the integration tests here.

pub mod board;
pub mod browser;
pub mod ceremony;
pub mod charon;
pub mod client_manners;
pub mod devnet;
pub mod gpt;
pub mod image;
pub mod join;
pub mod member;
pub mod page;
pub mod ports;
pub mod process;
pub mod remote_signer;
pub mod secrets;
pub mod stock_client;
pub mod swtpm;
pub mod units;
pub mod vectors;
pub mod vm;
pub mod watched;
