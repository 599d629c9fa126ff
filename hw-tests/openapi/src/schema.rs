//! Whether a value is what a schema says.

use serde_json::{Map, Value};

use crate::{Document, Part};

/// Nobody's documents go deeper; a schema that names itself would.
const MAX_DEPTH: usize = 64;
/// Keywords that say nothing about a value.
const WORDS: &[&str] = &[
    "$ref",
    "title",
    "description",
    "example",
    "examples",
    "deprecated",
    "default",
    "format",
    "externalDocs",
    "summary",
    // Says where to look first among the parts of `oneOf`, which are all looked at.
    "discriminator",
];

impl Document {
    /// Whether `value` fits `schema`; else where it does not, and why.
    pub(crate) fn check(&self, schema: Part<'_>, value: &Value) -> Result<(), String> {
        self.check_at(schema, value, "", 0)
    }

    /// The same for text of a query: a number or a truth is written without quotes there, and a list with commas.
    pub(crate) fn check_text(&self, schema: Part<'_>, text: &str) -> Result<(), String> {
        let mut schema = self.resolve(schema)?;
        if schema.value["type"] == "array" {
            schema = self.member(schema, "items")?.ok_or("a list of nothing is listed")?;
            return text.split(',').try_for_each(|item| self.check_text(schema, item));
        }
        let plain = Value::String(text.to_owned());
        let read = match schema.value["type"].as_str() {
            Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or(plain),
            _ => plain,
        };
        self.check(schema, &read)
    }

    fn check_at(&self, schema: Part<'_>, value: &Value, at: &str, depth: usize) -> Result<(), String> {
        let here = if at.is_empty() { "the whole" } else { at };
        if depth > MAX_DEPTH {
            return Err(format!("{here}: the schema names itself too often"));
        }
        let schema = self.resolve(schema)?;
        let Value::Object(keywords) = schema.value else {
            return Err(format!("{here}: its schema is no object"));
        };
        let inner = |value| Part { file: schema.file, value };
        if value.is_null() && keywords.get("nullable") == Some(&Value::Bool(true)) {
            return Ok(());
        }
        for (keyword, wanted) in keywords {
            let parts = || wanted.as_array().into_iter().flatten().map(inner);
            let fitting =
                || parts().filter(|part| self.check_at(*part, value, at, depth + 1).is_ok()).count();
            match keyword.as_str() {
                "allOf" => parts().try_for_each(|part| self.check_at(part, value, at, depth + 1))?,
                "anyOf" | "oneOf" => {
                    // Published documents say `oneOf` of kinds that hold one another; that one fits is what they mean.
                    if fitting() == 0 {
                        let whys = parts().filter_map(|part| self.check_at(part, value, at, depth + 1).err());
                        let whys: Vec<String> = whys.take(4).collect();
                        return Err(format!("{here} is none of its kinds ({})", whys.join("; ")));
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check_at(inner(wanted), item, &format!("{at}[{index}]"), depth + 1)?;
                    }
                }
                "properties" => {
                    for (name, wanted) in wanted.as_object().into_iter().flatten() {
                        if let Some(member) = value.get(name) {
                            self.check_at(inner(wanted), member, &format!("{at}.{name}"), depth + 1)?;
                        }
                    }
                }
                "additionalProperties" => self.check_others(keywords, inner(wanted), value, at, depth)?,
                other => check_plain(other, wanted, value).map_err(|why| format!("{here} {why}"))?,
            }
        }
        Ok(())
    }

