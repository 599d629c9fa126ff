//! A small, blocking reader of the beacon API.
//!
//! Apart from `beacon` on purpose: what checks the product should not be the product.

use std::future::Future;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use chain::{Epoch, Slot, ValidatorIndex};
use serde_json::Value;
use tokio::runtime::Runtime;

/// A loopback answer takes milliseconds, except while an emulated machine starts beside the node.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a question to the beacon node has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No connection, or no answer in time.
    #[error("the beacon node does not answer at {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is not a success.
    #[error("the beacon node answers {status} to {url}: {message}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// What it said; plain text or JSON.
        message: String,
    },
    /// An answer that does not have the shape of the beacon API.
    #[error("the beacon node's answer to {url} has no usable {what}")]
    Malformed {
        /// What was asked.
        url: String,
        /// The part that is missing or wrong.
        what: &'static str,
    },
}

/// One validator as the beacon node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorInfo {
    /// Its index.
    pub index: ValidatorIndex,
    /// Public key, `0x` and hex.
    pub pubkey: String,
    /// Such as `active_ongoing`.
    pub status: String,
}

/// A blocking client of one beacon node. May be used from any thread, inside or outside an async runtime.
#[derive(Debug, Clone)]
pub struct BeaconApi {
    base: String,
    client: reqwest::Client,
}

impl BeaconApi {
    /// A client of the node at `base`, such as `http://127.0.0.1:3500`.
    ///
    /// # Panics
    /// When the HTTP client cannot be made, which only a broken build can cause.
    pub fn new(base: &str) -> Self {
        // Only http is spoken here, yet reqwest wants to know who would do TLS. Somebody else may have said so already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .build()
            .expect("a client without files or certificates can always be made");
        Self { base: base.trim_end_matches('/').to_owned(), client }
    }

    /// GETs a path below the base and returns the parsed JSON.
    ///
    /// # Errors
    /// When there is no answer, or no success.
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.get(&url).header("accept", "application/json");
        let unreachable = |source| ApiError::Unreachable { url: url.clone(), source };
        let (status, text) = wait(async move {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        })
        .map_err(unreachable)?;
        if !status.is_success() {
            let message = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|error| error["message"].as_str().map(str::to_owned))
                .unwrap_or_else(|| text.chars().take(200).collect());
            return Err(ApiError::Refused { url, status: status.as_u16(), message });
        }
        serde_json::from_str(&text).map_err(|_| ApiError::Malformed { url, what: "JSON" })
    }

    /// Like [`Self::get`], with `None` for 404.
    ///
    /// # Errors
    /// When there is no answer, or neither a success nor 404.
    pub fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path) {
            Ok(value) => Ok(Some(value)),
            Err(ApiError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A decimal string somewhere in an answer.
    pub(super) fn number(&self, answer: &Value, pointer: &str, what: &'static str) -> Result<u64, ApiError> {
        let value = answer.pointer(pointer);
        let parsed = value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
        parsed.ok_or_else(|| self.malformed(what))
    }

    /// A text somewhere in an answer.
    pub(super) fn text<'a>(
        &self,
        answer: &'a Value,
        pointer: &str,
        what: &'static str,
    ) -> Result<&'a str, ApiError> {
        answer.pointer(pointer).and_then(Value::as_str).ok_or_else(|| self.malformed(what))
    }

    /// A list somewhere in an answer.
    pub(super) fn list<'a>(
        &self,
        answer: &'a Value,
        pointer: &str,
        what: &'static str,
    ) -> Result<&'a Vec<Value>, ApiError> {
        answer.pointer(pointer).and_then(Value::as_array).ok_or_else(|| self.malformed(what))
    }

    pub(super) fn malformed(&self, what: &'static str) -> ApiError {
        ApiError::Malformed { url: self.base.clone(), what }
    }

    /// Name and version of the node.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn version(&self) -> Result<String, ApiError> {
        let answer = self.get("/eth/v1/node/version")?;
        Ok(self.text(&answer, "/data/version", "version")?.to_owned())
    }

    /// Slot of the newest block.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn head(&self) -> Result<Slot, ApiError> {
        let answer = self.get("/eth/v1/beacon/headers/head")?;
        Ok(Slot(self.number(&answer, "/data/header/message/slot", "head slot")?))
    }

    /// Root of the canonical block of a slot; `None` when the slot has none.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn block_root(&self, slot: Slot) -> Result<Option<String>, ApiError> {
        match self.find(&format!("/eth/v1/beacon/headers/{}", slot.0))? {
            None => Ok(None),
            Some(answer) => Ok(Some(self.text(&answer, "/data/root", "block root")?.to_owned())),
        }
    }

    /// Whether the canonical chain has a block of this slot.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn has_block(&self, slot: Slot) -> Result<bool, ApiError> {
        Ok(self.block_root(slot)?.is_some())
    }

    /// Newest finalized epoch.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn finalized(&self) -> Result<Epoch, ApiError> {
        let answer = self.get("/eth/v1/beacon/states/head/finality_checkpoints")?;
        Ok(Epoch(self.number(&answer, "/data/finalized/epoch", "finalized epoch")?))
    }

    /// Root that goes into every signing domain, `0x` and hex.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn genesis_validators_root(&self) -> Result<String, ApiError> {
        let answer = self.get("/eth/v1/beacon/genesis")?;
        Ok(self.text(&answer, "/data/genesis_validators_root", "genesis validators root")?.to_owned())
    }

    /// All validators of the head state, by index.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn validators(&self) -> Result<Vec<ValidatorInfo>, ApiError> {
        let answer = self.get("/eth/v1/beacon/states/head/validators")?;
        let read = |entry: &Value| {
            Ok(ValidatorInfo {
                index: ValidatorIndex(self.number(entry, "/index", "validator index")?),
                pubkey: self.text(entry, "/validator/pubkey", "validator public key")?.to_owned(),
                status: self.text(entry, "/status", "validator status")?.to_owned(),
            })
        };
        self.list(&answer, "/data", "list of validators")?.iter().map(read).collect()
    }

    /// Proposers of an epoch, by slot. Only the current and the next epoch can be asked.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn proposers(&self, epoch: Epoch) -> Result<Vec<(Slot, ValidatorIndex)>, ApiError> {
        let answer = self.get(&format!("/eth/v1/validator/duties/proposer/{}", epoch.0))?;
        let read = |entry: &Value| {
            let slot = Slot(self.number(entry, "/slot", "slot of a duty")?);
            Ok((slot, ValidatorIndex(self.number(entry, "/validator_index", "proposer")?)))
        };
        self.list(&answer, "/data", "list of duties")?.iter().map(read).collect()
    }
}

/// Lets a future run on its own, on a runtime that is never dropped.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("harness")
            .enable_all()
            .build()
            .expect("threads and a poll handle are always to be had")
    });
    runtime.spawn(future);
}

/// Runs a future to its end on that runtime, so that sync and async callers may both wait for it.
pub(crate) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    spawn(async move {
        // Nobody stops waiting before the answer.
        let _ = done.send(future.await);
    });
    answer.recv().expect("the runtime is never dropped and the future does not panic")
}
