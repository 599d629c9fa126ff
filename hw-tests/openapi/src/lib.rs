//! Holds what our APIs say, and what is said to them, against published OpenAPI documents.
//!
//! A document is a tree of YAML files with relative references. Only what such documents use is understood; a keyword that
//! is not known ends in an error instead of being passed over, so that "it fits" never means "nothing was looked at".
//!
//! For tests only: a document is read from the disk and is no enemy's. What is held against it may be anybody's.

mod schema;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A file or folder of it cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file of it is not YAML.
    #[error("{path} is not YAML: {source}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// It has no `paths`.
    #[error("{0} lists no paths")]
    NoPaths(PathBuf),
}

/// What came of holding something against a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Listed, and as listed.
    Fits,
    /// The document has no such path or no such method on it.
    Unlisted,
    /// The path is listed, this status or this kind of body on it is not.
    UnlistedAnswer,
    /// Listed, and not as listed: where and why.
    Differs(String),
}

/// One document, read whole.
#[derive(Debug)]
pub struct Document {
    root: PathBuf,
    files: BTreeMap<PathBuf, Value>,
}

/// A part of a document: the file it is in, because references are relative to that.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    file: &'a Path,
    value: &'a Value,
}

impl Document {
    /// Reads `root`, such as `…/beacon-node-oapi.yaml`, and every YAML file in its folder and below.
    ///
    /// # Errors
    /// When a file cannot be read or `root` lists no paths.
    pub fn read(root: &Path) -> Result<Self, DocumentError> {
        let mut files = BTreeMap::new();
        read_folder(root.parent().unwrap_or(Path::new(".")), &mut files)?;
        let document = Self { root: flat(root), files };
        if document.files.get(&document.root).is_none_or(|root| !root["paths"].is_object()) {
            return Err(DocumentError::NoPaths(root.to_owned()));
        }
        Ok(document)
    }

    /// Whether `path` (without a query) and `method` are listed.
    pub fn lists(&self, method: &str, path: &str) -> bool {
        matches!(self.operation(method, path), Ok(Some(_)))
    }

    /// Holds an answer in JSON against the document; `body` is `None` when there was none.
    pub fn answer(&self, method: &str, path: &str, status: u16, body: Option<&Value>) -> Verdict {
        self.judge(method, path, |operation| {
            let answers = self.member(operation, "responses")?.ok_or("no answers are listed")?;
            let Some(answer) = self.member(answers, &status.to_string())? else {
                return Ok(Verdict::UnlistedAnswer);
            };
            match (self.member(answer, "content")?, body) {
                (None, None) => Ok(Verdict::Fits),
                (None, Some(_)) => Ok(Verdict::UnlistedAnswer),
                (Some(content), body) => self.json(content, body),
            }
        })
    }

    /// Holds a request against the document: the query's members, and the body in JSON.
    pub fn request(&self, method: &str, path: &str, query: &[(&str, &str)], body: Option<&Value>) -> Verdict {
        self.judge(method, path, |operation| {
            if let Some(parameters) = self.member(operation, "parameters")? {
                for parameter in parameters.value.as_array().into_iter().flatten() {
                    self.parameter(Part { file: parameters.file, value: parameter }, query)?;
                }
            }
            let Some(wanted) = self.member(operation, "requestBody")? else {
                return match body {
                    None => Ok(Verdict::Fits),
                    Some(_) => Err("a body, and none is listed".to_owned()),
                };
            };
            if body.is_none() && wanted.value["required"] != true {
                return Ok(Verdict::Fits);
            }
            let content = self.member(wanted, "content")?.ok_or("a body without content is listed")?;
            self.json(content, body)
        })
    }

    /// Each example in the document that stands in a schema: where and what, and whether it fits.
    pub fn examples(&self) -> Vec<(String, Result<(), String>)> {
        let mut found = Vec::new();
        for (file, value) in &self.files {
            self.collect(Part { file, value }, &mut found);
        }
        found
    }

