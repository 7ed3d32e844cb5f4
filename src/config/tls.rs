//! Owns TLS for clients: the keys of its section, what their files must hold, and the certificate in force, which changes
//! while the process runs. It must not open a connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// File of the certificate in PEM, followed by those that lead to its authority; with it `listen` takes TLS alone.
    pub certificate: Option<PathBuf>,
    /// File of its private key in PEM.
    pub key: Option<PathBuf>,
    /// File of the authorities in PEM whose certificates clients may have.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to have a certificate.
    pub client_certificates: ClientCertificates,
    /// Whether `admin` takes TLS too.
    pub admin: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        let client_certificates = ClientCertificates::Off;
        TlsConfig { certificate: None, key: None, client_ca: None, client_certificates, admin: false }
    }
}

/// Values of `tls.client_certificates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// None is asked for.
    Off,
    /// One that is sent must be of `tls.client_ca`.
    Optional,
    /// A client without one gets no connection.
    Required,
}

/// The certificate in force, and what is asked of clients.
pub struct Tls {
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    listen: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    /// Whether what `admin` shows needs a certificate.
    required: bool,
}

/// A key of the section, and what is wrong with its file.
pub type Wrong = (&'static str, String);

impl Tls {
    /// Reads the files; `None` where no certificate is set.
    ///
    /// # Errors
    /// The key whose file cannot be used, and why.
    pub fn read(config: &TlsConfig) -> Result<Option<Tls>, Wrong> {
        let (certificate, key) = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return unused(config).map(|()| None),
            (Some(_), None) => {
                let message = "needs tls.key, the file of the certificate's private key";
                return Err(("tls.certificate", message.to_owned()));
            }
            (None, Some(_)) => {
                return Err(("tls.key", "needs tls.certificate, the file of its certificate".to_owned()));
            }
        };
        let chain = certificates(certificate).map_err(|message| ("tls.certificate", message))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| ("tls.key", no_key(key, error)))?;
        let roots = client_roots(config)?;
        let required = config.client_certificates == ClientCertificates::Required;
        let server = |required| {
            let verifier = roots.as_ref().map(|roots| verifier(roots, required)).transpose()?;
            server_config(&chain, &key, verifier)
        };
        let listen = server(required)?;
        // what probes a container has no certificate
        let admin = if required { server(false)? } else { listen.clone() };
        let current = Current { listen, admin, required };
        Ok(Some(Tls { current: RwLock::new(current) }))
    }

    /// Takes over what another has read.
    pub fn adopt(&self, other: &Tls) {
        let new = other.current();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// How TLS is spoken on `listen`, to a client that connects now.
    pub fn listen(&self) -> Arc<ServerConfig> {
        self.current().listen
    }

    /// The same on `admin`, where a client may be without a certificate.
    pub fn admin(&self) -> Arc<ServerConfig> {
        self.current().admin
    }

    /// Whether clients have to have a certificate.
    pub fn certificate_required(&self) -> bool {
        self.current().required
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// Refuses keys that mean nothing without a certificate.
fn unused(config: &TlsConfig) -> Result<(), Wrong> {
    let set = [
        ("tls.client_ca", config.client_ca.is_some()),
        ("tls.client_certificates", config.client_certificates != ClientCertificates::Off),
        ("tls.admin", config.admin),
    ];
    match set.into_iter().find(|(_, set)| *set) {
        Some((key, _)) => Err((key, "needs tls.certificate and tls.key".to_owned())),
        None => Ok(()),
    }
}

fn client_roots(config: &TlsConfig) -> Result<Option<Arc<RootCertStore>>, Wrong> {
    match (config.client_certificates, &config.client_ca) {
        (ClientCertificates::Off, None) => Ok(None),
        (ClientCertificates::Off, Some(_)) => {
            let message = "has no use while tls.client_certificates is \"off\": set that to \"optional\" or \"required\"";
            Err(("tls.client_ca", message.to_owned()))
        }
        (_, None) => {
            let message =
                "needs tls.client_ca, the file of the authorities that clients' certificates are of";
            Err(("tls.client_certificates", message.to_owned()))
        }
        (_, Some(path)) => {
            let wrong = |message| ("tls.client_ca", message);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).map_err(wrong)? {
                let added = roots.add(certificate);
                added.map_err(|error| wrong(format!("{} cannot be used: {error}", path.display())))?;
            }
            Ok(Some(Arc::new(roots)))
        }
    }
}

fn verifier(roots: &Arc<RootCertStore>, required: bool) -> Result<Arc<dyn ClientCertVerifier>, Wrong> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| ("tls.client_ca", error.to_string()))
}

fn server_config(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, Wrong> {
    let unusable = |error: Error| match error {
        Error::InconsistentKeys(_) => {
            ("tls.key", "is not the private key of the first certificate in tls.certificate".to_owned())
        }
        error => ("tls.certificate", format!("cannot be used with tls.key: {error}")),
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain.to_vec(), key.clone_key()).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // a client that comes back is known by what it brings: nothing is kept here for it
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unread = |error: pem::Error| match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        error => format!("{} is not in PEM: {error}", path.display()),
    };
    let found = CertificateDer::pem_file_iter(path).map_err(unread)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unread)?;
    match found.is_empty() {
        true => Err(format!("{} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", path.display())),
        false => Ok(found),
    }
}

fn no_key(path: &Path, error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        pem::Error::NoItemsFound => format!(
            "{} holds no private key in PEM; one with a pass phrase must be decrypted first (openssl pkey -in KEY)",
            path.display()
        ),
        error => format!("{} is not in PEM: {error}", path.display()),
    }
}
