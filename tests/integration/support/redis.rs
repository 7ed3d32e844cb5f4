//! Owns a real redis-server for a test: on a port of its own, in a folder of its own, ended by its process id. It must
//! not talk to any server that it did not start.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};
use tempfile::TempDir;

/// A running server; what it stores survives [`Server::kill`] and [`Server::start_again`].
pub struct Server {
    child: Child,
    pub port: u16,
    pub dir: TempDir,
    options: Vec<String>,
}

impl Server {
    /// Starts one with these options, and waits until it serves.
    pub fn start(options: &[&str]) -> Server {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        // somebody else may take the port before the server does: then another one
        (0..20)
            .find_map(|_| {
                let port = free_port();
                let dir = tempfile::tempdir().unwrap();
                let mut server =
                    Server { child: spawn(port, &dir, &options), port, dir, options: options.clone() };
                server.answers().then_some(server)
            })
            .unwrap()
    }

    /// `redis://`, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A plain connection of the test's own.
    pub fn connection(&self) -> Connection {
        self.try_connection().unwrap()
    }

    fn try_connection(&self) -> RedisResult<Connection> {
        let client = redis::Client::open(self.url())?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(connection)
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and folder.
    pub fn start_again(&mut self) {
        self.child = spawn(self.port, &self.dir, &self.options);
        assert!(self.answers(), "redis-server did not start again");
    }

    /// Waits until it serves; false if it has ended.
    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            let pong = self.try_connection().and_then(|mut it| redis::cmd("PING").query::<String>(&mut it));
            match pong {
                Ok(_) => return true,
                // it asks for a password, so it is there
                Err(error) if error.code() == Some("NOAUTH") => return true,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not serve: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &TempDir, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .arg("--dir")
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A port that nobody listens on, another one each time, below those that the kernel gives to outgoing connections: one
/// of these may take a port while its server restarts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 20_000) as u16;
    (0..20_000)
        .map(|_| 12_000 + (first + NEXT.fetch_add(1, Relaxed)) % 20_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}
