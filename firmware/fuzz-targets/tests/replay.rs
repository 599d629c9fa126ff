//! Every committed input, and every seed as it is made now, through its target: without the fuzzer, on every test run.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::alloc::System;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cap::Cap;
use fuzz_targets::{MEMORY_BASE, MEMORY_PER_BYTE, Target, Verdict, target, targets};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// Runs an input with the memory that an input of its length may take, and in a time that no parser needs.
fn run(target: &Target, name: &str, input: &[u8]) -> Verdict {
    let limit = ALLOCATOR.allocated() + MEMORY_BASE + MEMORY_PER_BYTE * input.len();
    ALLOCATOR.set_limit(limit).unwrap();
    let begun = Instant::now();
    let verdict = target.run(input);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{}/{name} took {:?}", target.name, begun.elapsed());
    verdict
}

/// One test, so that memory is counted for one input at a time.
#[test]
fn every_input_of_the_corpus_is_read_or_refused_and_each_parser_takes_some() {
    let mut inputs = 0;
    for target in targets() {
        let mut taken = BTreeSet::new();
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            assert!(
                seed.len() <= target.max_bytes,
                "{}: seed {number} has {} bytes",
                target.name,
                seed.len()
            );
            if run(&target, &format!("seed {number}"), seed) == Verdict::Taken {
                taken.insert(number);
            }
        }
        // Some seeds are there for what is refused; a target that takes none reaches nothing.
        assert!(
            2 * taken.len() >= seeds.len(),
            "{}: of {} seeds only {taken:?} are taken",
            target.name,
            seeds.len()
        );
        let folder = corpus().join(target.name);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut found = 0;
        for file in files {
            let path = file.unwrap().path();
            run(&target, &path.display().to_string(), &std::fs::read(&path).unwrap());
            found += 1;
        }
        assert!(found > 0, "{} is empty; cargo run -p fuzz-targets --example seeds", folder.display());
        inputs += found;
    }
    println!("{inputs} inputs of {} targets", targets().len());
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target_and_names_are_plain() {
    let names: BTreeSet<&str> = targets().iter().map(|target| target.name).collect();
    assert_eq!(names.len(), targets().len(), "two targets have one name");
    for name in &names {
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
        assert!(target(name).is_some());
    }
    for folder in std::fs::read_dir(corpus()).unwrap() {
        let name = folder.unwrap().file_name().to_string_lossy().into_owned();
        assert!(names.contains(name.as_str()), "fuzz/corpus/{name} belongs to no target");
    }
}
