//! `larder bench` against real servers, and against ones that spoil or forget what they were given.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder_testkit::nginx::Nginx;
use larder_testkit::process::{self, Finished};
use larder_testkit::tls::Authority;
use larder_testkit::{Access, Server, ServerOptions, TlsOptions, larder_binary, left_out};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(3);

/// Short: what is tested is not how fast anything is.
const SHORT: [&str; 4] = ["--duration", "200ms", "--warm-up", "20ms"];

fn binary() -> PathBuf {
    larder_binary(env!("CARGO_BIN_EXE_larder"))
}

/// A server with room for whole builds, and a token.
fn server() -> (Server, String) {
    let options = ServerOptions {
        config: Some("[store]\ntrusted = \"8GiB\"\nuntrusted = \"1GiB\"\n".to_owned()),
        ..ServerOptions::default()
    };
    let server = Server::start_with(binary(), options).unwrap();
    let token = server.token(Access::Trusted, None).unwrap();
    (server, token)
}

fn bench(token: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(binary());
    command.arg("bench").args(arguments).args(SHORT);
    command.env("LARDER_BENCH_TOKEN", token);
    process::run(&mut command, LIMIT).unwrap()
}

fn report(token: &str, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let printed = bench(token, &arguments).success().unwrap();
    serde_json::from_str(&printed).unwrap()
}

