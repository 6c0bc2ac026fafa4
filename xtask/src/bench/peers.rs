//! Larder against other caches, in one run: nginx over HTTP, buildbox-casd over gRPC, and any server that is started by hand.
//!
//! Each server has the same core, the load the other. `larder bench` asks two of them in turns, checks every byte, and divides;
//! here servers are started and stopped, and figures kept. Larder checks a token on every request, the others check nothing. None
//! of them syncs before it answers a write.
//!
//! A peer that is started by hand is `NAME=URL,PID`: bazel-remote, bb_storage, NativeLink. It is pinned to the servers' core.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use larder_testkit::{Access, Identity, Server, ServerOptions, TlsOptions, process, target_dir};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Report;
use super::http::{LOAD_CORE, Nginx, SERVER_CORE, free_address, install_nginx};
use crate::{clients, shell};

const BLOCKS: u32 = 5;
const DURATION: &str = "2s";

/// Of a try, whose figures nobody keeps.
const TRY_BLOCKS: u32 = 1;
const TRY_DURATION: &str = "200ms";

/// What one scenario may write to one server: all of them have to fit on a disk, side by side.
const WRITE_LIMIT: &str = "1GiB";

/// Room for all that is written, so that nothing is evicted in a run.
const LARDER_CONFIG: &str = "[store]\ntrusted = \"24GiB\"\nuntrusted = \"1GiB\"\n";

const HTTP_SCENARIOS: [&str; 9] = [
    "read:4KiB",
    "read:1MiB",
    "read:64MiB",
    "miss",
    "write:4KiB",
    "write:1MiB",
    "write:64MiB",
    "mixed:90",
    "storm",
];

/// What TLS changes.
const HTTPS_SCENARIOS: [&str; 3] = ["read:4KiB", "read:64MiB", "write:1MiB"];

const GRPC_SCENARIOS: [&str; 14] = [
    "action:10",
    "action-miss",
    "find:1000",
    "find:10000",
    "find-absent:1000",
    "batch-read:4KiB",
    "batch-update:4KiB",
    "read:128KiB",
    "read:64MiB",
    "write:128KiB",
    "write:64MiB",
    "mixed:90",
    "dxos",
    "buildbuddy",
];

const START_LIMIT: Duration = Duration::from_secs(30);
const DOCUMENT: &str = "docs/bench.md";
const TABLE_BEGINS: &str = "<!-- begins: written by `cargo xtask bench peers` -->\n";
const TABLE_ENDS: &str = "<!-- ends -->";

/// What the chore was asked for.
struct Asked {
    /// Anything but `release` tries the chore and keeps nothing.
    profile: String,
    by_hand: Vec<ByHand>,
}

/// A server that somebody started.
#[derive(Debug, PartialEq, Eq)]
struct ByHand {
    name: String,
    url: String,
    pid: u32,
}

/// A server of this run.
struct Peer<'a> {
    name: &'a str,
    url: String,
    protocol: &'static str,
    pid: u32,
}

/// Measures all and writes the run.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let asked = parse(words)?;
    ensure!(
        std::thread::available_parallelism()?.get() > LOAD_CORE,
        "this needs two cores"
    );
    install_nginx()?;
    let casd = clients::casd()?;
    let larder = build(&asked.profile)?;
    let is_try = asked.profile != "release";
    let bench = Bench {
        larder: &larder,
        is_try,
        reports: Vec::new(),
    };
    let bench = measure_all(bench, &casd, &asked.by_hand)?;
    let summary = summary(&bench.reports);
    if is_try {
        shell::say(&format!(
            "nothing is kept: this is no release build\n{summary}"
        ));
        return Ok(());
    }
    write_document(&summary)?;
    Report {
        topic: "peers",
        method: method(&casd)?,
        raw: bench.reports.into_iter().map(|(_, _, raw)| raw).collect(),
        summary,
    }
    .write()
}

