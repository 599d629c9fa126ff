//! Overwrites disks as carefully as it can be done: whether a disk may be overwritten, writing, reading back.
//!
//! `./hearth flash` uses it on a person's machine. The program of the same name runs on a machine that was started from a stick
//! (docs/image.md, "Installing"): it copies the stick's system to a disk that is built in, after the person before the screen
//! has named it. It never runs in a box that is at work, opens no box's disk, and never chooses a disk by itself.

pub mod contents;
pub mod dialogue;
pub mod disk;
mod fat;
pub mod left_in;
pub mod plain_data;
pub mod stick;
pub mod switch;
pub mod table;
pub mod write;

#[cfg(test)]
#[path = "../tests/made_up/mod.rs"]
mod made_up;
