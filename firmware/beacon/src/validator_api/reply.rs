//! Answers and refusals, and which form a client wants them in.

use bytes::Bytes;
use serde::Serialize;

use crate::http::{JSON, SSZ};

/// A refusal, as the beacon API words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For a person.
    pub message: String,
    /// Items of a list that were refused, by position. The others were taken.
    pub failures: Vec<(usize, String)>,
}

impl ApiError {
    /// Any status.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), failures: Vec::new() }
    }

    /// The client's mistake.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// A body of a kind or form that is not read.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(415, message)
    }

    /// Some items of a list were refused.
    pub fn failures(failures: Vec<(usize, String)>) -> Self {
        Self { failures, ..Self::bad("One or more messages failed validation") }
    }

    /// The JSON form.
    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Failure<'a> {
            index: usize,
            message: &'a str,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            code: u16,
            message: &'a str,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            failures: Vec<Failure<'a>>,
        }
        let failures = self.failures.iter().map(|(index, message)| Failure { index: *index, message });
        let body = Body { code: self.status, message: &self.message, failures: failures.collect() };
        crate::ask::encode(&body)
    }
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Beside the content type.
    pub headers: Vec<(&'static str, String)>,
    /// Of what kind the body is; nothing for an empty one.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// 'Taken', without a body.
    pub fn empty() -> Self {
        Self { headers: Vec::new(), content_type: None, body: Bytes::new() }
    }

    /// JSON.
    pub fn json(value: &impl Serialize) -> Self {
        Self { headers: Vec::new(), content_type: Some(JSON), body: crate::ask::encode(value).into() }
    }

    /// SSZ.
    pub fn ssz(bytes: Vec<u8>) -> Self {
        Self { headers: Vec::new(), content_type: Some(SSZ), body: bytes.into() }
    }

    /// With one header more.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Forms of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// SSZ.
    Ssz,
}

/// The form that an `Accept` header prefers; JSON among equals and when nothing is said.
pub fn accepted(accept: Option<&str>) -> Form {
    let weight = |media: &str| {
        let found = accept.unwrap_or_default().split(',').take(32).find_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            if !parts.next()?.eq_ignore_ascii_case(media) {
                return None;
            }
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            quality.filter(|quality: &f32| (0.0..=1.0).contains(quality))
        });
        found.unwrap_or(0.0)
    };
    if weight(SSZ) > weight(JSON) { Form::Ssz } else { Form::Json }
}

/// The form of a request's body; JSON when nothing is said.
pub fn content_form(content_type: Option<&str>) -> Result<Form, ApiError> {
    let Some(text) = content_type else { return Ok(Form::Json) };
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        JSON | "" => Ok(Form::Json),
        SSZ => Ok(Form::Ssz),
        _ => Err(ApiError::unsupported(format!("unsupported media type {media:.60}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_form_they_prefer() {
        for (accept, expected) in [
            (None, Form::Json),
            (Some("*/*"), Form::Json),
            (Some("application/json"), Form::Json),
            (Some("application/octet-stream"), Form::Ssz),
            (Some("application/octet-stream;q=1,application/json;q=0.9"), Form::Ssz),
            (Some("application/json;q=1,application/octet-stream;q=0.9"), Form::Json),
            (Some("application/octet-stream;q=1.0, application/json;q=0.9"), Form::Ssz),
            (Some("application/octet-stream;q=x"), Form::Json),
            (Some(",,;q=,"), Form::Json),
        ] {
            assert_eq!(accepted(accept), expected, "{accept:?}");
        }
        assert_eq!(content_form(Some("application/json; charset=utf-8")), Ok(Form::Json));
        assert_eq!(content_form(None), Ok(Form::Json));
        assert_eq!(content_form(Some("text/plain")).unwrap_err().status, 415);
    }

    #[test]
    fn refusals_have_the_form_of_the_beacon_api() {
        let body = String::from_utf8(ApiError::bad("no").body()).unwrap();
        assert_eq!(body, r#"{"code":400,"message":"no"}"#);
        let body = String::from_utf8(ApiError::failures(vec![(3, "bad".to_owned())]).body()).unwrap();
        assert!(body.ends_with(r#""failures":[{"index":3,"message":"bad"}]}"#), "{body}");
    }
}