fn parse(words: &[&str]) -> Result<Asked> {
    let mut asked = Asked {
        profile: "release".to_owned(),
        by_hand: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == "--profile" {
            let profile = words.next().context("which profile?")?;
            asked.profile = (*profile).to_string();
            continue;
        }
        let parts = word.split_once('=').and_then(|(name, rest)| {
            let (url, pid) = rest.rsplit_once(',')?;
            Some((name, url, pid.parse().ok()?))
        });
        let Some((name, url, pid)) = parts else {
            bail!("{word}: a server that runs already is NAME=URL,PID");
        };
        ensure!(
            url.starts_with("grpc://"),
            "{word}: only grpc:// is measured"
        );
        asked.by_hand.push(ByHand {
            name: name.to_owned(),
            url: url.to_owned(),
            pid,
        });
    }
    Ok(asked)
}

fn build(profile: &str) -> Result<PathBuf> {
    shell::timed(&format!("building larder ({profile})"), || {
        let mut cargo = shell::cargo();
        cargo.args([
            "build",
            "--locked",
            "--package",
            "larder",
            "--profile",
            profile,
        ]);
        shell::show(&mut cargo)
    })?;
    Ok(target_dir().join(profile).join("larder"))
}

/// Each pair of servers is started afresh and gone before the next.
fn measure_all<'a>(mut bench: Bench<'a>, casd: &Path, by_hand: &[ByHand]) -> Result<Bench<'a>> {
    {
        let house = House::open(bench.larder, None)?;
        let nginx = Nginx::start(None)?;
        let other = files(&nginx, "nginx");
        let larder = house.peer(house.server.url(), "nx")?;
        bench.compare(&house, &larder, &other, &HTTP_SCENARIOS)?;
    }
    {
        let certificate = Certificate::create()?;
        let house = House::open(bench.larder, Some(&certificate.identity))?;
        let nginx = Nginx::start(Some(&certificate.identity))?;
        let other = files(&nginx, "nginx with TLS");
        let larder = house.peer(house.server.tls_url(), "nx")?;
        bench.compare(&house, &larder, &other, &HTTPS_SCENARIOS)?;
    }
    {
        let house = House::open(bench.larder, None)?;
        let casd = Casd::start(casd)?;
        let other = Peer {
            name: "buildbox-casd",
            url: casd.url.clone(),
            protocol: "reapi",
            pid: casd.process.id(),
        };
        let larder = house.peer(house.grpc(), "reapi")?;
        bench.compare(&house, &larder, &other, &GRPC_SCENARIOS)?;
    }
    for started in by_hand {
        pin(started.pid)?;
        let house = House::open(bench.larder, None)?;
        let other = Peer {
            name: &started.name,
            url: started.url.clone(),
            protocol: "reapi",
            pid: started.pid,
        };
        let larder = house.peer(house.grpc(), "reapi")?;
        bench.compare(&house, &larder, &other, &GRPC_SCENARIOS)?;
    }
    Ok(bench)
}

