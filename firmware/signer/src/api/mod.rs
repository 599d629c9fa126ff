//! The two sockets.

pub(crate) mod control;
mod moving;
pub(crate) mod sign;
