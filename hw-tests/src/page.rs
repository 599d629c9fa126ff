//! A box's page as its owner uses it: status for everybody, changes with the claim code.
//!
//! The import goes the owner's way on purpose, for boxes and for native members alike: shares are sealed here to the
//! signer's key, so the page's server and the network between see an envelope and nothing else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipc::remote::{RemoteClientMade, RemoteClientOrder};
use ipc::web::{
    BoxStatus, CLUSTER_PATH, IMPORT_KEY_PATH, ImportKey, REMOTE_CLIENTS_PATH, SHARES_PATH, STATUS_PATH,
};
use ipc::{ClusterSetup, Problem, ShareImport};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::devnet::wait;

/// Long enough for a TPM under emulation to seal a share.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why the page could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// No answer.
    #[error("the page at {address} does not answer")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The box said no, and why.
    #[error("the page at {address} refused {path} ({status}): {problem}")]
    Refused {
        /// The box.
        address: SocketAddr,
        /// What was asked.
        path: &'static str,
        /// HTTP status.
        status: u16,
        /// Its own words.
        problem: Box<Problem>,
    },
    /// An answer that is not what the contract says.
    #[error("the page at {address} gave an answer that cannot be read: {text}")]
    Malformed {
        /// The box.
        address: SocketAddr,
        /// The beginning of the answer.
        text: String,
    },
}

/// A blocking client of one box's page.
#[derive(Clone, Debug)]
pub struct Page {
    address: SocketAddr,
    client: reqwest::Client,
    code: Option<String>,
}

impl Page {
    /// The page at `address`. Its certificate is the box's own, made on the box, so it is taken as it comes: this
    /// client talks over loopback only.
    ///
    /// # Panics
    /// When the HTTP client cannot be made, which only a broken build can cause.
    pub fn new(address: SocketAddr) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .timeout(TIMEOUT)
            .no_proxy()
            .build()
            .expect("a client without files can always be made");
        Self { address, client, code: None }
    }

    /// The same with the owner's claim code.
    #[must_use]
    pub fn with_claim_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The whole box.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub fn status(&self) -> Result<BoxStatus, PageError> {
        self.ask(STATUS_PATH, self.client.get(self.url(STATUS_PATH)))
    }

    /// Waits until the page answers.
    ///
    /// # Errors
    /// The last failure, when it does not within `patience`.
    pub fn wait(&self, patience: Duration) -> Result<BoxStatus, PageError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.status() {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
                answered => return answered,
            }
        }
    }

    /// The certificates of shares that this box gave away.
    ///
    /// # Errors
    /// When the signer cannot say.
    pub fn moves(&self) -> Result<ipc::moving::Moves, PageError> {
        self.ask(ipc::web::MOVES_PATH, self.authorized(self.client.get(self.url(ipc::web::MOVES_PATH))))
    }

    /// The key that shares are sealed to.
    ///
    /// # Errors
    /// When the signer cannot take shares, with its reason.
    pub fn import_key(&self) -> Result<String, PageError> {
        let key: ImportKey = self.ask(IMPORT_KEY_PATH, self.client.get(self.url(IMPORT_KEY_PATH)))?;
        Ok(key.import_key)
    }

    /// Hands over sealed shares.
    ///
    /// # Errors
    /// When the signer refuses, with its reason.
    pub fn import_shares(&self, sealed: &ShareImport) -> Result<serde_json::Value, PageError> {
        self.ask(SHARES_PATH, self.body(self.client.post(self.url(SHARES_PATH)), sealed))
    }

    /// Makes the box a member of a cluster.
    ///
    /// # Errors
    /// When dv-node refuses, with its reason.
    pub fn set_cluster(&self, setup: &ClusterSetup) -> Result<serde_json::Value, PageError> {
        self.ask(CLUSTER_PATH, self.body(self.client.put(self.url(CLUSTER_PATH)), setup))
    }

    /// Lets a client outside the box ask the signer. What comes back is the client's, and shown this once.
    ///
    /// # Errors
    /// When the signer refuses, with its reason.
    pub fn let_in(&self, order: &RemoteClientOrder) -> Result<RemoteClientMade, PageError> {
        self.ask(REMOTE_CLIENTS_PATH, self.body(self.client.post(self.url(REMOTE_CLIENTS_PATH)), order))
    }

    /// Tells the signer what the lock says and where this chain differs from public ones.
    ///
    /// # Errors
    /// When the signer refuses, with its reason.
    pub fn set_rules(&self, rules: &ipc::owner::OwnerRules) -> Result<serde_json::Value, PageError> {
        let path = ipc::web::RULES_PATH;
        self.ask(path, self.body(self.client.put(self.url(path)), rules))
    }

    /// Lets validators leave the chain.
    ///
    /// # Errors
    /// When the signer or dv-node refuses, with its reason.
    pub fn order_exit(&self, order: &ipc::owner::ExitOrder) -> Result<ipc::owner::ExitApprovals, PageError> {
        let path = ipc::web::EXITS_PATH;
        self.ask(path, self.body(self.client.post(self.url(path)), order))
    }

    /// What became of the recovery key of /var.
    ///
    /// # Errors
    /// When nobody keeps one.
    pub fn recovery_status(&self) -> Result<ipc::recovery::RecoveryStatus, PageError> {
        let path = ipc::web::RECOVERY_PATH;
        self.ask(path, self.authorized(self.client.get(self.url(path))))
    }

    /// The recovery key of /var, which the box shows until it is written down.
    ///
    /// # Errors
    /// When it was written down already, or nobody keeps one.
    pub fn recovery_key(&self) -> Result<ipc::recovery::RecoveryShown, PageError> {
        let path = ipc::web::RECOVERY_SHOW_PATH;
        self.ask(path, self.authorized(self.client.post(self.url(path))))
    }

    /// It is written down.
    ///
    /// # Errors
    /// When the group is another one.
    pub fn recovery_key_noted(
        &self,
        noted: &ipc::recovery::RecoveryNoted,
    ) -> Result<ipc::recovery::RecoveryStatus, PageError> {
        let path = ipc::web::RECOVERY_NOTED_PATH;
        self.ask(path, self.body(self.client.post(self.url(path)), noted))
    }

    /// What the daemons count.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub fn metrics(&self) -> Result<String, PageError> {
        let address = self.address;
        let request = self.authorized(self.client.get(self.url("/metrics")));
        wait(async move { request.send().await?.error_for_status()?.text().await })
            .map_err(|source| PageError::Unreachable { address, source })
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn body(&self, request: reqwest::RequestBuilder, body: &impl Serialize) -> reqwest::RequestBuilder {
        self.authorized(request.json(body))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.code {
            Some(code) => request.bearer_auth(code),
            None => request,
        }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, PageError> {
        let address = self.address;
        let (status, text) = wait(async move {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.text().await?))
        })
        .map_err(|source| PageError::Unreachable { address, source })?;
        if status.is_success() {
            let text = if text.is_empty() { "null" } else { &text };
            return serde_json::from_str(text).map_err(|_| malformed(address, text));
        }
        match serde_json::from_str(&text) {
            Ok(problem) => Err(PageError::Refused { address, path, status: status.as_u16(), problem }),
            Err(_) => Err(malformed(address, &text)),
        }
    }
}

fn malformed(address: SocketAddr, text: &str) -> PageError {
    PageError::Malformed { address, text: text.chars().take(200).collect() }
}
