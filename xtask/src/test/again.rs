//! Which failed tests are tried a second time: those that waited in vain (decision 0370).
//!
//! A test that starts processes and talks to them waits for what they do, at most so long; on a machine that is busy
//! with something else the wait can end before they were done. Such a test says `in vain: ` and what it waited for, and is
//! tried once more, alone and loudly. Whatever else a test finds, above all that something was signed which must not be, is
//! final the first time.

/// What the message of such a failure begins with.
const IN_VAIN: &str = "in vain: ";
/// The same where `hw-tests` waited and gives an error: what did not come on a page, who opened no socket, whom nobody reached, and
/// a screen that showed no code. How long each is waited for stands there.
const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";
const WAITS_THAT_ENDED: [&str; 4] = ["Missing {", "Silent {", "Page(Unreachable {", "NoCode"];
/// The message of a panic that a test makes on purpose, to see who survives it.
const ON_PURPOSE: &str = "as the test told it";
/// Second tries in one run. More are no accident.
pub(super) const AT_MOST: usize = 4;

/// The tests that failed, if every one of them only waited in vain.
pub(super) fn worth_another_try(output: &str) -> Option<Vec<String>> {
    let names = failed(output);
    let all = !names.is_empty() && names.iter().all(|name| said_in_vain(output, name));
    all.then_some(names)
}

/// The names in the last list of failures, which a test executable ends with.
fn failed(output: &str) -> Vec<String> {
    let Some((_, list)) = output.rsplit_once("\nfailures:\n") else { return Vec::new() };
    list.lines().map_while(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// Whether every panic in what this test said was a wait that ended, or one that the test itself made for others to survive. One
/// in another thread, as of the tests' signer, may be why its own thread waited in vain.
fn said_in_vain(output: &str, name: &str) -> bool {
    let heading = format!("\n---- {name} stdout ----\n");
    let Some((_, section)) = output.rsplit_once(&heading) else { return false };
    let section = section.split_once("\n---- ").map_or(section, |(section, _)| section);
    let section = section.split_once("\nfailures:\n").map_or(section, |(section, _)| section);
    let lines = || section.lines();
    let is_panic = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
    let messages: Vec<&str> =
        lines().zip(lines().skip(1)).filter(|(line, _)| is_panic(line)).map(|(_, message)| message).collect();
    messages.iter().any(|message| is_wait(message))
        && messages.iter().all(|message| is_wait(message) || *message == ON_PURPOSE)
}

fn is_wait(message: &str) -> bool {
    let unwrapped = message.strip_prefix(UNWRAPPED);
    message.starts_with(IN_VAIN)
        || unwrapped.is_some_and(|error| WAITS_THAT_ENDED.iter().any(|wait| error.starts_with(wait)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(first: &str, second: &str) -> String {
        format!(
            "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... FAILED\n\nsuccesses:\n\nsuccesses:\n    a\n\nfailures:\n\n\
             ---- b::c stdout ----\n\nthread 'other' (3) panicked at x.rs:1:2:\nas the test told it\n\nthread 'b::c' (7) panicked at house/mod.rs:691:9:\n{first}\nstack backtrace:\n\n\
             ---- d stdout ----\n\nthread 'main' (9) panicked at y.rs:3:4:\n{second}\n\n\nfailures:\n    b::c\n    d\n\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.0s\n"
        )
    }

    #[test]
    fn only_waits_are_tried_again_and_only_if_all_were() {
        let both = output("in vain: an attestation is published", "in vain: both are connected");
        assert_eq!(worth_another_try(&both), Some(vec!["b::c".to_owned(), "d".to_owned()]));
        let one = output("in vain: an attestation is published", "refused by the signer: [\"double vote\"]");
        assert_eq!(worth_another_try(&one), None);
        let of_another = both.replace("as the test told it", "the root asked for is another one");
        assert_eq!(worth_another_try(&of_another), None, "another thread's panic may be why it waited");
        let unwrapped = "called `Result::unwrap()` on an `Err` value: ";
        let missing = output("in vain: a", &format!("{unwrapped}Missing {{ what: \"a\", text: \"b\" }}"));
        assert_eq!(worth_another_try(&missing).unwrap().len(), 2);
        let refused = output("in vain: a", &format!("{unwrapped}Refused(\"Missing {{\")"));
        assert_eq!(worth_another_try(&refused), None);
        let quoted = output("left: \"in vain: nothing\"", "in vain: x");
        assert_eq!(worth_another_try(&quoted), None);
    }

    #[test]
    fn what_ended_without_a_list_is_not_tried_again() {
        assert_eq!(worth_another_try(""), None);
        assert_eq!(worth_another_try("running 1 test\nmemory allocation failed"), None);
        // A test that a signal ended is in no list, and neither are those that never ran.
        let cut = output("in vain: a", "in vain: b").replace("\nfailures:\n    b::c\n    d\n", "");
        assert_eq!(worth_another_try(&cut), None);
    }
}
