//! The authority of one box: it vouches for the signer to its clients, and for the clients to the signer.

use std::sync::Arc;

use ipc::remote::SERVER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Frozen: the issuer's name in the clients' certificates must stay that of the authority's own.
const NAME: &str = "Hearth signer's authority";

/// Why there is no authority, or none of its certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// No certificate.
    #[error("no certificate could be made")]
    Make(#[from] rcgen::Error),
    /// The parts do not fit.
    #[error("the certificates cannot be used")]
    Use(#[from] rustls::Error),
    /// No verifier.
    #[error("the authority's certificate cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The authority: a key, and the certificate that both sides trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// What a client gets.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) private_key: Zeroizing<String>,
    pub(crate) fingerprint: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = params()?.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params()?, key), certificate })
    }

    /// The one that was kept.
    pub(crate) fn restore(key: &str, certificate: Vec<u8>) -> Result<Self, AuthorityError> {
        let issuer = Issuer::new(params()?, KeyPair::from_pem(key)?);
        Ok(Self { issuer, certificate: CertificateDer::from(certificate) })
    }

    /// Its key, to be sealed.
    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its certificate as clients read it.
    pub(crate) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A certificate for a client. Its key is made here and not kept.
    pub(crate) fn issue(&self, name: &str) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate =
            leaf(name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            private_key: Zeroizing::new(key.serialize_pem()),
            fingerprint: fingerprint(certificate.der()),
        })
    }

    /// The signer's side of the handshake: it shows a certificate for these names, made anew with each start, and takes only
    /// clients that this authority vouches for. TLS 1.3 alone.
    pub(crate) fn server(&self, addresses: &[String]) -> Result<ServerConfig, AuthorityError> {
        let key = KeyPair::generate()?;
        let names = std::iter::once(SERVER_NAME.to_owned()).chain(addresses.iter().cloned()).collect();
        let certificate =
            leaf(SERVER_NAME, names, ExtendedKeyUsagePurpose::ServerAuth)?.signed_by(&key, &self.issuer)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone(), self.certificate.clone()], private)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Who was removed must not come back on a ticket; a handshake costs a millisecond.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }
}

/// SHA-256 of a certificate, by which a client is known.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Sha256::digest(certificate))
}

fn params() -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = named(NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// They do not expire: a box may lie in a drawer for years, and whoever shall not come in is taken off the list.
fn leaf(
    name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_was_kept_still_vouches_for_its_clients() {
        let first = Authority::generate().unwrap();
        let again = Authority::restore(&first.key_pem(), first.certificate().to_vec()).unwrap();
        assert_eq!(again.certificate_pem(), first.certificate_pem());
        assert_ne!(again.issue("a").unwrap().fingerprint, first.issue("a").unwrap().fingerprint);
        again.server(&["10.0.0.7".to_owned(), "hearth.local".to_owned()]).unwrap();
    }

    #[test]
    fn what_is_no_name_is_no_certificate() {
        assert!(Authority::generate().unwrap().server(&["no name\u{fc}".to_owned()]).is_err());
    }
}