fn with_scenarios<'a>(first: &[&'a str], scenarios: &[&'a str]) -> Vec<&'a str> {
    let scenarios = scenarios.iter().flat_map(|name| ["--scenario", *name]);
    first.iter().copied().chain(scenarios).collect()
}

/// Each of these was measured: there are answers, and none is a refusal.
#[track_caller]
fn check(report: &Value, scenarios: &[&str]) {
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures
        .iter()
        .map(|figure| figure["scenario"].as_str().unwrap())
        .collect();
    assert_eq!(names, scenarios, "{report:#}");
    for figure in figures {
        assert!(figure["requests"].as_u64().unwrap() > 0, "{figure:#}");
        assert_eq!(figure["refused"], 0, "{figure:#}");
        assert_eq!(figure["errors"], 0, "{figure:#}");
        let latency = &figure["latency_us"];
        assert!(
            latency["p50"].as_f64() <= latency["p99"].as_f64(),
            "{latency:#}"
        );
        assert!(
            latency["p99"].as_f64() <= latency["max"].as_f64(),
            "{latency:#}"
        );
    }
}

#[test]
fn a_server_is_measured_over_every_protocol_it_speaks() {
    let (server, token) = server();
    let pid = server.pid().unwrap().to_string();
    let nx = server.url();
    let nx = report(
        &token,
        &with_scenarios(
            &[nx.as_str(), "--pid", &pid],
            &["read:4KiB", "write:100KiB", "miss", "mixed:50", "read:3MiB"],
        ),
    );
    check(
        &nx,
        &["read:4KiB", "write:100KiB", "miss", "mixed:50", "read:3MiB"],
    );
    let figures = &nx["figures"];
    assert!(figures[0]["server_rss_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(figures[0]["misses"], 0);
    assert_eq!(figures[2]["misses"], figures[2]["requests"]);
    assert_eq!(
        figures[0]["bytes"].as_u64().unwrap(),
        figures[0]["requests"].as_u64().unwrap() * 4096
    );

    let bazel = format!("{}/main", server.url());
    let scenarios = [
        "read:4KiB",
        "write:100KiB",
        "miss",
        "action:3",
        "action-miss",
    ];
    let arguments = [bazel.as_str(), "--protocol", "reapi-http"];
    check(
        &report(&token, &with_scenarios(&arguments, &scenarios)),
        &scenarios,
    );

    let grpc = format!("grpc://{}/main", server.address());
    let scenarios = [
        "action:3",
        "action-miss",
        "find:100",
        "find-absent:100",
        "batch-read:4KiB",
        "batch-update:1KiB",
        "read:128KiB",
        "write:3MiB",
        "miss",
        "mixed:50",
    ];
    check(
        &report(&token, &with_scenarios(&[grpc.as_str()], &scenarios)),
        &scenarios,
    );
}

#[test]
fn a_whole_build_is_stored_and_comes_back() {
    let (server, token) = server();
    let grpc = format!("grpc://{}", server.address());
    let report = report(
        &token,
        &with_scenarios(&[grpc.as_str(), "--seed", "7"], &["dxos"]),
    );
    check(&report, &["dxos store", "dxos restore"]);
    assert_eq!(report["seed"], 7);
    let [store, restore] = [&report["figures"][0], &report["figures"][1]];
    // One miss for each task, and nothing missing afterwards.
    assert_eq!(store["misses"], 324);
    assert_eq!(restore["misses"], 0);
    assert!(restore["bytes"].as_u64().unwrap() > 448_000_000);
}

#[test]
fn nx_in_ci_asks_for_every_project_before_it_stores_it() {
    let (server, token) = server();
    let report = report(&token, &with_scenarios(&[&server.url()], &["storm"]));
    check(&report, &["storm store", "storm restore"]);
    assert_eq!(report["figures"][0]["requests"], 400);
    assert_eq!(report["figures"][0]["misses"], 200);
    assert_eq!(report["figures"][1]["requests"], 200);
}

#[test]
fn two_servers_are_measured_in_turns_and_one_is_divided_by_the_other() {
    if left_out("nginx") {
        return;
    }
    let (server, token) = server();
    let nginx = Nginx::shared_folder().unwrap();
    let (url, other) = (server.url(), nginx.url());
    let arguments = [
        url.as_str(),
        "--compare",
        &other,
        "--compare-protocol",
        "files",
        "--blocks",
        "3",
    ];
    let report = report(
        &token,
        &with_scenarios(&arguments, &["read:4KiB", "write:4KiB"]),
    );
    let blocks = report["blocks"].as_array().unwrap();
    let order: Vec<u64> = blocks
        .iter()
        .map(|block| block["target"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1]);
    for ratio in report["ratios"].as_array().unwrap() {
        let [low, ratio, high] = ["low", "ratio", "high"].map(|key| ratio[key].as_f64().unwrap());
        assert!(low <= ratio && ratio <= high, "{low} {ratio} {high}");
    }
}

#[test]
fn a_rate_is_kept_and_latency_counts_from_when_each_request_was_due() {
    let (server, token) = server();
    let url = server.url();
    let arguments = [url.as_str(), "--rate", "200", "--duration", "1s"];
    let mut command = Command::new(binary());
    command
        .arg("bench")
        .args(with_scenarios(&arguments, &["read:4KiB"]));
    command.args(["--json"]).env("LARDER_BENCH_TOKEN", &token);
    let printed = process::run(&mut command, LIMIT)
        .unwrap()
        .success()
        .unwrap();
    let report: Value = serde_json::from_str(&printed).unwrap();
    let requests = report["figures"][0]["requests"].as_u64().unwrap();
    assert!((180..=205).contains(&requests), "{requests}");
}

#[test]
fn one_wrong_byte_is_no_result() {
    let (server, token) = server();
    let spoilt = Spoiler::before(server.address(), Wire::Http1);
    let scenarios = ["--scenario", "read:4KiB"];
    let failed = bench(
        &token,
        &[&[spoilt.url("http").as_str()][..], &scenarios].concat(),
    );
    assert_wrong(&failed);

    let spoilt = Spoiler::before(server.address(), Wire::Http2);
    for scenario in ["read:128KiB", "batch-read:4KiB"] {
        let failed = bench(
            &token,
            &[spoilt.url("grpc").as_str(), "--scenario", scenario],
        );
        assert_wrong(&failed);
    }
}

#[track_caller]
fn assert_wrong(failed: &Finished) {
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.stdout.is_empty(), "{failed:?}");
    assert!(failed.stderr.contains("larder: wrong:"), "{failed:?}");
}

#[test]
fn a_server_that_takes_entries_and_forgets_them_is_no_result() {
    let address = forgetful();
    let url = format!("http://{address}");
    for scenario in ["write:4KiB", "read:4KiB", "storm"] {
        let failed = bench("any", &[url.as_str(), "--scenario", scenario]);
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert!(failed.stderr.contains("are gone"), "{failed:?}");
    }
}

#[test]
fn a_refused_credential_is_told_and_not_shown() {
    let (server, _) = server();
    let secret = "lrd_a_token_that_nobody_has_made";
    let failed = bench(secret, &[server.url().as_str(), "--scenario", "read:4KiB"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.stderr.contains("status 401"), "{failed:?}");
    assert!(!failed.stderr.contains(secret), "{failed:?}");
}

#[test]
fn a_token_does_not_cross_a_network_readable_unless_that_is_allowed() {
    for url in ["http://cache.example", "grpc://cache.example/main"] {
        let failed = bench("any", &[url]);
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert!(failed.stderr.contains("--insecure-http"), "{failed:?}");
    }
}

#[test]
fn tls_is_spoken_with_servers_whose_authority_is_known() {
    let authority = Authority::create().unwrap();
    let options = ServerOptions {
        tls: Some(TlsOptions::new(authority.server().unwrap())),
        ..ServerOptions::default()
    };
    let server = Server::start_with(binary(), options).unwrap();
    let token = server.token(Access::Trusted, None).unwrap();
    let ca = authority.certificate();
    let ca = ca.to_str().unwrap();
    for scheme in ["https", "grpcs"] {
        let url = format!("{scheme}://{}", server.tls_address());
        let arguments = with_scenarios(&[url.as_str(), "--ca-file", ca], &["read:128KiB"]);
        check(&report(&token, &arguments), &["read:128KiB"]);
        let failed = bench(&token, &[url.as_str(), "--scenario", "miss"]);
        assert!(failed.stderr.contains("no connection"), "{failed:?}");
    }
}

#[test]
fn what_the_protocol_does_not_have_is_left_out_and_named() {
    let (server, token) = server();
    let url = server.url();
    let arguments = with_scenarios(&[url.as_str()], &["find:10", "miss"]);
    let printed = bench(&token, &arguments).success().unwrap();
    assert!(printed.contains("left out: find:10"), "{printed}");
    assert!(printed.contains("\nmiss "), "{printed}");
    let alone = bench(&token, &[url.as_str(), "--scenario", "find:10"]);
    assert_eq!(alone.status.code(), Some(1));
}

/// What is spoken through a [`Spoiler`].
#[derive(Clone, Copy)]
enum Wire {
    Http1,
    Http2,
}

/// Between a client and a server: what the client says is handed on, and of the first large body that comes back one bit is turned.
struct Spoiler {
    address: SocketAddr,
}

impl Spoiler {
    fn before(server: SocketAddr, wire: Wire) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_done = Arc::new(AtomicBool::new(false));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, is_done) = (client.unwrap(), is_done.clone());
                let server = TcpStream::connect(server).unwrap();
                let (mut there, mut from) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut there));
                thread::spawn(move || match wire {
                    Wire::Http1 => spoil_http1(server, client, &is_done),
                    Wire::Http2 => spoil_http2(server, client),
                });
            }
        });
        Self { address }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

