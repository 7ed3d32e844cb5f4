//! The processes under test: how they are started, what the kernel says that they used, how they end. It must not
//! send requests.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The protocol that a target's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Chat,
    Responses,
}

/// A running target.
pub struct Target {
    pub name: String,
    pub speaks: Speaks,
    pub address: SocketAddr,
    /// Memory at rest, before its first request, in bytes.
    pub idle: u64,
    child: Child,
    /// The process that does the work.
    pid: u32,
    folder: Option<PathBuf>,
}

/// What `BASE` says, and the first argument, for [`Target::bare`] as it is and with the core in it.
pub const FLOORS: [&str; 2] = ["bare", CORE];
pub const CORE: &str = "core";
/// The core of the targets, and that of the load generator and the upstream.
pub const CORES: [&str; 2] = ["0", "1"];
/// How long a target may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Target {
    /// nginx, which passes everything through unparsed.
    pub fn nginx(upstream: SocketAddr) -> Result<Target, String> {
        let folder = std::env::temp_dir().join(format!("rejoinder-bench-{}", std::process::id()));
        let fail = |error: io::Error| format!("nginx: {error}");
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let address = free_port().map_err(fail)?;
        let file = folder.join("nginx.conf");
        std::fs::File::create(&file)
            .and_then(|mut file| file.write_all(nginx_conf(&folder, upstream, address).as_bytes()))
            .map_err(fail)?;
        let binary = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or("nginx is not here; it is the reference: apt-get install nginx-light")?;
        let child = pinned(binary).arg("-c").arg(&file).stderr(Stdio::null()).spawn().map_err(fail)?;
        let mut target = Target {
            name: "nginx".to_owned(),
            speaks: Speaks::Chat,
            address,
            idle: 0,
            pid: child.id(),
            child,
            folder: Some(folder),
        };
        target.wait(address)?;
        // the master only watches
        let deadline = Instant::now() + PATIENCE;
        target.pid = loop {
            match children(target.child.id()).first() {
                Some(worker) => break *worker,
                None if Instant::now() > deadline => return Err("nginx has no worker".to_owned()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        target.idle = target.memory();
        Ok(target)
    }

    /// A rejoinder, with the log level that leaves out what nginx's `access_log off` leaves out.
    pub fn rejoinder(name: &str, binary: &Path, upstream: SocketAddr) -> Result<Target, String> {
        Target::start(name, pinned(&binary.display().to_string()), upstream)
    }

    /// The same on all cores, as it runs in production.
    pub fn unpinned(name: &str, binary: &Path, upstream: SocketAddr) -> Result<Target, String> {
        Target::start(name, tasked(&["-c", "0-1023", &binary.display().to_string()]), upstream)
    }

    fn start(name: &str, mut command: Command, upstream: SocketAddr) -> Result<Target, String> {
        let fail = |error: io::Error| format!("{name}: {error}");
        // held, or the second may be the same
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(fail)?;
        let (address, admin) = (first.local_addr().map_err(fail)?, free_port().map_err(fail)?);
        drop(first);
        let child = command
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string()])
            .args(["--upstream", &format!("http://{upstream}"), "--log-level", "warn"])
            .current_dir(std::env::temp_dir())
            .spawn()
            .map_err(fail)?;
        Target::of(name, Speaks::Responses, address, child)
    }

    /// A proxy of hyper and tokio and nothing else, or with the core, for S4 alone: this program once more.
    pub fn bare(which: &str, upstream: SocketAddr) -> Result<Target, String> {
        let fail = |error: io::Error| format!("{which}: {error}");
        let (address, own) = (free_port().map_err(fail)?, std::env::current_exe().map_err(fail)?);
        let child = pinned(&own.display().to_string())
            .args([which, &address.to_string(), &upstream.to_string()])
            .spawn()
            .map_err(fail)?;
        Target::of("base", Speaks::Responses, address, child)
    }

    fn of(name: &str, speaks: Speaks, address: SocketAddr, child: Child) -> Result<Target, String> {
        let (name, pid) = (name.to_owned(), child.id());
        let mut target = Target { name, speaks, address, idle: 0, pid, child, folder: None };
        target.wait(address)?;
        target.idle = target.memory();
        Ok(target)
    }

    fn wait(&mut self, address: SocketAddr) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended at once: {status}", self.name));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen on {address}", self.name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else { return Duration::ZERO };
        let nanoseconds = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.flatten().filter_map(|task| nanoseconds(task.path())).sum())
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        self.kilobytes("smaps_rollup", "Rss:")
    }

    /// The most of it since `forget_peak`.
    pub fn peak(&self) -> u64 {
        self.kilobytes("status", "VmHWM:")
    }

    pub fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    fn kilobytes(&self, file: &str, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // a master that is killed leaves its worker behind
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn pinned(binary: &str) -> Command {
    tasked(&["-c", CORES[0], binary])
}

/// `taskset` with these arguments.
fn tasked(args: &[&str]) -> Command {
    let mut command = Command::new("taskset");
    command.args(args).stdin(Stdio::null());
    // what is set for this bench is no configuration of theirs
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REJOINDER_")) {
        command.env_remove(name);
    }
    command
}

/// Puts this process onto the generator's core, and lets it and its children open as many sockets as they need.
pub fn prepare() {
    let own = std::process::id().to_string();
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let pinned = quiet(Command::new("taskset").args(["-cp", CORES[1], &own]));
    if !pinned.is_ok_and(|status| status.success()) {
        eprintln!("note: cannot pin to core {}: figures of a single core say little", CORES[1]);
    }
    let raised = quiet(Command::new("prlimit").args(["--pid", &own, "--nofile=16384:16384"]));
    if !raised.is_ok_and(|status| status.success()) {
        eprintln!("note: cannot raise the limit of open files");
    }
}

fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let parent = |entry: &Path| {
        let stat = std::fs::read_to_string(entry.join("stat")).ok()?;
        // the name may hold spaces
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| parent(&entry.path()) == Some(pid))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn nginx_conf(folder: &Path, upstream: SocketAddr, own: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    client_body_buffer_size 16m;
    keepalive_requests 1000000;
    upstream chat {{ server {upstream}; keepalive 1024; keepalive_requests 1000000; }}
    server {{
        listen {own} backlog=4096;
        location / {{
            proxy_pass http://chat;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"
    )
}