    fn collect(&self, part: Part<'_>, found: &mut Vec<(String, Result<(), String>)>) {
        let inner = |value| Part { file: part.file, value };
        match part.value {
            Value::Array(items) => items.iter().for_each(|item| self.collect(inner(item), found)),
            Value::Object(members) => {
                members.values().for_each(|member| self.collect(inner(member), found));
                let is_schema = members.contains_key("type") || members.contains_key("$ref");
                if let Some(example) = members.get("example").filter(|_| is_schema) {
                    let file = part
                        .file
                        .strip_prefix(self.root.parent().unwrap_or(Path::new("")))
                        .unwrap_or(part.file);
                    found.push((format!("{}: {example}", file.display()), self.check(part, example)));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn judge<'a>(
        &'a self,
        method: &str,
        path: &str,
        look: impl FnOnce(Part<'a>) -> Result<Verdict, String>,
    ) -> Verdict {
        match self.operation(method, path) {
            Ok(None) => Verdict::Unlisted,
            Ok(Some(operation)) => look(operation).unwrap_or_else(Verdict::Differs),
            Err(why) => Verdict::Differs(why),
        }
    }

    /// The JSON part of a body.
    fn json(&self, content: Part<'_>, body: Option<&Value>) -> Result<Verdict, String> {
        let Some(json) = self.member(content, "application/json")? else {
            return Ok(if body.is_some() { Verdict::UnlistedAnswer } else { Verdict::Fits });
        };
        let schema = self.member(json, "schema")?.ok_or("JSON without a schema is listed")?;
        let body = body.ok_or("no JSON, and some is listed")?;
        self.check(schema, body)?;
        Ok(Verdict::Fits)
    }

    fn parameter(&self, parameter: Part<'_>, query: &[(&str, &str)]) -> Result<(), String> {
        let parameter = self.resolve(parameter)?;
        if parameter.value["in"] != "query" {
            return Ok(());
        }
        let name = parameter.value["name"].as_str().ok_or("a parameter without a name is listed")?;
        let Some((_, text)) = query.iter().find(|(known, _)| *known == name) else {
            return match parameter.value["required"] == true {
                true => Err(format!("the query has no {name}")),
                false => Ok(()),
            };
        };
        let Some(schema) = self.member(parameter, "schema")? else { return Ok(()) };
        self.check_text(schema, text).map_err(|why| format!("{name} in the query: {why}"))
    }

    /// The operation of a method on a path; a literal part of a path goes before one in braces.
    fn operation(&self, method: &str, path: &str) -> Result<Option<Part<'_>>, String> {
        let root = self.part(&self.root)?;
        let Some(paths) = self.member(root, "paths")? else { return Ok(None) };
        let listed = paths.value.as_object().into_iter().flatten();
        let mut fitting: Vec<&String> =
            listed.map(|(known, _)| known).filter(|known| same_path(known, path)).collect();
        fitting.sort_by_key(|known| known.matches('{').count());
        let Some(known) = fitting.first() else { return Ok(None) };
        match self.member(paths, known)? {
            Some(item) => self.member(item, &method.to_ascii_lowercase()),
            None => Ok(None),
        }
    }

    fn part(&self, file: &Path) -> Result<Part<'_>, String> {
        let found = self.files.get_key_value(&flat(file));
        found
            .map(|(file, value)| Part { file, value })
            .ok_or_else(|| format!("there is no {}", file.display()))
    }

    /// A member of an object, with references followed to it and from it.
    fn member<'a>(&'a self, part: Part<'a>, name: &str) -> Result<Option<Part<'a>>, String> {
        let part = self.resolve(part)?;
        let member = part.value.get(name).map(|value| Part { file: part.file, value });
        member.map(|member| self.resolve(member)).transpose()
    }

    /// What a reference stands for; anything else as it is.
    fn resolve<'a>(&'a self, mut part: Part<'a>) -> Result<Part<'a>, String> {
        for _ in 0..16 {
            let Some(reference) = part.value.get("$ref").and_then(Value::as_str) else { return Ok(part) };
            let (file, pointer) = reference.split_once('#').unwrap_or((reference, ""));
            let whole = match file {
                "" => self.part(part.file)?,
                file => self.part(&part.file.parent().unwrap_or(Path::new("")).join(file))?,
            };
            let value = whole.value.pointer(pointer).ok_or_else(|| format!("nothing is at {reference}"))?;
            part = Part { file: whole.file, value };
        }
        Err("references go round in a circle".to_owned())
    }
}

/// The beacon node's API, as [`published`] takes it.
pub const BEACON: &str = "beacon-apis-v4.0.0/beacon-node-oapi.yaml";
/// The keymanager API.
pub const KEYMANAGER: &str = "keymanager-apis/keymanager-oapi.yaml";
/// The remote signing API as Web3Signer has it.
pub const WEB3SIGNER: &str = "web3signer/openapi-specs/eth2/web3signer.yaml";

/// For tests that speak with a server: an answer that the document lists must fit it. Says whether it was looked at; an
/// unlisted status is not, for many servers have more reasons to refuse than are published.
///
/// # Panics
/// When it differs.
pub fn expect_answer(
    name: &'static str,
    method: &str,
    path: &str,
    status: u16,
    body: Option<&Value>,
) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    let Some(document) = published(name) else { return false };
    match document.answer(method, path, status, body) {
        Verdict::Fits => true,
        Verdict::Unlisted | Verdict::UnlistedAnswer => {
            assert!(
                !(200..300).contains(&status) || !document.lists(method, path),
                "{method} {path}: {status} is not listed"
            );
            false
        }
        Verdict::Differs(why) => {
            let body = body.map(ToString::to_string).unwrap_or_default();
            panic!("{method} {path}: {status}: {why}\n{body:.2000}")
        }
    }
}

/// A document below the folder of vectors, `openapi/NAME`; read once. `None` when the vectors are not there, which is said.
///
/// # Panics
/// When the vectors are there and the document cannot be read.
pub fn published(name: &'static str) -> Option<&'static Document> {
    static READ: OnceLock<std::sync::Mutex<BTreeMap<&'static str, Option<&'static Document>>>> =
        OnceLock::new();
    let read = READ.get_or_init(Default::default);
    let mut read = read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *read.entry(name).or_insert_with(|| {
        let vectors = std::env::var_os("HEARTH_VECTORS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
            PathBuf::from,
        );
        let path = vectors.join("openapi").join(name);
        if !path.exists() {
            eprintln!("SKIPPED: there is no {}; set HEARTH_VECTORS to the folder of vectors", path.display());
            return None;
        }
        // Kept for the whole test run, of which it is the only reader.
        Some(Box::leak(Box::new(Document::read(&path).unwrap_or_else(|why| panic!("{why}")))))
    })
}

fn read_folder(folder: &Path, files: &mut BTreeMap<PathBuf, Value>) -> Result<(), DocumentError> {
    let file = |source| DocumentError::File { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(file)? {
        let path = entry.map_err(file)?.path();
        if path.is_dir() {
            read_folder(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| DocumentError::File { path: path.clone(), source })?;
            let value = serde_yaml_ng::from_str(&text)
                .map_err(|source| DocumentError::Yaml { path: path.clone(), source })?;
            files.insert(flat(&path), value);
        }
    }
    Ok(())
}

/// A path without `.` and `..`, by its words alone.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                flat.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => flat.push(part),
        }
    }
    flat
}

fn same_path(listed: &str, path: &str) -> bool {
    let (listed, path) = (listed.split('/'), path.split('/'));
    listed.clone().count() == path.clone().count()
        && listed.zip(path).all(|(listed, part)| {
            listed == part || (listed.starts_with('{') && listed.ends_with('}') && !part.is_empty())
        })
}

#[cfg(test)]
mod tests;
