//! The two sockets.

pub(crate) mod control;
pub(crate) mod sign;