    /// Members that `properties` does not name.
    fn check_others(
        &self,
        keywords: &Map<String, Value>,
        wanted: Part<'_>,
        value: &Value,
        at: &str,
        depth: usize,
    ) -> Result<(), String> {
        let named = keywords.get("properties").and_then(Value::as_object);
        for (name, member) in value.as_object().into_iter().flatten() {
            if named.is_some_and(|named| named.contains_key(name)) {
                continue;
            }
            match wanted.value {
                Value::Bool(true) => {}
                Value::Bool(false) => return Err(format!("{at}.{name} is not listed")),
                Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                    self.check_at(wanted, member, &format!("{at}.{name}"), depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

/// Keywords that hold no schema.
fn check_plain(keyword: &str, wanted: &Value, value: &Value) -> Result<(), String> {
    let text = value.as_str();
    let length = |text: &str| u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    let items = value.as_array().map(|items| u64::try_from(items.len()).unwrap_or(u64::MAX));
    let limit = || wanted.as_u64().ok_or_else(|| format!("has a limit that is no number ({keyword})"));
    let wrong = |bad: bool| if bad { Err(format!("has not the {keyword} {wanted}")) } else { Ok(()) };
    match keyword {
        "type" => {
            let kinds = wanted.as_array().map_or(std::slice::from_ref(wanted), Vec::as_slice);
            let fits = kinds.iter().any(|kind| is(kind, value));
            if fits { Ok(()) } else { Err(format!("is {}, not {wanted}", kind_of(value))) }
        }
        "enum" => wrong(!wanted.as_array().is_some_and(|known| known.contains(value))),
        "const" => wrong(wanted != value),
        "required" => {
            let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            match (value.as_object(), names) {
                (None, _) => Ok(()),
                (Some(object), mut names) => match names.find(|name| !object.contains_key(*name)) {
                    None => Ok(()),
                    Some(name) => Err(format!("has no {name}")),
                },
            }
        }
        "pattern" => match (wanted.as_str(), text) {
            (Some(pattern), Some(text)) => wrong(!matches(pattern, text)?),
            (Some(_), None) => Ok(()),
            (None, _) => Err("has a pattern that is no text".to_owned()),
        },
        "minItems" => limit().and_then(|limit| wrong(items.is_some_and(|items| items < limit))),
        "maxItems" => limit().and_then(|limit| wrong(items.is_some_and(|items| items > limit))),
        "minLength" => limit().and_then(|limit| wrong(text.is_some_and(|text| length(text) < limit))),
        "maxLength" => limit().and_then(|limit| wrong(text.is_some_and(|text| length(text) > limit))),
        "minimum" => wrong(value.as_f64().zip(wanted.as_f64()).is_some_and(|(value, least)| value < least)),
        "maximum" => wrong(value.as_f64().zip(wanted.as_f64()).is_some_and(|(value, most)| value > most)),
        "uniqueItems" => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let twice = items.iter().enumerate().any(|(index, item)| items[..index].contains(item));
            wrong(*wanted == Value::Bool(true) && twice)
        }
        "nullable" => Ok(()),
        word if WORDS.contains(&word) || word.starts_with("x-") => Ok(()),
        unknown => Err(format!("has a schema with a keyword that is not understood: {unknown}")),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("integer") => value.is_u64() || value.is_i64(),
        Some(kind) => kind == kind_of(value),
        None => false,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Nearly all patterns are "so many digits of hexadecimal", with counts that no engine for expressions takes.
fn matches(pattern: &str, text: &str) -> Result<bool, String> {
    if let Some(count) = pattern.strip_prefix("^0x[a-fA-F0-9]{").and_then(|rest| rest.strip_suffix("}$")) {
        let (least, most) = count.split_once(',').map_or((count, Some(count)), |(least, most)| {
            (least, Some(most).filter(|most| !most.is_empty()))
        });
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("has an odd pattern {pattern}"));
        let (least, most) = (number(least)?, most.map(number).transpose()?.unwrap_or(usize::MAX));
        let Some(digits) = text.strip_prefix("0x") else { return Ok(false) };
        return Ok(
            (least..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        );
    }
    let pattern = regex::Regex::new(pattern).map_err(|error| format!("has an odd pattern: {error}"))?;
    Ok(pattern.is_match(text))
}
