//! How quickly an address answers, for the checks before a box joins a cluster. Everything is bounded in size and time.

use std::time::{Duration, Instant};

use crate::error::ConfigError;
use crate::http::{Endpoint, Limits};

/// The most that one answer may be.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// One address to be measured.
#[derive(Debug, Clone)]
pub struct Probe {
    endpoint: Endpoint,
}

/// One measured answer.
#[derive(Debug, Clone)]
pub struct Probed {
    /// From the question to the whole answer.
    pub took: Duration,
    /// The answer.
    pub body: Vec<u8>,
}

impl Probe {
    /// An `http` or `https` address.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        Ok(Self { endpoint: Endpoint::new(url)? })
    }

    /// The address without user name and password.
    pub fn name(&self) -> &str {
        self.endpoint.name()
    }

    /// Asks once for bytes of any kind. The error is for a person.
    pub async fn get(&self, path: &str, within: Duration) -> Result<Probed, String> {
        let begun = Instant::now();
        let answer = self.endpoint.get_ssz("measuring", path, limits(within)).await;
        answer
            .map(|answer| Probed { took: begun.elapsed(), body: answer.body })
            .map_err(|error| error.to_string())
    }

    /// Asks once for JSON.
    pub async fn get_json(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<(Duration, serde_json::Value), String> {
        let begun = Instant::now();
        let answer = self.endpoint.get("measuring", path, limits(within)).await;
        answer.map(|(value, _)| (begun.elapsed(), value)).map_err(|error| error.to_string())
    }
}

fn limits(within: Duration) -> Limits {
    let limit_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    Limits { limit_ms, max_bytes: MAX_BYTES }
}
