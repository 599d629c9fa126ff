//! Prysm's own validator client as the one who signs for a member of a cluster (`--distributed`).
//!
//! It sits behind a validator API, Charon's or ours. Either it holds that member's key shares, which is for local chains and
//! tests, for a stock client knows no TPM; or it holds nothing and asks a remote signer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cluster::keystore::{KdfCost, Keystore};

use crate::devnet::Devnet;
use crate::join::{JoinError, NodeFolder};
use crate::ports::free_ports;
use crate::process::{self, Launch, Process, ProcessError};

/// One for all keystores of one client and for its wallet, which is all that Prysm's import takes. Guards nothing.
const PASSWORD: &str = "Local-chain-0";
/// The funded account of the local chain; the member's middleware has the last word.
const FEE_RECIPIENT: &str = "0x8943545177806ED17B9F23F0a21ee5948eCaa776";

/// Why a stock client does not run.
#[derive(Debug, thiserror::Error)]
pub enum StockClientError {
    /// Its folder could not be filled.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A keystore of the node's folder cannot be opened.
    #[error(transparent)]
    Folder(#[from] JoinError),
    /// It did not start, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// A running validator client. Dropping it stops it.
#[derive(Debug)]
pub struct StockClient {
    owner: String,
    dir: PathBuf,
    program: PathBuf,
    config: PathBuf,
    api: String,
    keys: Keys,
    /// Whether it registers with builders and takes their blocks.
    builder: bool,
    process: Option<Process>,
}

/// Where the shares are that it signs with.
#[derive(Debug)]
enum Keys {
    /// In its own wallet.
    Wallet,
    /// With a remote signer, by their public keys.
    Remote { url: String, public_keys: Vec<String> },
}

impl StockClient {
    /// Imports the shares of `folder` into a wallet below `dir` and starts the client behind the validator API at `api`.
    ///
    /// `owner` is the member's name, for messages.
    ///
    /// # Errors
    /// When a keystore cannot be read or the client refuses something.
    pub fn start(
        owner: &str,
        dir: &Path,
        folder: &NodeFolder,
        chain: &Devnet,
        api: &str,
    ) -> Result<Self, StockClientError> {
        let mut client = Self {
            owner: owner.to_owned(),
            dir: dir.to_owned(),
            program: chain.tools().validator().to_owned(),
            config: chain.config_file(),
            api: api.to_owned(),
            keys: Keys::Wallet,
            builder: chain.config().builder,
            process: None,
        };
        fs::create_dir_all(dir.join("keys")).map_err(client.file("keys"))?;
        client.write("password", PASSWORD.as_bytes())?;
        for (position, key) in folder.share_keys()?.iter().enumerate() {
            let keystore = Keystore::encrypt_share(key, PASSWORD, KdfCost::Insecure, &mut rand::rng());
            client.write(&format!("keys/keystore-{position}.json"), &keystore.to_json())?;
        }
        let wallet =
            ["--accept-terms-of-use", "--wallet-dir", "wallet", "--wallet-password-file", "password"];
        process::run(
            client
                .launch("wallet")
                .args(["wallet", "create"])
                .args(wallet)
                .args(["--keymanager-kind", "imported"]),
        )?;
        process::run(client.launch("import").args(["accounts", "import"]).args(wallet).args([
            "--keys-dir",
            "keys",
            "--account-password-file",
            "password",
        ]))?;
        client.power_on()?;
        Ok(client)
    }

    /// Starts the client behind the validator API at `api`, with a remote signer at `signer` that has these shares.
    ///
    /// # Errors
    /// When its folder cannot be made or it does not start.
    pub fn start_with_signer(
        owner: &str,
        dir: &Path,
        chain: &Devnet,
        api: &str,
        signer: &str,
        public_keys: Vec<String>,
    ) -> Result<Self, StockClientError> {
        let mut client = Self {
            owner: owner.to_owned(),
            dir: dir.to_owned(),
            program: chain.tools().validator().to_owned(),
            config: chain.config_file(),
            api: api.to_owned(),
            keys: Keys::Remote { url: signer.to_owned(), public_keys },
            builder: chain.config().builder,
            process: None,
        };
        fs::create_dir_all(dir).map_err(client.file(""))?;
        client.power_on()?;
        Ok(client)
    }

    /// Starts it when it does not run. It remembers what it signed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn power_on(&mut self) -> Result<(), StockClientError> {
        if self.process.is_some() {
            return Ok(());
        }
        let ports = free_ports(3);
        let launch = self
            .launch("validator")
            .args(["--accept-terms-of-use", "--datadir", "data", "--distributed"])
            .arg("--chain-config-file")
            .arg(&self.config)
            .args(["--enable-beacon-rest-api", "--beacon-rest-api-provider", &self.api])
            .args(["--rpc-host", "127.0.0.1", "--rpc-port", &ports[0].to_string()])
            .args(["--http-host", "127.0.0.1", "--http-port", &ports[1].to_string()])
            .args(["--monitoring-host", "127.0.0.1", "--monitoring-port", &ports[2].to_string()])
            .args(["--suggested-fee-recipient", FEE_RECIPIENT, "--disable-rewards-penalties-logging"]);
        // It makes the client register, which a member of a cluster need not: the registrations in the lock count. The
        // client's are about its share, and our signer signs none for a key that is no validator's.
        let registers = self.builder && matches!(self.keys, Keys::Wallet);
        let launch = if registers { launch.arg("--enable-builder") } else { launch };
        let launch = match &self.keys {
            Keys::Wallet => launch.args(["--wallet-dir", "wallet", "--wallet-password-file", "password"]),
            Keys::Remote { url, public_keys } => launch
                .args(["--validators-external-signer-url", url])
                .args(["--validators-external-signer-public-keys", &public_keys.join(",")]),
        };
        self.process = Some(launch.start()?);
        Ok(())
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn power_cut(&mut self) -> Result<(), StockClientError> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), StockClientError> {
        match &mut self.process {
            Some(process) => Ok(process.check_alive()?),
            None => Ok(()),
        }
    }

    /// Its output.
    pub fn log(&self) -> PathBuf {
        self.dir.join("validator.log")
    }

    fn launch(&self, step: &str) -> Launch {
        let log = self.dir.join(format!("{step}.log"));
        Launch::new(format!("Prysm's client of {} ({step})", self.owner), &self.program, log)
            .current_dir(&self.dir)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StockClientError> {
        fs::write(self.dir.join(name), bytes).map_err(self.file(name))
    }

    fn file(&self, name: &str) -> impl FnOnce(io::Error) -> StockClientError + use<> {
        let path = self.dir.join(name);
        move |source| StockClientError::File { path, source }
    }
}
