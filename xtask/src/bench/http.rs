//! Larder against nginx, over HTTP, in one run.
//!
//! Each measurement starts its server afresh on an empty folder, pinned to one core; the load runs on another. Rounds are
//! interleaved and alternate who goes first, so that a machine which warms up or slows down treats both alike; the median
//! counts. Larder checks a token on every request and nginx checks nothing. Neither syncs before it answers a PUT.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use larder_testkit::http::{self, Request};
use larder_testkit::{Access, Identity, Server, ServerOptions, process, target_dir};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Report;
use super::load::{self, GET_KEY, Load, Outcome, Target};
use crate::{apt, shell};

const ROUNDS: usize = 5;
const WARM_UP_S: u32 = 1;
const MEASURE_S: u32 = 3;
/// Where the server under test runs, and nothing else.
pub(super) const SERVER_CORE: usize = 0;
/// Where the load comes from.
pub(super) const LOAD_CORE: usize = 1;
const START_LIMIT: Duration = Duration::from_secs(10);

const LOADS: [Load; 5] = [
    Load {
        method: "GET",
        body_bytes: 4 << 10,
        connections: 32,
    },
    Load {
        method: "GET",
        body_bytes: 1 << 20,
        connections: 16,
    },
    Load {
        method: "GET",
        body_bytes: 64 << 20,
        connections: 4,
    },
    Load {
        method: "PUT",
        body_bytes: 4 << 10,
        connections: 32,
    },
    Load {
        method: "PUT",
        body_bytes: 1 << 20,
        connections: 16,
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Nginx,
    Larder,
}

struct Measurement {
    load: String,
    peer: Peer,
    round: usize,
    outcome: Outcome,
}

/// Measures both and writes the run.
pub(crate) fn run() -> Result<()> {
    ensure!(
        std::thread::available_parallelism()?.get() > LOAD_CORE,
        "this needs two cores"
    );
    install(&["nginx", "wrk"])?;
    shell::timed("building larder in release", || {
        shell::show(shell::cargo().args(["build", "--release", "--locked", "--package", "larder"]))
    })?;
    let larder = target_dir().join("release/larder");

    let mut measurements = Vec::new();
    for round in 0..ROUNDS {
        let order = match round % 2 {
            0 => [Peer::Nginx, Peer::Larder],
            _ => [Peer::Larder, Peer::Nginx],
        };
        for load in &LOADS {
            for peer in order {
                let outcome = match peer {
                    Peer::Nginx => measure_nginx(load)?,
                    Peer::Larder => measure_larder(load, &larder)?,
                };
                let Outcome {
                    requests_per_s,
                    cpu_us_per_request,
                } = outcome;
                let name = load.name();
                shell::say(&format!(
                    "round {}/{ROUNDS} {name} {peer:?}: {requests_per_s:.0}/s, \
                     {cpu_us_per_request:.1} µs of CPU each",
                    round + 1
                ));
                measurements.push(Measurement {
                    load: name,
                    peer,
                    round,
                    outcome,
                });
            }
        }
    }
    Report {
        topic: "http",
        method: method()?,
        raw: measurements.iter().map(Measurement::raw).collect(),
        summary: summary(&measurements),
    }
    .write()
}

impl Measurement {
    fn raw(&self) -> Value {
        json!({
            "load": self.load,
            "server": format!("{:?}", self.peer).to_lowercase(),
            "round": self.round,
            "requests_per_s": self.outcome.requests_per_s,
            "cpu_us_per_request": self.outcome.cpu_us_per_request,
        })
    }
}

fn measure_larder(load: &Load, binary: &Path) -> Result<Outcome> {
    let options = ServerOptions {
        core: Some(SERVER_CORE),
        ..ServerOptions::default()
    };
    let mut server = Server::start_with(binary, options)?;
    let token = server.token(Access::Trusted, None)?;
    let target = Target {
        pid: server.pid().unwrap_or_default(),
        url_prefix: format!("{}/v1/cache/", server.url()),
        token: Some(&token),
    };
    let outcome = measure(load, &target, server.address());
    server.stop()?;
    outcome
}

fn measure_nginx(load: &Load) -> Result<Outcome> {
    let server = Nginx::start(None)?;
    let target = Target {
        pid: server.pid(),
        url_prefix: format!("{}/", server.url()),
        token: None,
    };
    measure(load, &target, server.address)
}

fn measure(load: &Load, target: &Target<'_>, address: SocketAddr) -> Result<Outcome> {
    if load.method == "GET" {
        let path = format!(
            "{}{GET_KEY}",
            target.url_prefix.replace(&format!("http://{address}"), "")
        );
        let mut put = Request::put(&path, vec![b'x'; load.body_bytes]);
        if let Some(token) = target.token {
            put = put.bearer(token);
        }
        let answer = http::exchange(address, &put)?;
        ensure!(answer.status < 300, "the first PUT was refused: {answer:?}");
    }
    // What one measurement leaves for the kernel to write must not slow the next.
    shell::read(&mut Command::new("sync"))?;
    load::run(load, target, LOAD_CORE, WARM_UP_S)?;
    load::run(load, target, LOAD_CORE, MEASURE_S)
}

/// A folder that nginx serves at `/files/`, on the server's core. Stopped when dropped.
pub(super) struct Nginx {
    process: Child,
    scheme: &'static str,
    address: SocketAddr,
    _home: TempDir,
}

impl Nginx {
    /// Where files are put and got.
    pub(super) fn url(&self) -> String {
        format!("{}://{}/files", self.scheme, self.address)
    }

    /// The master process; the worker is its child.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Starts it and waits until it listens.
    pub(super) fn start(tls: Option<&Identity>) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-nginx-").tempdir()?;
        let address = free_address()?;
        let config = home.path().join("nginx.conf");
        fs::write(&config, nginx_config(home.path(), address, tls))?;
        fs::create_dir(home.path().join("files"))?;
        let process = Command::new("taskset")
            .args(["--cpu-list", &SERVER_CORE.to_string(), "nginx", "-c"])
            .arg(&config)
            .arg("-e")
            .arg(home.path().join("error.log"))
            .spawn()?;
        let mut server = Self {
            process,
            scheme: if tls.is_some() { "https" } else { "http" },
            address,
            _home: home,
        };
        process::wait_until("nginx to listen", START_LIMIT, || {
            if let Some(status) = server.process.try_wait()? {
                bail!("nginx ended: {status}");
            }
            Ok(TcpStream::connect(address).ok())
        })?;
        Ok(server)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // `nginx -s stop` is TERM to the master, which then stops its worker.
        let _ = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        let _ = self.process.wait();
    }
}

