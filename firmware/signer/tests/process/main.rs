//! The signer as a process: real sockets, a real (software) TPM, real crashes.

mod crash;
mod harness;
mod import;
mod sealing;
mod signing;
