//! Owns a certificate authority of a test's own, and a certificate of it for `localhost`.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Files in a folder of their own.
pub struct Certificates {
    _dir: TempDir,
    /// The authority, which nobody trusts who is not told to.
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    pub fn new() -> Certificates {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = localhost().signed_by(&key, &authority).unwrap();
        Certificates::written(&authority.pem(), &certificate.pem(), &key)
    }

    /// A certificate that vouches for itself alone.
    pub fn self_signed() -> Certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = localhost();
        params.is_ca = IsCa::ExplicitNoCa;
        let certificate = params.self_signed(&key).unwrap().pem();
        Certificates::written(&certificate, &certificate, &key)
    }

    fn written(authority: &str, certificate: &str, key: &KeyPair) -> Certificates {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, pem: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        Certificates {
            authority: file("authority.pem", authority),
            certificate: file("certificate.pem", certificate),
            key: file("key.pem", &key.serialize_pem()),
            _dir: dir,
        }
    }

    /// A server of TLS with that certificate that offers these protocols.
    pub fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_file(&self.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }

    /// The variable that makes a process trust the authority.
    pub fn trust(&self) -> (&str, &str) {
        ("SSL_CERT_FILE", self.authority.to_str().unwrap())
    }
}

fn localhost() -> CertificateParams {
    CertificateParams::new(vec!["localhost".to_owned()]).unwrap()
}
