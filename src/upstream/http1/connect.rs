//! Owns how a connection to one server is opened: which of its addresses, the socket's options, TLS. It must not know what is
//! exchanged on one.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use rustls_platform_verifier::Verifier;
use socket2::{SockRef, TcpKeepalive};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, crypto::aws_lc_rs};
use tower::ServiceExt;

use super::connection::Stream;
use super::{TransportError, Why};
use crate::descriptors::{self, Use};

/// After so long without a connection the addresses of the other family, IPv4 or IPv6, are tried beside the first
/// (RFC 8305, section 5).
const OTHER_FAMILY: Duration = Duration::from_millis(250);

/// Opens connections to one server.
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    uri: Uri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// For all of it.
    timeout: Duration,
}

impl Connector {
    /// For the server at this URI; `None` where it is not `http` nor, with `tls`, `https`.
    pub fn new(uri: &Uri, timeout: Duration, tls: Option<&Arc<ClientConfig>>) -> Option<Connector> {
        let tls = match (uri.scheme_str()?, tls) {
            ("http", _) => None,
            ("https", Some(config)) => {
                let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
                Some((config.clone().into(), ServerName::try_from(host.to_owned()).ok()?))
            }
            _ => return None,
        };
        Some(Connector { tcp: tcp(GaiResolver::new(), timeout), uri: uri.clone(), tls, timeout })
    }

    /// Opens one.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or its certificate is not trusted.
    pub async fn connect(self) -> Result<Stream, TransportError> {
        let timeout = self.timeout;
        let late = || TransportError { why: Why::Refused, cause: "cannot connect in time".to_owned() };
        tokio::time::timeout(timeout, self.open()).await.unwrap_or_else(|_| Err(late()))
    }

    async fn open(self) -> Result<Stream, TransportError> {
        let socket = self.tcp.oneshot(self.uri).await.map_err(|error| failed(&error))?.into_inner();
        if !descriptors::within(&socket, Use::Upstream) {
            return Err(TransportError::no_descriptor());
        }
        if let Err(error) = SockRef::from(&socket).set_tcp_keepalive(&keepalive()) {
            tracing::debug!(%error, "cannot set the options of a connection");
        }
        match self.tls {
            None => Ok(Stream::Plain(socket)),
            Some((tls, name)) => {
                let stream = tls.connect(name, socket).await.map_err(|error| failed(&error))?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

fn tcp<R>(resolver: R, timeout: Duration) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // shared by the addresses of a family
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_happy_eyeballs_timeout(Some(OTHER_FAMILY));
    tcp
}

/// How TLS is spoken to servers: certificates by the roots that the machine trusts, HTTP/1.1 alone.
///
/// # Errors
/// When those roots cannot be read.
pub fn tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(provider.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn failed(error: &(dyn Error + 'static)) -> TransportError {
    let mut why = Why::Refused;
    let mut cause = "cannot connect".to_owned();
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(descriptors::is_lack) {
            return TransportError::no_descriptor();
        }
        // an io::Error does not name what it holds as its source
        let tls = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))) {
            why = Why::NoHttp1;
        }
        cause.push_str(": ");
        cause.push_str(&error.to_string());
    }
    TransportError { why, cause }
}

/// Has the kernel ask a silent peer whether it is there, and end the connection after half a minute without an answer. A
/// peer that has no room for more data answers: a living one is never cut. TCP_USER_TIMEOUT would cut it, since that counts
/// the time until the peer makes room.
pub fn keepalive() -> TcpKeepalive {
    let (time, interval) = (Duration::from_secs(15), Duration::from_secs(5));
    TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(3)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Connects to a name of these two addresses, both of that port.
    async fn connect(port: u16) -> Result<SocketAddr, Box<dyn Error + Send + Sync>> {
        let resolver = tower::service_fn(|_| async {
            let addresses: Vec<SocketAddr> =
                vec![(Ipv6Addr::LOCALHOST, 0).into(), ([127, 0, 0, 1], 0).into()];
            Ok::<_, io::Error>(addresses.into_iter())
        });
        let uri: Uri = format!("http://both.example:{port}").parse()?;
        let socket = tcp(resolver, Duration::from_secs(60)).oneshot(uri).await?.into_inner();
        Ok(socket.peer_addr()?)
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(connect(address.port()).await.unwrap(), address);
    }

    /// A socket whose backlog is full drops what knocks, as a route that leads nowhere does. Where there is no IPv6, the
    /// address fails at once.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_leads_nowhere_does_not_hold_up_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nowhere: SocketAddr = (Ipv6Addr::LOCALHOST, address.port()).into();
        let full = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        full.set_only_v6(true).unwrap();
        let mut fill = Vec::new();
        if full.bind(&nowhere.into()).is_ok() {
            full.listen(0).unwrap();
            while let Ok(connected) =
                tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(nowhere)).await
            {
                fill.push(connected.unwrap());
                assert!(fill.len() < 100, "the backlog is not full");
            }
        }
        let begun = Instant::now();
        assert_eq!(connect(address.port()).await.unwrap(), address);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
