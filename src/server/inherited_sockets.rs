//! Owns the sockets that a service manager opened for this process (systemd's socket activation): which of them is which.
//! They stay open while no process serves them, so that a restart refuses nobody. It must not accept from them.

use std::net::TcpListener;

/// The listening sockets that were handed over, by the key whose address they replace.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// In place of `listen`.
    pub listen: Option<TcpListener>,
    /// In place of `admin`.
    pub admin: Option<TcpListener>,
}

#[cfg(unix)]
impl InheritedSockets {
    /// Takes the sockets of `LISTEN_FDS`, and removes that variable: to be called while the process has one thread.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub fn take() -> Result<InheritedSockets, String> {
        let names = std::env::var("LISTEN_FDNAMES").ok();
        let mut given = listenfd::ListenFd::from_env();
        let names = names_of(given.len(), names.as_deref())?;
        let mut sockets = InheritedSockets::default();
        for (at, name) in names.into_iter().enumerate() {
            let socket = given.take_tcp_listener(at).map_err(|error| wrong(name, &error.to_string()))?;
            let socket = socket.ok_or_else(|| wrong(name, "it is not there"))?;
            if !socket2::SockRef::from(&socket).is_listener().unwrap_or(true) {
                return Err(wrong(name, "it does not listen (a socket unit needs Accept=no)"));
            }
            match name {
                "admin" => sockets.admin = Some(socket),
                _ => sockets.listen = Some(socket),
            }
        }
        Ok(sockets)
    }
}

#[cfg(not(unix))]
impl InheritedSockets {
    /// None: this platform has no such thing.
    ///
    /// # Errors
    /// Never.
    pub fn take() -> Result<InheritedSockets, String> {
        Ok(InheritedSockets::default())
    }
}

#[cfg(unix)]
fn wrong(name: &str, why: &str) -> String {
    format!("the socket {name:?} of LISTEN_FDS cannot be used: {why}")
}

/// What each of `count` sockets is for: as `LISTEN_FDNAMES` says, or without it the first `listen`, the second `admin`.
#[cfg(unix)]
fn names_of(count: usize, names: Option<&str>) -> Result<Vec<&str>, String> {
    let all = ["listen", "admin"];
    let names = match names.filter(|_| count > 0) {
        Some(names) => names.split(':').collect(),
        None => all.into_iter().take(count).collect::<Vec<_>>(),
    };
    if names.len() != count {
        return Err(format!(
            "LISTEN_FDS hands over {count} sockets, but LISTEN_FDNAMES has {} names",
            names.len()
        ));
    }
    for (at, name) in names.iter().enumerate() {
        if !all.contains(name) {
            let message = "name it \"listen\" or \"admin\" (FileDescriptorName= of its socket unit)";
            return Err(wrong(name, message));
        }
        if names.iter().skip(at + 1).any(|other| other == name) {
            return Err(wrong(name, "there are two of that name"));
        }
    }
    Ok(names)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_one_of_two_names() {
        assert_eq!(names_of(0, None), Ok(vec![]));
        assert_eq!(names_of(0, Some("left:over")), Ok(vec![]));
        assert_eq!(names_of(1, None), Ok(vec!["listen"]));
        assert_eq!(names_of(2, None), Ok(vec!["listen", "admin"]));
        assert_eq!(names_of(1, Some("admin")), Ok(vec!["admin"]));
        assert_eq!(names_of(2, Some("admin:listen")), Ok(vec!["admin", "listen"]));
        for (count, names, says) in [
            (3, None, "3 sockets"),
            (1, Some("listen:admin"), "2 names"),
            (1, Some("rejoinder.socket"), "FileDescriptorName="),
            (2, Some("listen:listen"), "two of that name"),
        ] {
            let error = names_of(count, names).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
