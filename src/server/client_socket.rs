//! Owns the sockets of clients: the options of those that listen, which what they accept inherits, and the end of a
//! connection whose client does not take what is sent. It must not know what is sent.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::client_limits::Counted;

/// Connections that the kernel holds for us between two accepts.
const BACKLOG: u32 = 4096;
/// Bytes that the kernel takes beyond what it may send now. By default it would take megabytes: a client that does not
/// read would be noticed late, and a slow one taken for such, since room is made for us a third at a time.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 32 << 10;

/// Listens on the address, or on the socket that was handed over in its place.
///
/// # Errors
/// What is wrong with the address or the socket, for a person.
pub fn listen(address: SocketAddr, inherited: Option<std::net::TcpListener>) -> Result<TcpListener, String> {
    if let Some(socket) = inherited {
        let adopt = || {
            socket.set_nonblocking(true)?;
            set_options(&SockRef::from(&socket))?;
            TcpListener::from_std(socket)
        };
        return adopt()
            .map_err(|error: io::Error| format!("cannot use the socket that was handed over: {error}"));
    }
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // on Windows the option lets another process take the address away
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        set_options(&SockRef::from(&socket))?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program listens there, perhaps another rejoinder: stop it, or choose another address for listen \
                 or admin (--listen, --admin)"
            }
            io::ErrorKind::PermissionDenied => "; choose a port from 1024 on, or give it the right to use this one",
            io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
            _ => "",
        };
        format!("cannot listen on {address}: {error}{advice}")
    })
}

/// What a listening socket leaves to what it accepts.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(&crate::upstream::keepalive())?;
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

/// A client's connection: plain, or within TLS, which is large and so on the heap.
pub type ClientStream = Either<ClientSocket, Box<TlsStream<ClientSocket>>>;

/// A client's socket. It fails once the client has taken nothing for `send_timeout` although there was something.
pub struct ClientSocket {
    stream: TcpStream,
    send_timeout: Duration,
    /// Made at the first wait, set anew at each.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the last write found no room.
    waits: bool,
    /// What it counts for, until the socket is closed.
    _counted: Counted,
}

impl ClientSocket {
    pub fn new(stream: TcpStream, send_timeout: Duration, counted: Counted) -> ClientSocket {
        ClientSocket { stream, send_timeout, timer: None, waits: false, _counted: counted }
    }

    /// What a write came to, or the error that the client took nothing for too long.
    fn in_time(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let until = || Instant::now() + self.send_timeout;
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waits {
                    timer.as_mut().reset(until());
                }
                timer
            }
            None => self.timer.insert(Box::pin(tokio::time::sleep_until(until()))),
        };
        self.waits = true;
        std::task::ready!(timer.as_mut().poll(cx));
        // the kernel would keep what is unsent, and offer it to the client, for minutes
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        let message = "the client did not read what was sent to it within send_timeout";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.in_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
