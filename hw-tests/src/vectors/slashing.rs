//! `slashing-protection`: imports of EIP-3076 files, and what may be signed after them.

use super::report::{Report, files, label, list, read_as, read_json, text};
use chain::{Epoch, PublicKeyBytes, Root, Slot};
use serde_json::Value;
use slashing::{AttestationVote, BlockProposal, Interchange, Protection, Retention};
use std::path::Path;

/// Every file three times: against a store that keeps everything, one that keeps watermarks only, and with the import of the
/// box, which may refuse more than is expected and must never allow what is not.
pub fn run(folder: &Path) -> Report {
    let generated = folder.join("generated");
    let folder = if generated.is_dir() { generated.as_path() } else { folder };
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let case = match read_json(&file) {
            Ok(case) if case.get("steps").is_some() => case,
            Ok(_) => continue, // A schema or an example of the format.
            Err(why) => {
                report.case(name, Err(why));
                continue;
            }
        };
        let complete = check(&case, Retention::Complete, Importing::ByTheLetter);
        let minimal = check(&case, Retention::Watermark, Importing::ByTheLetter);
        let strict = check(&case, Retention::Complete, Importing::AsTheBox);
        let result = complete
            .map_err(|why| format!("complete history: {why}"))
            .and(minimal.map_err(|why| format!("watermarks: {why}")))
            .and(strict.map_err(|why| format!("as the box imports: {why}")));
        report.case(name, result);
    }
    report
}

/// Which import is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Importing {
    /// As EIP-3076 has it.
    ByTheLetter,
    /// As the signer does it: nothing is allowed afterwards that was refused before.
    AsTheBox,
}

fn check(case: &Value, retention: Retention, importing: Importing) -> Result<(), String> {
    let expectation = match retention {
        Retention::Complete => "should_succeed_complete",
        Retention::Watermark => "should_succeed",
    };
    let expect = |value: &Value, found: bool| match importing {
        Importing::AsTheBox if !found => Ok(()),
        Importing::ByTheLetter | Importing::AsTheBox => expect(value, expectation, found),
    };
    let root: Root = read_as(case, "genesis_validators_root")?;
    let mut protection = Protection::new(root, retention);
    for (number, step) in list(case, "steps")?.iter().enumerate() {
        let at = |why: String| format!("step {number}: {why}");
        let must_import = flag(step, "should_succeed").map_err(at)?;
        let may_refuse = flag(step, "contains_slashable_data").map_err(at)?;
        let imported = import(&mut protection, step, importing);
        match (imported, must_import) {
            (Ok(()), true) => {}
            (Ok(()), false) => return Err(at("the import was accepted".to_owned())),
            (Err(_), false) => continue,
            (Err(_), true) if may_refuse => return Ok(()),
            (Err(why), true) => return Err(at(why)),
        }
        for (place, block) in list(step, "blocks").map_err(at)?.iter().enumerate() {
            let found = sign_block(&mut protection, block).map_err(at)?;
            expect(block, found).map_err(|why| at(format!("block {place}: {why}")))?;
        }
        for (place, attestation) in list(step, "attestations").map_err(at)?.iter().enumerate() {
            let found = sign_attestation(&mut protection, attestation).map_err(at)?;
            expect(attestation, found).map_err(|why| at(format!("attestation {place}: {why}")))?;
        }
    }
    Ok(())
}

fn import(protection: &mut Protection, step: &Value, importing: Importing) -> Result<(), String> {
    let file = step.get("interchange").ok_or("no interchange")?;
    let bytes = serde_json::to_vec(file).map_err(|error| error.to_string())?;
    let interchange =
        Interchange::parse(&bytes, protection.genesis_validators_root()).map_err(|e| e.to_string())?;
    let imported = match importing {
        Importing::ByTheLetter => protection.import(&interchange),
        Importing::AsTheBox => protection.adopt(&interchange),
    };
    imported.map(|_| ()).map_err(|error| error.to_string())
}

fn sign_block(protection: &mut Protection, block: &Value) -> Result<bool, String> {
    let key = known_key(protection, block)?;
    let slot: Slot = read_as(block, "slot")?;
    let proposal = BlockProposal { slot, signing_root: signing_root(block)? };
    match protection.check_block(&key, &proposal) {
        Ok(permit) => protection.record_block(permit).map(|_| true).map_err(|error| error.to_string()),
        Err(_) => Ok(false),
    }
}

fn sign_attestation(protection: &mut Protection, attestation: &Value) -> Result<bool, String> {
    let key = known_key(protection, attestation)?;
    let source: Epoch = read_as(attestation, "source_epoch")?;
    let target: Epoch = read_as(attestation, "target_epoch")?;
    let vote = AttestationVote { source, target, signing_root: signing_root(attestation)? };
    match protection.check_attestation(&key, &vote) {
        Ok(permit) => protection.record_attestation(permit).map(|_| true).map_err(|error| error.to_string()),
        Err(_) => Ok(false),
    }
}

/// A test may sign with a key its files say nothing about; that is a new key.
fn known_key(protection: &mut Protection, value: &Value) -> Result<PublicKeyBytes, String> {
    let key: PublicKeyBytes = read_as(value, "pubkey")?;
    if protection.history(&key).is_none() {
        protection.declare_never_signed(key).map_err(|error| error.to_string())?;
    }
    Ok(key)
}

fn signing_root(value: &Value) -> Result<Root, String> {
    match value.get("signing_root") {
        Some(Value::Null) | None => Ok(Root::ZERO),
        Some(_) => read_as(value, "signing_root"),
    }
}

fn flag(value: &Value, field: &str) -> Result<bool, String> {
    value.get(field).and_then(Value::as_bool).ok_or_else(|| format!("field `{field}` is missing"))
}

/// Older files have one expectation for both kinds of store.
fn expect(value: &Value, field: &str, found: bool) -> Result<(), String> {
    let field = if value.get(field).is_some() { field } else { "should_succeed" };
    let expected = flag(value, field)?;
    if found == expected {
        return Ok(());
    }
    let what = text(value, "slot").or_else(|_| text(value, "target_epoch")).unwrap_or("?");
    Err(format!("at {what}: signing allowed is {found}, expected {expected}"))
}
