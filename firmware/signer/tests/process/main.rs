//! The signer as a process: real sockets, a real (software) TPM, real crashes.

#![expect(clippy::unwrap_used, reason = "a test may fail this way")]

mod attach;
mod carried;
mod ceremony;
mod clock;
mod crash;
mod edit;
mod elsewhere;
mod folder;
mod harness;
mod identities;
mod import;
mod keymanager;
mod many;
mod moving;
mod owner;
mod passphrase;
mod recorded;
mod remote;
mod rollback;
mod sealing;
mod signing;
mod ssv;
