//! Asking the signer, which makes up its own mind about every message.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain::{AttestationData, ForkInfo, PublicKeyBytes, Root, SignatureBytes};
use duty::SignError;
use futures::StreamExt as _;
use ipc::web3signer::{PUBLIC_KEYS_PATH, SignAnswer, SignRequest, sign_path};
use ipc::{Client, ClientError};

/// A signature later than this is of no use in its slot; the signer is on this box.
const PATIENCE: Duration = Duration::from_secs(4);
/// Requests under way at once. The signer groups what arrives together into one commit.
const PARALLEL: usize = 32;

/// The signer's signing socket.
#[derive(Debug, Clone)]
pub struct Signer {
    client: Arc<Client>,
}

/// One attestation to sign.
#[derive(Debug, Clone)]
pub struct Request<K> {
    /// Whatever names it for the caller.
    pub key: K,
    /// With which share.
    pub share: PublicKeyBytes,
    /// The whole vote.
    pub data: AttestationData,
    /// What we believe is signed; the signer computes it itself.
    pub signing_root: Root,
}

impl Signer {
    /// A client of the socket; nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self { client: Arc::new(Client::new(socket).with_timeout(PATIENCE)) }
    }

    /// The shares it holds.
    pub async fn shares(&self) -> Result<BTreeSet<PublicKeyBytes>, ClientError> {
        self.client.get(PUBLIC_KEYS_PATH).await
    }

    /// Asks for all of them at once. Every request gets its answer.
    pub async fn sign<K>(
        &self,
        fork_info: ForkInfo,
        requests: Vec<Request<K>>,
    ) -> Vec<(K, Result<SignatureBytes, SignError>)> {
        futures::stream::iter(requests)
            .map(|request| async move {
                let result = self.sign_one(fork_info, &request).await;
                (request.key, result)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await
    }

    async fn sign_one<K>(
        &self,
        fork_info: ForkInfo,
        request: &Request<K>,
    ) -> Result<SignatureBytes, SignError> {
        let body = SignRequest::attestation(fork_info, &request.data)
            .map_err(|error| SignError::Refused(error.to_string()))?
            .expecting(request.signing_root);
        let answer: Result<SignAnswer, ClientError> =
            self.client.post(&sign_path(&request.share), &body).await;
        match answer {
            Ok(answer) => Ok(answer.signature),
            Err(ClientError::Refused { status: 400 | 412, problem }) => {
                Err(SignError::Refused(problem.message))
            }
            Err(ClientError::Refused { problem, .. }) => Err(SignError::Unavailable(problem.message)),
            Err(
                error @ (ClientError::Unreachable { .. }
                | ClientError::Broken { .. }
                | ClientError::Timeout { .. }
                | ClientError::Malformed { .. }),
            ) => Err(SignError::Unavailable(error.to_string())),
        }
    }
}
