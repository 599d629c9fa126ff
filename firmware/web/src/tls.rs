//! The box's own certificate: made on the box, kept on the box.
//!
//! No authority vouches for a box in somebody's cupboard, so its fingerprint is shown on its own screen.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use crate::claim::write_private;

/// Why the page cannot be served over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot keep the certificate in {0}; is the disk full?")]
    Disk(std::path::PathBuf, #[source] std::io::Error),
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    #[error(
        "the stored certificate does not load; remove tls.pem from the state directory to make a new one"
    )]
    Load(#[source] rustls::pki_types::pem::Error),
    #[error("the stored certificate and its key do not fit together; remove tls.pem to make new ones")]
    Use(#[source] rustls::Error),
}

/// A server configuration and the certificate's SHA-256 fingerprint.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) fingerprint: String,
}

/// Loads the certificate, or makes one for `<name>.local` the first time. Key and certificate are one file, so that
/// a power cut cannot leave one without the other.
pub(crate) fn load_or_create(state_dir: &Path, name: &str) -> Result<Tls, TlsError> {
    let path = state_dir.join("tls.pem");
    let disk = |source| TlsError::Disk(path.clone(), source);
    let pem = match std::fs::read_to_string(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let names = vec![format!("{name}.local"), name.to_owned(), "localhost".to_owned()];
            let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Make)?;
            let pem = format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem());
            write_private(&path, pem.as_bytes()).map_err(disk)?;
            pem
        }
        Err(error) => return Err(disk(error)),
    };
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::Load)?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::Load)?;
    let fingerprint =
        Sha256::digest(&certificate).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Use)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(TlsError::Use)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls { config: Arc::new(config), fingerprint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_certificate_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create(directory.path(), "hearth-test").unwrap().fingerprint;
        assert_eq!(load_or_create(directory.path(), "hearth-test").unwrap().fingerprint, first);
        assert_eq!(first.len(), 95);
    }

    #[test]
    fn says_what_to_do_with_a_damaged_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tls.pem"), "not pem").unwrap();
        let error = load_or_create(directory.path(), "x").err().unwrap();
        assert!(error.to_string().contains("tls.pem"), "{error}");
    }
}