/// Turns the last bit of one body. The server writes head and small body at once.
fn spoil_http1(mut server: TcpStream, mut client: TcpStream, is_done: &AtomicBool) -> Option<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = server.read(&mut buffer).ok().filter(|count| *count > 0)?;
        if count > 4096 && !is_done.swap(true, Ordering::Relaxed) {
            buffer[count - 1] ^= 1;
        }
        client.write_all(&buffer[..count]).ok()?;
    }
}

/// Turns a bit in the middle of every large DATA frame.
fn spoil_http2(mut server: TcpStream, mut client: TcpStream) -> Option<()> {
    loop {
        let mut frame = vec![0; 9];
        server.read_exact(&mut frame).ok()?;
        let length =
            usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        frame.resize(9 + length, 0);
        server.read_exact(&mut frame[9..]).ok()?;
        let is_data = frame[3] == 0;
        if is_data && length > 3000 {
            frame[9 + length / 2] ^= 1;
        }
        client.write_all(&frame).ok()?;
    }
}

/// A server that says 200 to every `PUT`, and then 404 to every `GET`.
fn forgetful() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || forget(client.unwrap()));
        }
    });
    address
}

fn forget(client: TcpStream) -> Option<()> {
    let mut answers = client.try_clone().ok()?;
    let mut requests = BufReader::new(client);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        requests
            .read_line(&mut first)
            .ok()
            .filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            requests
                .read_line(&mut line)
                .ok()
                .filter(|count| *count > 0)?;
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink()).ok()?;
        let status = if first.starts_with("PUT") {
            "200 OK"
        } else {
            "404 Not Found"
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        answers.write_all(answer.as_bytes()).ok()?;
    }
}
