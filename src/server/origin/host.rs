//! Owns how a host is read, and which pages come from it. It must not decide who may call.

use std::net::IpAddr;

use http::uri::Authority;

/// Host and port as a request or an origin names them.
#[derive(Debug, PartialEq)]
pub struct Host {
    /// In lower case, without the dot of a full name.
    pub name: String,
    port: Option<u16>,
}

impl Host {
    /// Reads the value of a `Host` header, or what follows the scheme of an origin.
    pub fn read(text: &str) -> Option<Host> {
        let authority: Authority = text.parse().ok().filter(|_| !text.contains('@'))?;
        let name = authority.host().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
        Some(Host { name, port: authority.port_u16() }).filter(|host| !host.name.is_empty())
    }

    /// The IP address that it is.
    pub fn address(&self) -> Option<IpAddr> {
        self.name.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// Whether a page of that origin came from here itself.
    pub fn serves(&self, origin: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        Host::read(authority).is_some_and(|origin| {
            origin.name == self.name && origin.port.unwrap_or(default) == self.port.unwrap_or(default)
        })
    }
}