fn files(nginx: &Nginx, name: &'static str) -> Peer<'static> {
    Peer {
        name,
        url: nginx.url(),
        protocol: "files",
        pid: nginx.pid(),
    }
}

/// A certificate for `127.0.0.1` that is its own authority.
struct Certificate {
    identity: Identity,
    _folder: TempDir,
}

impl Certificate {
    /// By openssl: the chores build no cryptography.
    fn create() -> Result<Self> {
        const REQUEST: &str = "[req]\ndistinguished_name = name\nx509_extensions = more\nprompt = no\n\
                               [name]\nCN = localhost\n\
                               [more]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";
        let folder = tempfile::Builder::new().prefix("larder-cert-").tempdir()?;
        let config = folder.path().join("request");
        std::fs::write(&config, REQUEST)?;
        let identity = Identity::of_files(
            folder.path().join("certificate.pem"),
            folder.path().join("key.pem"),
        );
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-config"]);
        openssl.arg(&config).arg("-out").arg(&identity.certificate);
        openssl.arg("-keyout").arg(&identity.key);
        shell::read(&mut openssl)?;
        Ok(Self {
            identity,
            _folder: folder,
        })
    }
}

/// A Larder on the servers' core.
struct House {
    server: Server,
    token: String,
    certificate: Option<PathBuf>,
}

impl House {
    fn open(binary: &Path, tls: Option<&Identity>) -> Result<Self> {
        let options = ServerOptions {
            config: Some(LARDER_CONFIG.to_owned()),
            core: Some(SERVER_CORE),
            tls: tls.cloned().map(TlsOptions::new),
            ..ServerOptions::default()
        };
        let server = Server::start_with(binary, options)?;
        let token = server.token(Access::Trusted, None)?;
        Ok(Self {
            server,
            token,
            certificate: tls.map(|tls| tls.certificate.clone()),
        })
    }

    fn grpc(&self) -> String {
        format!("grpc://{}", self.server.address())
    }

    fn peer(&self, url: String, protocol: &'static str) -> Result<Peer<'static>> {
        Ok(Peer {
            name: "larder",
            url,
            protocol,
            pid: self.server.pid().context("larder has ended")?,
        })
    }
}

/// A buildbox-casd that is a server by itself. Killed when dropped.
struct Casd {
    process: Child,
    url: String,
    _home: TempDir,
}

impl Casd {
    fn start(program: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-casd-").tempdir()?;
        let address = free_address()?;
        let process = Command::new("taskset")
            .args(["--cpu-list", &SERVER_CORE.to_string()])
            .arg(program)
            .arg(format!("--bind={address}"))
            .arg(home.path())
            .spawn()?;
        let mut casd = Self {
            process,
            url: format!("grpc://{address}"),
            _home: home,
        };
        process::wait_until("buildbox-casd to listen", START_LIMIT, || {
            if let Some(status) = casd.process.try_wait()? {
                bail!("buildbox-casd ended: {status}");
            }
            Ok(std::net::TcpStream::connect(address).ok())
        })?;
        Ok(casd)
    }
}

impl Drop for Casd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All threads of a process to the servers' core.
fn pin(pid: u32) -> Result<()> {
    let core = SERVER_CORE.to_string();
    let mut taskset = Command::new("taskset");
    taskset.args([
        "--all-tasks",
        "--cpu-list",
        "--pid",
        &core,
        &pid.to_string(),
    ]);
    shell::read(&mut taskset).map(|_| ())
}

struct Bench<'a> {
    larder: &'a Path,
    is_try: bool,
    /// The other server, the scenario, what `larder bench` said.
    reports: Vec<(String, &'static str, Value)>,
}

impl Bench<'_> {
    fn compare(
        &mut self,
        house: &House,
        larder: &Peer<'_>,
        other: &Peer<'_>,
        scenarios: &[&'static str],
    ) -> Result<()> {
        for (number, scenario) in scenarios.iter().enumerate() {
            shell::say(&format!("{scenario}: larder and {}", other.name));
            // What one measurement leaves for the kernel to write must not slow the next.
            shell::read(&mut Command::new("sync"))?;
            let (blocks, duration) = if self.is_try {
                (TRY_BLOCKS, TRY_DURATION)
            } else {
                (BLOCKS, DURATION)
            };
            let mut command = Command::new("taskset");
            command
                .args(["--cpu-list", &LOAD_CORE.to_string()])
                .arg(self.larder)
                .args(["bench", &larder.url, "--protocol", larder.protocol])
                .args(["--pid", &larder.pid.to_string()])
                .args([
                    "--compare",
                    &other.url,
                    "--compare-protocol",
                    other.protocol,
                ])
                .args(["--compare-pid", &other.pid.to_string()])
                .args(["--blocks", &blocks.to_string(), "--duration", duration])
                .args(["--write-limit", WRITE_LIMIT, "--scenario", scenario])
                // No two scenarios of one server may know each other's entries.
                .args(["--seed", &(number + 1).to_string(), "--json"])
                .env("LARDER_BENCH_TOKEN", &house.token);
            if let Some(certificate) = &house.certificate {
                command.arg("--ca-file").arg(certificate);
            }
            let printed = shell::read(&mut command)?;
            let mut raw: Value = serde_json::from_str(&printed)?;
            raw["against"] = json!(other.name);
            self.reports.push((other.name.to_owned(), scenario, raw));
        }
        Ok(())
    }
}

fn method(casd: &Path) -> Result<String> {
    let nginx = Command::new("nginx").arg("-v").output()?;
    let nginx = String::from_utf8_lossy(&nginx.stderr).trim().to_owned();
    let casd = shell::read(Command::new(casd).arg("--version"))?;
    let casd = casd
        .trim()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned();
    Ok(format!(
        "- {nginx}: one worker, sendfile, open file cache, no access log, `dav_methods PUT`; no authentication\n\
         - buildbox-casd {casd}: its defaults, its own store; no authentication\n\
         - larder: release build, its defaults but for larger pools; a token on every request\n\
         - every server on core {SERVER_CORE}, `larder bench` with one thread on core {LOAD_CORE}\n\
         - {BLOCKS} blocks of {DURATION} for each scenario and server, in turns (A B, B A, …); builds as long as they take\n\
         - no server syncs before it answers a write\n\
         - every body that was read was compared, of what was written a sample was read back\n\
         - processor time is user and system time of the server's processes in `/proc/PID/stat`"
    ))
}

/// A table for each other server; more than 1 is good for Larder.
fn summary(reports: &[(String, &'static str, Value)]) -> String {
    let mut names: Vec<&str> = reports.iter().map(|(name, ..)| name.as_str()).collect();
    names.dedup();
    let table = |name: &&str| {
        let rows: String = reports
            .iter()
            .filter(|(against, ..)| against == name)
            .map(|(_, scenario, raw)| rows(scenario, raw))
            .collect();
        format!(
            "### Larder and {name}\n\n\
             | scenario | larder/s | {name}/s | ratio (95 %) | larder CPU | {name} CPU | ratio by CPU (95 %) | |\n\
             |---|---:|---:|---|---:|---:|---|---|\n{rows}\n"
        )
    };
    names.iter().map(table).collect()
}

fn rows(scenario: &str, raw: &Value) -> String {
    let empty = Vec::new();
    let figures = raw["figures"].as_array().unwrap_or(&empty);
    let left_out = raw["left_out"].as_array().into_iter().flatten();
    let left_out = left_out.map(|why| {
        format!(
            "| {scenario} | | | | | | | left out: {} |\n",
            why.as_str().unwrap_or_default()
        )
    });
    let pairs = figures.chunks(2).map(|pair| {
        let [larder, other] = pair else {
            return String::new();
        };
        let name = larder["scenario"].as_str().unwrap_or_default();
        let rate = |figure: &Value| number(&figure["requests_per_s"], 0);
        let cpu = |figure: &Value| {
            let micros = &figure["server_cpu_us_per_request"];
            format!("{} µs", number(micros, 1))
        };
        let (ratio, is_behind) = ratio(raw, name, "requests_per_s");
        let (by_cpu, costs_more) = self::ratio(raw, name, "requests_per_server_cpu_s");
        let verdict = match (is_behind, costs_more) {
            (false, false) => "",
            (true, false) => "**slower**",
            (false, true) => "**costs more**",
            (true, true) => "**slower, costs more**",
        };
        format!(
            "| {name} | {} | {} | {ratio} | {} | {} | {by_cpu} | {verdict} |\n",
            rate(larder),
            rate(other),
            cpu(larder),
            cpu(other),
        )
    });
    pairs.chain(left_out).collect()
}

/// A ratio as text, and whether Larder is behind with what the interval leaves of doubt.
fn ratio(raw: &Value, scenario: &str, figure: &str) -> (String, bool) {
    let ratios = raw["ratios"].as_array().into_iter().flatten();
    let mut found =
        ratios.filter(|ratio| ratio["scenario"] == scenario && ratio["figure"] == figure);
    let Some(ratio) = found.next() else {
        return ("–".to_owned(), false);
    };
    let mut text = number(&ratio["ratio"], 2);
    if !ratio["low"].is_null() {
        let [low, high] = ["low", "high"].map(|bound| number(&ratio[bound], 2));
        text = format!("{text} ({low}–{high})");
    }
    (text, ratio["high"].as_f64().is_some_and(|high| high < 1.0))
}

fn number(value: &Value, digits: usize) -> String {
    value
        .as_f64()
        .map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Puts the tables into the documentation, in place of the last ones.
fn write_document(summary: &str) -> Result<()> {
    let page = std::fs::read_to_string(DOCUMENT)?;
    let page = with_table(&page, summary)?;
    Ok(std::fs::write(DOCUMENT, page)?)
}

fn with_table(page: &str, summary: &str) -> Result<String> {
    let places = page
        .split_once(TABLE_BEGINS)
        .and_then(|(before, rest)| Some((before, rest.split_once(TABLE_ENDS)?.1)));
    let (before, after) =
        places.with_context(|| format!("{DOCUMENT} has no place for the table"))?;
    Ok(format!(
        "{before}{TABLE_BEGINS}\n{summary}{TABLE_ENDS}{after}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_by_hand_has_a_name_an_address_and_a_process() {
        let asked = parse(&["--profile", "ci", "bazel-remote=grpc://127.0.0.1:9092,4711"]).unwrap();
        assert_eq!(asked.profile, "ci");
        let expected = ByHand {
            name: "bazel-remote".to_owned(),
            url: "grpc://127.0.0.1:9092".to_owned(),
            pid: 4711,
        };
        assert_eq!(asked.by_hand, [expected]);
        for word in [
            "x",
            "x=grpc://h:1",
            "x=http://h:1,3",
            "x=grpc://h,y",
            "--profile",
        ] {
            assert!(parse(&[word]).is_err(), "{word}");
        }
    }

    #[test]
    fn where_larder_is_behind_the_table_says_so() {
        let figure = |rate: f64| json!({"scenario": "miss", "requests_per_s": rate, "server_cpu_us_per_request": 10.0});
        let ratio = |figure: &str, high: f64| json!({"scenario": "miss", "figure": figure, "ratio": 0.9, "low": 0.8, "high": high});
        let raw = |fast: f64, cheap: f64| {
            json!({
                "figures": [figure(90.0), figure(100.0)],
                "ratios": [ratio("requests_per_s", fast), ratio("requests_per_server_cpu_s", cheap)],
                "left_out": [],
            })
        };
        assert!(rows("miss", &raw(0.95, 1.2)).ends_with("| **slower** |\n"));
        assert!(rows("miss", &raw(1.1, 0.99)).ends_with("| **costs more** |\n"));
        assert!(rows("miss", &raw(1.1, 1.2)).ends_with("|  |\n"));
        let none = json!({"figures": [], "ratios": [], "left_out": ["miss: refused"]});
        assert!(rows("miss", &none).contains("left out: miss: refused"));
    }

    #[test]
    fn only_the_table_of_the_page_is_replaced() {
        let page = format!("before\n{TABLE_BEGINS}old\n{TABLE_ENDS}\nafter\n");
        let once = with_table(&page, "new\n").unwrap();
        assert_eq!(
            once,
            format!("before\n{TABLE_BEGINS}\nnew\n{TABLE_ENDS}\nafter\n")
        );
        assert_eq!(with_table(&once, "new\n").unwrap(), once);
        assert!(with_table("nothing", "new").is_err());
        let page = larder_testkit::repository_root().join(DOCUMENT);
        assert!(with_table(&std::fs::read_to_string(page).unwrap(), "new").is_ok());
    }
}
