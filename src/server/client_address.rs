//! Owns which address a client has: that of its connection, or what a trusted proxy says of it in a header. It must not
//! decide what an address may do.
//!
//! Each proxy appends the address from which it was called. What is left of the last address that no trusted proxy has was
//! written by somebody who may write anything.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::ClientAddressHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
pub struct Peer {
    /// Its address, or that of its client if it said so ahead of the connection.
    pub address: IpAddr,
    /// Whether that is a trusted proxy, which sends requests for others.
    pub forwards: bool,
    /// Whether it showed a certificate of `tls.client_ca`.
    pub has_certificate: bool,
}

/// The proxies whose word is taken, and the header in which they give it.
#[derive(Debug)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ClientAddressHeader,
}

impl TrustedProxies {
    /// The proxies with addresses in these networks.
    pub fn new(networks: Vec<IpNet>, header: ClientAddressHeader) -> TrustedProxies {
        TrustedProxies { networks, header }
    }

    /// Whether that is a proxy's address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The address of the client that a request is of.
    pub fn address(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        match peer.forwards {
            true => self.client(peer.address, headers),
            false => peer.address,
        }
    }

    /// The address of the client for which a proxy with this address sent a request: the last in the header that is not a
    /// proxy's own. What cannot be read ends the search at the proxy that wrote it.
    fn client(&self, proxy: IpAddr, headers: &HeaderMap) -> IpAddr {
        let name = match self.header {
            ClientAddressHeader::XForwardedFor => X_FORWARDED_FOR,
            ClientAddressHeader::Forwarded => header::FORWARDED,
        };
        let mut client = proxy;
        for value in headers.get_all(name).iter().rev() {
            for element in split(value.to_str().unwrap_or("?"), ',').into_iter().rev() {
                let named = match self.header {
                    ClientAddressHeader::XForwardedFor => Some(element),
                    ClientAddressHeader::Forwarded => forwarded_for(element),
                };
                match named.and_then(read) {
                    Some(address) if self.contains(address) => client = address,
                    Some(address) => return address,
                    None => return client,
                }
            }
        }
        client
    }
}

/// The parts of a text between separators that are not within quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c| {
        let ends = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        ends
    })
    .collect()
}

/// The value of `for` in an element of `Forwarded` (RFC 7239, section 4).
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    named.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn read(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    text.parse().ok().or_else(with_port).or_else(bare).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ClientAddressHeader, values: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "2001:db8:ff::/48", "127.0.0.1/32"];
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let name = match header {
            ClientAddressHeader::XForwardedFor => X_FORWARDED_FOR,
            ClientAddressHeader::Forwarded => header::FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, value.parse().unwrap());
        }
        // the header that is not the one says nothing
        headers.append("x-real-ip", "198.51.100.99".parse().unwrap());
        let proxies = TrustedProxies::new(networks, header);
        proxies.client("10.0.0.1".parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        for (values, want) in [
            (&[][..], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]:80"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            // what is left of it the client may have written
            (&["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, 10.0.0.2 , 2001:db8:ff::2"], "192.0.2.1"),
            (&["192.0.2.1", "10.0.0.2", "10.0.0.3"], "192.0.2.1"),
            // proxies all along
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // what nobody can read ends the search at the proxy that passed it on
            (&["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1, "], "10.0.0.1"),
            (&["192.0.2.1, 192.0.2.999"], "10.0.0.1"),
            (&["192.0.2.1\u{e9}"], "10.0.0.1"),
        ] {
            assert_eq!(client(ClientAddressHeader::XForwardedFor, values), want, "{values:?}");
        }
        assert_eq!(client(ClientAddressHeader::Forwarded, &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_by_its_own_grammar() {
        for (values, want) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], "192.0.2.60"),
            (&["proto=https; For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=198.51.100.7, for=192.0.2.1"], "192.0.2.1"),
            (&["for=192.0.2.1, for=10.0.0.2"], "192.0.2.1"),
            (&["for=192.0.2.1", "for=\"10.0.0.2:80\""], "192.0.2.1"),
            (&["for=192.0.2.1, for=unknown"], "10.0.0.1"),
            (&["for=192.0.2.1, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            (&["for=192.0.2.1, proto=https"], "10.0.0.1"),
            // a comma or a semicolon within quotes ends nothing
            (&["for=192.0.2.1;host=\"a, for=198.51.100.7\""], "192.0.2.1"),
            (&["for=192.0.2.1;host=\"a;for=198.51.100.7\""], "192.0.2.1"),
            (&["host=\"a\\\", for=198.51.100.7\";for=192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(client(ClientAddressHeader::Forwarded, values), want, "{values:?}");
        }
    }
}
