//! The secret half of key generation: shares that are born here and never were anywhere else.
//!
//! The owner begins a ceremony on the control socket; `dv-node` carries messages on the signing socket. Whatever it asks,
//! in whatever order, it gets: what every member gets to see anyway, the shares that the protocol sends to others (sealed
//! to their signers, unless the owner said that a member's software cannot), and signatures over what this signer works out
//! itself. Never this member's own share, and never anything for a second set of messages (decisions 0170 to 0173).

mod api;
mod rounds;
mod state;

pub(crate) use api::{control_routes, sign_routes};
pub(crate) use state::{Ceremonies, is_sound};
