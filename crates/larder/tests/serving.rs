//! The server as its operator sees it: starting, stopping, reloading, and what it prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use larder_testkit::http::{Answer, Connection, Request, exchange};
use larder_testkit::{Access, Server, ServerOptions, larder_binary, process};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(20);

fn start(config: &str) -> Server {
    let options = ServerOptions {
        config: Some(config.to_owned()),
        ..ServerOptions::default()
    };
    Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap()
}

fn send(server: &Server, request: &Request) -> Answer {
    exchange(server.address(), request).unwrap()
}

fn put(server: &Server, key: &str, token: &str, body: &[u8]) -> u16 {
    send(
        server,
        &Request::put(&format!("/v1/cache/{key}"), body).bearer(token),
    )
    .status
}

fn get(server: &Server, key: &str, token: &str) -> Answer {
    send(
        server,
        &Request::get(&format!("/v1/cache/{key}")).bearer(token),
    )
}

fn signal(server: &Server, signal: Signal) {
    let pid = i32::try_from(server.pid().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn wait_until_ready(server: &Server) {
    process::wait_until("readiness", SOON, || {
        Ok((send(server, &Request::get("/readyz")).status == 200).then_some(()))
    })
    .unwrap();
}

/// The token in the lines to paste.
fn printed_token(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=")?;
    rest.split_whitespace().next()
}

#[test]
fn the_first_start_prints_what_to_paste_and_later_starts_print_no_token() {
    let mut server = start("");
    let output = server.output();
    assert!(
        output.contains(&format!(
            "NX_SELF_HOSTED_REMOTE_CACHE_SERVER={}",
            server.url()
        )),
        "{output}"
    );
    assert!(
        output.contains("larder token create --access isolated --data-dir"),
        "{output}"
    );
    let token = printed_token(&output).unwrap().to_owned();
    let grpc = server.url().replace("http://", "grpc://");
    for line in [
        format!("  export MOON_REMOTE_HOST={grpc}\n"),
        format!("  export LARDER_TOKEN={token}\n"),
        format!("  remote:\n    host: '{grpc}'\n    auth:\n      token: 'LARDER_TOKEN'\n"),
        format!("  build --remote_cache={grpc}\n"),
        format!("  build --remote_header=\"authorization=Bearer {token}\"\n"),
    ] {
        assert!(output.contains(&line), "{line:?} is in {output}");
    }
    assert_eq!(put(&server, "1", &token, b"one"), 200);
    assert_eq!(get(&server, "1", &token).body, b"one");
    server.restart().unwrap();
    let tokens = |output: &str| output.matches("lrd_").count();
    assert_eq!(tokens(&output), output.matches(&token).count(), "{output}");
    let later = server.output();
    assert_eq!(tokens(&later), tokens(&output), "{later}");
    assert_eq!(get(&server, "1", &token).body, b"one");
}

#[test]
fn a_start_that_fails_late_does_not_take_the_only_token_with_it() {
    let home = tempfile::tempdir().unwrap();
    let run = |environment: &[(&str, &str)]| {
        let mut command = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
        command.current_dir(home.path());
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        process::run(command.envs(environment.iter().copied()), SOON).unwrap()
    };
    let failed = run(&[("LARDER_STORE_TRUSTED", "900TiB")]);
    assert!(!failed.status.success());
    assert!(
        failed.stderr.contains("but the disk has"),
        "{}",
        failed.stderr
    );
    // A script stands for the program, so that it serves the directory of the failed start.
    let script = home.path().join("larder");
    let text = format!(
        "#!/bin/sh\ncd '{}'\nexec '{}' serve --listen 127.0.0.1:0\n",
        home.path().display(),
        larder_binary(env!("CARGO_BIN_EXE_larder")).display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let server = Server::start_with(&script, ServerOptions::default()).unwrap();
    let output = server.output();
    assert!(printed_token(&output).is_some(), "{output}");
}

#[test]
fn a_server_without_workspaces_gives_nobody_a_new_token() {
    let mut server = start("");
    for arguments in [
        &["token", "revoke", "1"][..],
        &["workspace", "delete", "default"],
    ] {
        server.larder(arguments).unwrap().success().unwrap();
    }
    server.restart().unwrap();
    let output = server.output();
    assert_eq!(output.matches("First start").count(), 1, "{output}");
    let list = server
        .larder(&["token", "list"])
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(list.matches("revoked").count(), 1, "{list}");
    assert!(!list.contains("in force"), "{list}");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let home = tempfile::tempdir().unwrap();
    let printed = home.path().join("printed");
    let mut child = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(home.path())
        .env("LARDER_LOG_LEVEL", "debug")
        .stdout(std::fs::File::create(&printed).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = process::wait_until("the address", SOON, || {
        let text = std::fs::read_to_string(&printed)?;
        let (_, rest) = text.split_once("http://").unwrap_or_default();
        Ok(rest
            .split_once('\n')
            .and_then(|(line, _)| line.parse().ok()))
    });
    let request = Request::put(&format!("/v1/cache/{}", "k".repeat(150)), "x");
    // Far more than a pipe and the queue before it hold.
    let mut connection = Connection::open(address.unwrap()).unwrap();
    for _ in 0..4000 {
        assert_eq!(connection.exchange(&request).unwrap().status, 403);
    }
    let mut log = child.stderr.take().unwrap();
    let (seen, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        for line in std::io::BufRead::lines(std::io::BufReader::new(&mut log)) {
            text.push_str(&line.unwrap());
            // Nobody waits any more once the test has seen it.
            let _ = text
                .contains("log lines were dropped")
                .then(|| seen.send(()));
        }
    });
    lines.recv_timeout(SOON).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}

#[test]
fn a_server_whose_log_nobody_reads_ends() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let filler = vec![b'x'; 1 << 20];
    let mut full = writer.try_clone().unwrap();
    let stuffed = std::thread::spawn(move || full.write_all(&filler));
    let mut child = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(home.path())
        .stdout(std::fs::File::create(home.path().join("printed")).unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    process::wait_until("the start", SOON, || {
        let text = std::fs::read_to_string(home.path().join("printed"))?;
        Ok(text.contains("listening on").then_some(()))
    })
    .unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = process::wait_until("the end", SOON, || Ok(child.try_wait()?)).unwrap();
    assert!(ended.success());
    drop(reader);
    assert!(stuffed.join().unwrap().is_err(), "nobody read");
}

#[test]
fn what_is_made_is_its_owners_alone_and_an_open_directory_is_complained_about() {
    let server = start("");
    wait_until_ready(&server);
    for path in walk(&server.data_dir()) {
        let mode = std::fs::symlink_metadata(&path)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    let mut server = server;
    server.stop().unwrap();
    let closed = server.output();
    assert!(!closed.contains("chmod 0700"), "{closed}");
    std::fs::set_permissions(server.data_dir(), Permissions::from_mode(0o755)).unwrap();
    server.start_again().unwrap();
    server.wait_for_output("chmod 0700", SOON).unwrap();
}

#[test]
fn an_address_that_others_can_reach_takes_a_decision() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
        command.current_dir(home.path()).args(arguments);
        process::run(&mut command, SOON).unwrap()
    };
    let refused = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("--insecure-http"),
        "{}",
        refused.stderr
    );
    assert!(
        !home.path().join("larder-data").exists(),
        "a refusal leaves nothing behind"
    );

    let options = ServerOptions {
        environment: vec![("LARDER_HTTP_LISTEN".into(), "0.0.0.0:1".into())],
        arguments: vec!["--insecure-http".into()],
        ..ServerOptions::default()
    };
    let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
    let server = Server::start_with(binary, options).unwrap();
    assert!(
        server.address().ip().is_loopback(),
        "a flag overrides the environment"
    );
}

#[test]
fn sigterm_ends_cleanly_and_acknowledged_entries_survive_that_and_kill_9() {
    let mut server = start("");
    let token = server.token(Access::Trusted, None).unwrap();
    let large = vec![7; 3 << 20];
    wait_until_ready(&server);
    for key in 0..20 {
        assert_eq!(
            put(
                &server,
                &key.to_string(),
                &token,
                format!("v{key}").as_bytes()
            ),
            200
        );
    }
    assert_eq!(put(&server, "large", &token, &large), 200);
    server.kill().unwrap();
    server.start_again().unwrap();
    wait_until_ready(&server);
    assert_eq!(put(&server, "after", &token, b"after"), 200);
    assert!(server.stop().unwrap().success(), "{}", server.output());
    server.start_again().unwrap();
    wait_until_ready(&server);
    for key in 0..20 {
        assert_eq!(
            get(&server, &key.to_string(), &token).text(),
            format!("v{key}")
        );
    }
    assert_eq!(get(&server, "large", &token).body, large);
    assert_eq!(get(&server, "after", &token).text(), "after");
}

#[test]
fn two_servers_cannot_share_a_data_directory() {
    let server = start("");
    let second = server
        .larder(&["serve", "--listen", "127.0.0.1:0"])
        .unwrap();
    assert!(!second.status.success());
    assert!(
        second.stderr.contains("another larder"),
        "{}",
        second.stderr
    );
    assert!(second.stderr.contains("--data-dir"), "{}", second.stderr);
}

#[test]
fn a_stopping_server_finishes_what_has_begun() {
    let mut server = start("");
    let token = server.token(Access::Trusted, None).unwrap();
    let request = Request::put("/v1/cache/5", "x".repeat(100)).bearer(&token);
    let bytes = request.bytes();
    let mut connection = Connection::open(server.address()).unwrap();
    connection.send(&bytes[..bytes.len() - 1]).unwrap();
    // The server has begun with the request once it serves one that came after it.
    wait_until_ready(&server);
    signal(&server, Signal::TERM);
    server.wait_for_output("stopping once", SOON).unwrap();
    connection.send(&bytes[bytes.len() - 1..]).unwrap();
    assert_eq!(connection.read_answer().unwrap().status, 200);
    let ended = process::wait_until("the end", SOON, || server.ended()).unwrap();
    assert!(ended.success(), "{}", server.output());
}

#[test]
fn a_stopping_server_does_not_wait_forever() {
    let mut server = start("[limits]\ndrain_timeout = \"300ms\"\n");
    let token = server.token(Access::Trusted, None).unwrap();
    let request = Request::put("/v1/cache/5", "")
        .claimed_length(1000)
        .bearer(&token);
    let mut connection = Connection::open(server.address()).unwrap();
    connection.send(&request.bytes()).unwrap();
    wait_until_ready(&server);
    signal(&server, Signal::TERM);
    let ended = process::wait_until("the end", SOON, || server.ended()).unwrap();
    assert!(ended.success(), "{}", server.output());
    assert!(
        server.output().contains("did not finish in time"),
        "{}",
        server.output()
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut server = start("[limits]\ndrain_timeout = \"10m\"\n");
    let token = server.token(Access::Trusted, None).unwrap();
    let request = Request::put("/v1/cache/5", "")
        .claimed_length(1000)
        .bearer(&token);
    let mut connection = Connection::open(server.address()).unwrap();
    connection.send(&request.bytes()).unwrap();
    wait_until_ready(&server);
    signal(&server, Signal::INT);
    server.wait_for_output("stopping once", SOON).unwrap();
    assert!(
        server.ended().unwrap().is_none(),
        "an upload is still going on"
    );
    signal(&server, Signal::TERM);
    let ended = process::wait_until("the end", SOON, || server.ended()).unwrap();
    assert!(!ended.success());
}

#[test]
fn sighup_applies_what_can_change_and_says_what_cannot() {
    let mut server = start("[log]\nlevel = \"warn\"\n");
    wait_until_ready(&server);
    let token = server.token(Access::Trusted, None).unwrap();
    let stored = || put(&server, "1", &token, &[1; 2000]);
    process::wait_until("the token", SOON, || Ok((stored() != 401).then_some(()))).unwrap();
    let anonymous = || send(&server, &Request::get("/v1/cache/1")).status;
    assert_eq!(anonymous(), 404);

    let config = "[workspace.default]\npublic = true\nentry_size_max = \"1kB\"\n\
                  [store]\ntrusted = \"1GiB\"\nlease = \"2h\"\n[http]\nbase_path = \"/cache\"\n";
    std::fs::write(server.config_path(), config).unwrap();
    signal(&server, Signal::HUP);
    server
        .wait_for_output("configuration reloaded in part", SOON)
        .unwrap();
    let output = server.output();
    assert!(output.contains("store.lease"), "{output}");
    assert!(!output.contains("store.trusted"), "{output}");
    signal(&server, Signal::HUP);
    process::wait_until("the second reload", SOON, || {
        let said = server.output().matches("reloaded in part").count();
        Ok((said == 2).then_some(()))
    })
    .expect("a running server says again what it still waits for");
    assert_eq!(anonymous(), 200);
    assert_eq!(
        put(&server, "2", &token, &[1; 2000]),
        403,
        "the new limit is in force"
    );
    assert_eq!(send(&server, &Request::get("/cache/healthz")).status, 200);
    let stats = server
        .larder(&["stats", "--json"])
        .unwrap()
        .success()
        .unwrap();
    assert!(stats.contains("\"budget_bytes\": 1073741824"), "{stats}");

    std::fs::write(server.config_path(), "[workspace.default]\npubic = true\n").unwrap();
    signal(&server, Signal::HUP);
    server.wait_for_output("not reloaded", SOON).unwrap();
    assert!(
        server.output().contains("did you mean"),
        "{}",
        server.output()
    );
    assert_eq!(anonymous(), 200, "a broken file changes nothing");
    assert!(server.ended().unwrap().is_none());
}

#[test]
fn the_programs_own_routes_answer() {
    let server = start("");
    wait_until_ready(&server);
    let status = send(&server, &Request::get("/status"));
    assert_eq!(status.header("content-type"), Some("application/json"));
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["ready"], true);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    // moon shows its user what comes from here and from no other path.
    let bad = send(&server, &Request::get("/status").bearer("lrd_bad"));
    assert_eq!(bad.status, 401);
    assert_eq!(bad.header("content-type"), Some("text/plain"));
    assert!(bad.text().contains("not a whole Larder token"), "{bad:?}");
    let token = printed_token(&server.output()).unwrap().to_owned();
    assert_eq!(
        send(&server, &Request::get("/status").bearer(&token)).status,
        200
    );
    assert_eq!(send(&server, &Request::get("/healthz")).status, 200);
    assert_eq!(
        send(&server, &Request::new("DELETE", "/healthz")).status,
        405
    );
    let document = send(&server, &Request::get("/openapi.json"));
    assert!(serde_json::from_slice::<serde_json::Value>(&document.body).is_ok());
    assert_eq!(send(&server, &Request::get("/nothing")).status, 404);
}

#[test]
fn metrics_are_for_local_processes_unless_the_operator_says_otherwise() {
    let server = start("");
    let token = server.token(Access::Trusted, None).unwrap();
    wait_until_ready(&server);
    assert_eq!(put(&server, "1", &token, b"one"), 200);
    assert_eq!(get(&server, "1", &token).status, 200);
    let metrics = send(&server, &Request::get("/metrics")).text();
    for name in [
        "larder_hits_total{dialect=\"nx\",workspace=\"default\",access=\"trusted\"} 1",
        "larder_pool_budget_bytes{pool=\"shared/trusted\"}",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "larder_connections_accepted_total",
        "larder_build_info",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let forwarded = Request::get("/metrics").header("X-Forwarded-For", "10.0.0.1");
    assert_eq!(send(&server, &forwarded).status, 403);
    assert_eq!(send(&server, &forwarded.clone().bearer(&token)).status, 403);

    let admin = server.token(Access::Admin, None).unwrap();
    assert_eq!(send(&server, &forwarded.clone().bearer(&admin)).status, 403);

    let server = start("[http]\nmetrics = \"open\"\n");
    assert_eq!(send(&server, &forwarded).status, 200);
}

#[test]
fn a_token_is_in_no_output_and_no_list_of_processes() {
    let mut server = start("[log]\nlevel = \"trace\"\n");
    let tokens: Vec<String> = [
        Access::Trusted,
        Access::Isolated,
        Access::Reader,
        Access::Admin,
    ]
    .into_iter()
    .map(|access| server.token(access, None).unwrap())
    .collect();
    let unknown = "lrd_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg0XKMrF";
    wait_until_ready(&server);
    for token in tokens.iter().map(String::as_str).chain([unknown]) {
        put(&server, "1", token, b"x");
        get(&server, "1", token);
        get(&server, "../x", token);
        let odd = Request::get("/v1/cache/1").header("Authorization", &format!("Basic {token}"));
        send(&server, &odd);
        let doubled = Request::post_control(token);
        send(&server, &doubled);
        send(&server, &Request::get("/metrics").bearer(token));
    }
    let pid = server.pid().unwrap();
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let metrics = send(&server, &Request::get("/metrics")).text();
    server.stop().unwrap();
    let output = server.output();
    assert!(
        output.contains("TRACE") || output.contains("DEBUG"),
        "the log was not quiet"
    );
    for token in tokens.iter().map(String::as_str).chain([unknown]) {
        let secret = &token[4..40];
        let shown: Vec<&str> = output
            .lines()
            .filter(|line| line.contains(secret))
            .collect();
        assert!(shown.is_empty(), "the output shows a token: {shown:#?}");
        assert!(!metrics.contains(secret), "the metrics show a token");
        for place in [&cmdline, &environ] {
            assert!(!String::from_utf8_lossy(place).contains(secret));
        }
        for file in walk(&server.data_dir()) {
            let bytes = std::fs::read(&file).unwrap();
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a token", file.display());
        }
    }
}

trait ControlRequest {
    fn post_control(token: &str) -> Request;
}

impl ControlRequest for Request {
    /// A control call with the token as credential and in its message.
    fn post_control(token: &str) -> Request {
        let message = format!("{{\"key\": \"{token}\", \"dry_run\": true}}");
        Request::new("POST", "/v1/control/purge")
            .body(message)
            .bearer(token)
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.is_file())
        .collect()
}
