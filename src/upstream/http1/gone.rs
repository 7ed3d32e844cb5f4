//! Owns the check that a server is gone while data is on its way to it. The kernel sends no keepalive probes then, and repeats what is
//! unacknowledged for a quarter of an hour; TCP_USER_TIMEOUT would also cut a server that lives and does not read. The
//! kernel's table of connections tells them apart: a living server acknowledges each probe.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

/// Time between two looks.
pub const LOOK: Duration = Duration::from_secs(5);
/// How long a server may acknowledge nothing of what is repeated to it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// What the table said of one connection so far.
#[derive(Default)]
pub struct Gone {
    /// Since when nothing was acknowledged at any look.
    since: Option<Instant>,
}

impl Gone {
    /// Looks: whether the server behind this socket has acknowledged nothing for too long.
    pub async fn look(&mut self, socket: Option<&TcpStream>) -> bool {
        let unacknowledged = match socket {
            Some(socket) => table::is_unacknowledged(socket).await,
            None => false,
        };
        if !unacknowledged {
            self.since = None;
            return false;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() >= UNACKNOWLEDGED
    }
}

#[cfg(target_os = "linux")]
mod table {
    use std::collections::HashSet;
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsRawFd;
    use std::os::linux::fs::MetadataExt;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use tokio::net::TcpStream;

    /// For how long what was read is new enough for others.
    const FRESH: Duration = Duration::from_secs(2);
    /// Repetitions of data, and probes of a closed window, that one lost packet does not explain.
    const REPEATED: u32 = 3;
    const PROBED: u32 = 2;

    type Inodes = Arc<HashSet<u64>>;

    /// Whether the kernel repeats in vain what is on its way over this connection. Where it does not say so, no.
    pub async fn is_unacknowledged(stream: &TcpStream) -> bool {
        let descriptor = format!("/proc/self/fd/{}", stream.as_raw_fd());
        let Ok(inode) = fs::metadata(descriptor).map(|socket| socket.st_ino()) else { return false };
        let found = tokio::task::spawn_blocking(unacknowledged).await;
        found.is_ok_and(|found| found.contains(&inode))
    }

    /// The sockets of which that is so.
    fn unacknowledged() -> Inodes {
        static LAST: Mutex<Option<(Instant, Inodes)>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, found)) = &*last
            && read.elapsed() < FRESH
        {
            return found.clone();
        }
        let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
        let lines = tables.iter().filter_map(|path| Some(BufReader::new(File::open(path).ok()?).lines()));
        let found: Inodes =
            Arc::new(lines.flatten().map_while(Result::ok).filter_map(|line| read(&line)).collect());
        *last = Some((Instant::now(), found.clone()));
        found
    }

    /// The inode of a line's socket, if what is on its way there is not acknowledged.
    fn read(line: &str) -> Option<u64> {
        let mut fields = line.split_ascii_whitespace().skip(6);
        let repeated = u32::from_str_radix(fields.next()?, 16).ok()?;
        let probed: u32 = fields.nth(1)?.parse().ok()?;
        let inode = fields.next()?.parse().ok()?;
        (repeated >= REPEATED || probed >= PROBED).then_some(inode)
    }

    #[cfg(test)]
    #[test]
    fn a_line_tells_what_is_not_acknowledged() {
        let line = |repeated: &str, probed: &str| {
            read(&format!(
                "   7: 0100007F:A2C4 0100007F:1F90 01 0001F4F0:00000000 04:000001CE {repeated}     0        {probed} 427097 2 00000000e6df1582 22 4 30 10 -1"
            ))
        };
        assert_eq!([line("00000000", "0"), line("00000002", "1")], [None, None]);
        assert_eq!([line("00000003", "0"), line("00000000", "2")], [Some(427_097); 2]);
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(read(head), None);
    }
}

#[cfg(not(target_os = "linux"))]
mod table {
    /// Nobody says so here: the kernel gives up in its own time.
    pub async fn is_unacknowledged(_: &tokio::net::TcpStream) -> bool {
        false
    }
}