/// One worker, sendfile, no access log: nginx at its best for this work.
fn nginx_config(home: &Path, address: SocketAddr, tls: Option<&Identity>) -> String {
    let home = home.display();
    let listen = match tls {
        None => format!("listen {address} backlog=1024;"),
        Some(tls) => format!(
            "listen {address} ssl backlog=1024;
    ssl_certificate {};
    ssl_certificate_key {};
    ssl_protocols TLSv1.2 TLSv1.3;",
            tls.certificate.display(),
            tls.key.display()
        ),
    };
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {home}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  open_file_cache max=1000;
  client_max_body_size 0;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    {listen}
    root {home};
    location /files/ {{ dav_methods PUT; }}
  }}
}}
"
    )
}

/// A port that nobody has at this moment.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// nginx alone.
pub(super) fn install_nginx() -> Result<()> {
    install(&["nginx"])
}

fn install(programs: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| nginx_or_path(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt::install(&missing)
}

fn nginx_or_path(program: &str) -> Option<PathBuf> {
    let system = Path::new("/usr/sbin").join(program);
    shell::find(program).or_else(|| system.is_file().then_some(system))
}

fn method() -> Result<String> {
    let nginx = Command::new("nginx").arg("-v").output()?;
    let nginx = String::from_utf8_lossy(&nginx.stderr).trim().to_owned();
    Ok(format!(
        "- {nginx}: one worker, sendfile, open file cache, no access log, `dav_methods PUT`; no authentication\n\
         - larder: release build, defaults, one core and therefore one worker; a token on every request\n\
         - one server at a time on core {SERVER_CORE}, wrk (one thread) on core {LOAD_CORE}; \
         {WARM_UP_S} s to warm up, {MEASURE_S} s measured\n\
         - {ROUNDS} rounds, interleaved, each server started afresh on an empty folder; medians of the rounds\n\
         - every PUT has a new key; neither server syncs before it answers\n\
         - where wrk's own core is full the rates are wrk's limit, and the CPU per request tells the servers apart\n\
         - CPU is user and system time of the server's processes in `/proc/PID/stat`, divided by requests"
    ))
}

fn summary(measurements: &[Measurement]) -> String {
    let head = "\
| load | nginx req/s | larder req/s | larder / nginx | nginx CPU µs/req | larder CPU µs/req | larder / nginx |
|---|---:|---:|---:|---:|---:|---:|
";
    let rows = LOADS.map(|load| {
        let median_of = |peer: Peer, figure: fn(&Outcome) -> f64| {
            let of_peer = measurements
                .iter()
                .filter(|m| m.peer == peer && m.load == load.name());
            median(of_peer.map(|m| figure(&m.outcome)).collect())
        };
        let rate = |peer| median_of(peer, |outcome| outcome.requests_per_s);
        let cpu = |peer| median_of(peer, |outcome| outcome.cpu_us_per_request);
        let (rate_nginx, rate_larder) = (rate(Peer::Nginx), rate(Peer::Larder));
        let (cpu_nginx, cpu_larder) = (cpu(Peer::Nginx), cpu(Peer::Larder));
        format!(
            "| {} | {rate_nginx:.0} | {rate_larder:.0} | {:.2} | {cpu_nginx:.1} | {cpu_larder:.1} | {:.2} |\n",
            load.name(),
            rate_larder / rate_nginx,
            cpu_larder / cpu_nginx,
        )
    });
    format!("{head}{}", rows.concat())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
