//! Owns a certificate authority of a test's own, and a certificate of it for `localhost`.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Files in a folder of their own.
pub struct Certificates {
    _dir: TempDir,
    issuer: Option<CertifiedIssuer<'static, KeyPair>>,
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
        let mut written = Certificates::written(&authority.pem(), &certificate.pem(), &key);
        written.issuer = Some(authority);
        written
    }

    /// Another certificate of the authority and its key, in PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, self.issuer.as_ref().unwrap()).unwrap();
        (certificate.pem(), key.serialize_pem())
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
            issuer: None,
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

    /// A client that trusts the authority alone, and sends this certificate with its key.
    pub fn client(&self, identity: Option<&(String, String)>) -> reqwest::ClientBuilder {
        let authority = std::fs::read(&self.authority).unwrap();
        let authority = reqwest::Certificate::from_pem(&authority).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only([authority]);
        match identity {
            Some((certificate, key)) => {
                let identity = reqwest::Identity::from_pem([certificate.as_str(), key].concat().as_bytes());
                builder.identity(identity.unwrap())
            }
            None => builder,
        }
    }

    /// A connector that trusts the authority alone and offers these protocols.
    pub fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
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
