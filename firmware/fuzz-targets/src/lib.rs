//! Every parser of outside bytes as a named function on bytes, with inputs that its own encoder makes.
//!
//! The fuzzer (`fuzz/`, started by `./hearth fuzz`) feeds these functions whatever it thinks of; `./hearth test` feeds them
//! the seeds and every input that once was a finding (`fuzz/corpus`). A target asserts the rule that belongs to its parser:
//! what was read is written and read the same, a bound holds, an import never loosens, no combined signature is wrong.
//! It never runs on the box, and nobody calls it but those two.

mod beacon_api;
mod disks;
mod dkg;
mod documents;
mod exits;
mod kept;
mod key_shares;
mod keymanager;
mod local;
mod moving;
mod network;
mod node;
mod passphrase;
mod ssv;
mod ssz_forms;
mod wire;
mod world;

/// Memory that any input may take: what a target sets up for itself, and a little more.
pub const MEMORY_BASE: usize = 48 << 20;
/// Memory that one byte of an input may stand for: two bytes on the wire can be a hundred in memory.
pub const MEMORY_PER_BYTE: usize = 1024;

/// What a parser said to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was read, and every rule held.
    Taken,
    /// It was refused, as most bytes are.
    Refused,
}

impl Verdict {
    fn of<T>(read: Option<T>) -> Self {
        if read.is_some() { Self::Taken } else { Self::Refused }
    }

    fn or(self, other: Self) -> Self {
        if self == Self::Taken { self } else { other }
    }
}

/// One parser, or a few that read the same kind of bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// As it is named on the command line and in `fuzz/corpus`.
    pub name: &'static str,
    /// What is read, from whom, and what is asserted.
    pub about: &'static str,
    /// The longest input worth trying.
    pub max_bytes: usize,
    run: fn(&[u8]) -> Verdict,
    seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Reads an input; panics where a rule is broken.
    pub fn run(&self, input: &[u8]) -> Verdict {
        (self.run)(input)
    }

    /// Inputs that the parser takes, made by our own encoders; the same each time.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

/// Every target, in the order in which they run.
pub fn targets() -> Vec<Target> {
    [
        wire::TARGETS,
        dkg::TARGETS,
        ssz_forms::TARGETS,
        documents::TARGETS,
        exits::TARGETS,
        key_shares::TARGETS,
        keymanager::TARGETS,
        moving::TARGETS,
        ssv::TARGETS,
        passphrase::TARGETS,
        kept::TARGETS,
        beacon_api::TARGETS,
        network::TARGETS,
        node::TARGETS,
        local::TARGETS,
        disks::TARGETS,
    ]
    .concat()
}

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    targets().into_iter().find(|target| target.name == name)
}

/// The first byte of an input chooses among `count` ways to read the rest.
fn choose(input: &[u8], count: u8) -> Option<(u8, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((first % count, rest))
}

/// An input that begins with the byte that chooses.
fn chosen(choice: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[choice][..], rest.as_ref()].concat()
}
