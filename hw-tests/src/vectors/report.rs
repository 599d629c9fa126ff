//! What came out of running one set of cases, and how cases are found and read.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Reasons kept per set; the rest is counted.
const MAX_REASONS: usize = 20;
/// Larger files are not conformance cases (the largest known has 2.5 MB).
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Folders nested deeper than this are not walked.
const MAX_DEPTH: usize = 12;

/// Counts and reasons of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases with the expected result.
    pub passed: u64,
    /// Cases with another result.
    pub failed: u64,
    /// Cases nobody ran.
    pub skipped: u64,
    /// Why cases failed or were skipped; the first few.
    pub why: Vec<String>,
}

impl Report {
    /// Counts a case by its result.
    pub fn case(&mut self, name: impl AsRef<str>, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => {
                self.failed += 1;
                self.reason(format!("{}: {why}", name.as_ref()));
            }
        }
    }

    /// Counts cases that were not run. The same reason is kept once.
    pub fn skip(&mut self, count: u64, why: &str) {
        self.skipped += count;
        if count > 0 && !self.why.iter().any(|known| known == why) {
            self.reason(why.to_owned());
        }
    }

    /// A set that nobody runs.
    pub fn skipped(count: u64, why: &str) -> Self {
        let mut report = Self::default();
        report.skip(count, why);
        report
    }

    fn reason(&mut self, why: String) {
        if self.why.len() < MAX_REASONS {
            self.why.push(why);
        }
    }
}

/// Runs `check` on every `.json` file below a folder.
pub fn json_cases(folder: &Path, check: impl Fn(&Value) -> Result<(), String>) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let result = read_json(&file).and_then(|case| check(&case));
        report.case(label(folder, &file), result);
    }
    report
}

/// All files below a folder whose name ends in `.extension`, in order of their path.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten().map(|entry| entry.path()) {
            if entry.is_dir() && depth < MAX_DEPTH {
                waiting.push((entry, depth + 1));
            } else if entry.is_file() && entry.extension().is_some_and(|found| found == extension) {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

/// The path of a case as the report names it.
pub fn label(folder: &Path, file: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).display().to_string()
}

/// Reads a file that is not absurdly large.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
    }
    fs::read(file).map_err(|error| format!("cannot be read: {error}"))
}

/// Reads a JSON file.
pub fn read_json(file: &Path) -> Result<Value, String> {
    serde_json::from_slice(&read(file)?).map_err(|error| format!("is not JSON: {error}"))
}

/// The text of a field.
pub fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    value.get(field).and_then(Value::as_str).ok_or_else(|| format!("field `{field}` is missing or no text"))
}

/// The list in a field.
pub fn list<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], String> {
    value
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .ok_or_else(|| format!("field `{field}` is missing or no list"))
}

/// A field read into a type.
pub fn read_as<T: serde::de::DeserializeOwned>(value: &Value, field: &str) -> Result<T, String> {
    let inner = value.get(field).ok_or_else(|| format!("field `{field}` is missing"))?;
    serde_json::from_value(inner.clone()).map_err(|error| format!("field `{field}`: {error}"))
}

/// Bytes of hex with or without `0x`.
pub fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
        .map_err(|error| format!("`{text}` is not hex: {error}"))
}

/// The bytes in a field of hex.
pub fn hex_field(value: &Value, field: &str) -> Result<Vec<u8>, String> {
    bytes_of(text(value, field)?)
}

/// Fails with both values when they differ.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, expected {expected:?}")) }
}
