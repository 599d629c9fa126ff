//! The two sockets.

pub(crate) mod control;
pub(crate) mod moving;
pub(crate) mod sign;
