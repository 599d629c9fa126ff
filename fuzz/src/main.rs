//! One program for all targets: `fuzz --target=NAME` and libFuzzer's own arguments.
//!
//! libFuzzer passes over arguments that begin with two dashes, so one build serves every target. Each input gets the memory
//! that an input of its length may take; what wants more ends the run, as a panic does.
#![no_main]

use std::alloc::System;
use std::sync::LazyLock;

use cap::Cap;
use fuzz_targets::{MEMORY_BASE, MEMORY_PER_BYTE, Target};
use libfuzzer_sys::{Corpus, fuzz_target};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::args().find_map(|argument| argument.strip_prefix("--target=").map(str::to_owned));
    let target = name.as_deref().and_then(fuzz_targets::target);
    let target = target.unwrap_or_else(|| panic!("name a target: --target=NAME; ./hearth fuzz does it"));
    // What it sets up once belongs to no input.
    for seed in target.seeds() {
        target.run(&seed);
    }
    target
});

fuzz_target!(|input: &[u8]| -> Corpus {
    let target = &*TARGET;
    if input.len() > target.max_bytes {
        return Corpus::Reject;
    }
    let limit = ALLOCATOR.allocated() + MEMORY_BASE + MEMORY_PER_BYTE * input.len();
    ALLOCATOR.set_limit(limit).expect("more is allowed than is taken");
    target.run(input);
    ALLOCATOR.set_limit(usize::MAX).expect("everything is allowed");
    Corpus::Keep
});
