//! Owns the PROXY protocol, by which a proxy says ahead of a connection's bytes who its client is (haproxy.org's
//! proxy-protocol.txt, versions 1 and 2). It must not decide whose word is taken.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Bytes of the longest header of version 1, its end of line included.
const LONGEST_LINE: usize = 107;
/// Bytes of version 2 between its signature and what its length counts.
const FIXED_BEHIND: usize = 4;
/// Most bytes that its length counts: addresses, and what else a proxy tells (a TLS certificate's name, ...).
const MOST_BEHIND: usize = 4096;

/// Takes the header off a connection, and no byte behind it. `None` where it names no client: the proxy itself calls.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn read(socket: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut begin = [0; v2::PROTOCOL_PREFIX.len()];
    socket.read_exact(&mut begin).await?;
    match begin == *v2::PROTOCOL_PREFIX {
        true => read_binary(socket, &begin).await,
        false => read_line(socket, &begin).await,
    }
}

async fn read_line(socket: &mut TcpStream, begin: &[u8]) -> io::Result<Option<IpAddr>> {
    if !begin.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        return Err(invalid("the connection does not begin with a PROXY header"));
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\n") {
        let mut more = [0; LONGEST_LINE];
        let most = LONGEST_LINE.saturating_sub(line.len());
        let more = more.get_mut(..most).unwrap_or_default();
        // what is behind the line stays in the socket
        let seen = socket.peek(more).await?;
        let seen = more.get(..seen).unwrap_or_default();
        let taken = memchr::memchr(b'\n', seen).map_or(seen.len(), |at| at + 1);
        if taken == 0 {
            return Err(invalid("the PROXY header has no end"));
        }
        let mut piece = vec![0; taken];
        socket.read_exact(&mut piece).await?;
        line.extend_from_slice(&piece);
    }
    let header = v1::Header::try_from(&*line).map_err(|error| invalid(&error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_binary(socket: &mut TcpStream, begin: &[u8]) -> io::Result<Option<IpAddr>> {
    let mut fixed = [0; FIXED_BEHIND];
    socket.read_exact(&mut fixed).await?;
    let [_, _, length @ ..] = fixed;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MOST_BEHIND {
        return Err(invalid("the PROXY header is too long"));
    }
    let mut behind = vec![0; length];
    socket.read_exact(&mut behind).await?;
    let bytes = [begin, &fixed, &behind].concat();
    let header = v2::Header::try_from(&*bytes).map_err(|error| invalid(&error.to_string()))?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(addresses.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(addresses.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified)
        | (v2::Command::Local, _) => None,
    })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of a connection that begins with these bytes, sent so many at a time, and what is left.
    async fn read_of(bytes: &[u8], each: usize) -> (io::Result<Option<IpAddr>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for piece in bytes.chunks(each) {
                if client.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        let found = read(&mut server).await;
        sending.await.unwrap();
        let mut left = Vec::new();
        let _ = server.read_to_end(&mut left).await;
        (found, left)
    }

    fn binary(version_command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
        let length = u16::try_from(behind.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[version_command, family], &length, behind].concat()
    }

    fn v4(more: &[u8]) -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80][..], more].concat()
    }

    #[tokio::test]
    async fn a_header_names_its_client_and_leaves_the_rest() {
        let v6 = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0x12, 0x67, 0, 80]].concat();
        let local = binary(0x20, 0, &[]);
        for (header, want) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f ffff:f 1 2\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4(&[])), Some("192.0.2.1")),
            (binary(0x21, 0x11, &v4(&[4, 0, 3, 1, 2, 3])), Some("192.0.2.1")),
            (binary(0x21, 0x21, &v6), Some("2001:db8::1")),
            (binary(0x21, 0x31, &[7; 216]), None),
            (local, None),
        ] {
            for each in [1, 13, 1000] {
                for rest in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"] {
                    let (found, left) = read_of(&[&header, rest].concat(), each).await;
                    let shown = String::from_utf8_lossy(&header);
                    assert_eq!(found.unwrap().map(|ip| ip.to_string()).as_deref(), want, "{shown:?}");
                    assert_eq!(left, rest, "{shown:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for bytes in [
            &b""[..],
            b"PROXY",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711",
            b"PROXY TCP4 192.0.2.999 10.0.0.1 4711 80\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 4711 80\r\n",
            b"PROXY TCP4 \xff\xfe 10.0.0.1 4711 80\r\n",
            b"PROXY NOTHING OF IT\r\n",
            &long,
            &binary(0x31, 0x11, &v4(&[])),
            &binary(0x22, 0x11, &v4(&[])),
            &binary(0x21, 0x51, &v4(&[])),
            &binary(0x21, 0x11, &[1, 2, 3]),
            &binary(0x21, 0x11, &v4(&[0; 5000])),
            &binary(0x21, 0x11, &v4(&[]))[..20],
        ] {
            let (found, _) = read_of(bytes, 1000).await;
            assert!(found.is_err(), "{:?}: {found:?}", String::from_utf8_lossy(bytes));
        }
    }
}
