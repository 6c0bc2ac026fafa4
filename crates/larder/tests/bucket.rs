//! The program with a bucket behind its pools: a shared folder always, and a real S3 server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder_testkit::http::{Request, exchange};
use larder_testkit::process::wait_until;
use larder_testkit::s3::S3Server;
use larder_testkit::{Access, Server, ServerOptions, larder_binary, left_out};
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_mins(1);
/// Longer than a bucket is left alone after failures.
const RECOVERY_MAX: Duration = Duration::from_mins(2);
/// An answer that waited for nothing.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A bucket that can go away.
enum Place {
    Folder(TempDir),
    S3(Box<S3Server>),
}

impl Place {
    fn folder() -> Self {
        let home = TempDir::new().unwrap();
        fs::create_dir(home.path().join("share")).unwrap();
        Self::Folder(home)
    }

    /// Every kind there is on this machine.
    fn all() -> Vec<Self> {
        let mut places = vec![Self::folder()];
        if !left_out("versitygw") {
            places.push(Self::S3(Box::new(S3Server::start(&["builds"]).unwrap())));
        }
        places
    }

    fn options(&self, ack: &str) -> ServerOptions {
        let (bucket, environment) = match self {
            Self::Folder(home) => {
                let url = format!("file://{}/share", home.path().display());
                (format!("url = \"{url}\""), Vec::new())
            }
            Self::S3(s3) => {
                let endpoint = s3.endpoint();
                let keys = format!("url = \"s3://builds/larder\"\nendpoint = \"{endpoint}\"");
                (keys, s3.environment())
            }
        };
        ServerOptions {
            config: Some(format!("[bucket]\n{bucket}\nack = \"{ack}\"\n")),
            environment,
            ..ServerOptions::default()
        }
    }

    fn server(&self, ack: &str) -> Server {
        let program = larder_binary(env!("CARGO_BIN_EXE_larder"));
        Server::start_with(program, self.options(ack)).unwrap()
    }

    fn go_away(&mut self) {
        match self {
            Self::Folder(home) => {
                fs::rename(home.path().join("share"), home.path().join("away")).unwrap();
            }
            Self::S3(s3) => s3.upkeep().kill(),
        }
    }

    fn come_back(&mut self) {
        match self {
            Self::Folder(home) => {
                fs::rename(home.path().join("away"), home.path().join("share")).unwrap();
            }
            Self::S3(s3) => s3.upkeep().revive().unwrap(),
        }
    }
}

fn path(key: &str) -> String {
    format!("/v1/cache/{key}")
}

fn get(server: &Server, token: &str, key: &str) -> (u16, Vec<u8>) {
    let answer = exchange(server.address(), &Request::get(&path(key)).bearer(token)).unwrap();
    (answer.status, answer.body)
}

fn put(server: &Server, token: &str, key: &str, body: &[u8]) -> u16 {
    let request = Request::put(&path(key), body).bearer(token);
    exchange(server.address(), &request).unwrap().status
}

fn status_of(server: &Server, path: &str) -> u16 {
    let answer = exchange(server.address(), &Request::get(path)).unwrap();
    answer.status
}

fn done(server: &Server, arguments: &[&str]) -> String {
    server.larder(arguments).unwrap().success().unwrap()
}

fn bucket(server: &Server) -> Value {
    serde_json::from_str(&done(server, &["bucket", "status", "--json"])).unwrap()
}

fn wait_for(server: &Server, what: &str, limit: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, limit, || {
        let status = bucket(server);
        Ok(is_so(&status).then_some(status))
    })
    .unwrap_or_else(|error| panic!("{error}; {}\n{}", bucket(server), server.output()))
}

/// Waits until nothing waits for the bucket.
fn wait_until_uploaded(server: &Server) {
    let is_empty = |status: &Value| status["server"]["queue_entries"] == 0;
    wait_for(server, "an empty queue", RECOVERY_MAX, is_empty);
}

/// Waits until the server knows all that was in the catalogue when it started.
fn wait_until_caught_up(server: &Server) {
    let is_so = |status: &Value| status["server"]["caught_up"] == true;
    wait_for(server, "a server that knows all packs", SOON, is_so);
}

/// Gives a server that has never stored anything the ledger of one that does not run any more, and starts it.
fn adopt_ledger(server: &mut Server, from: &Path) {
    server.stop().unwrap();
    // With what SQLite keeps beside it.
    for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        let (from, to) = (from.join(file), server.data_dir().join(file));
        let _ = fs::remove_file(&to);
        if from.exists() {
            fs::copy(from, to).unwrap();
        }
    }
    server.start_again().unwrap();
}

/// Bodies from nothing to one that is an object of its own.
fn bodies() -> Vec<(String, Vec<u8>)> {
    let sizes = [1, 100, 5_000, 70_000, 900_000, 6_000_000];
    let bodies = sizes.into_iter().chain([300; 30]).enumerate();
    bodies
        .map(|(number, size)| {
            let body = (0..size).map(|at| (at * 31 + number * 7) as u8).collect();
            (format!("{number:04}"), body)
        })
        .collect()
}

#[test]
fn a_server_with_an_empty_disk_gets_hits_from_the_bucket_and_keeps_them() {
    for mut place in Place::all() {
        let mut first = place.server("local");
        let token = first.token(Access::Trusted, None).unwrap();
        let bodies = bodies();
        for (key, body) in &bodies {
            assert_eq!(put(&first, &token, key, body), 200);
        }
        wait_until_uploaded(&first);
        first.stop().unwrap();

        let mut second = place.server("local");
        adopt_ledger(&mut second, &first.data_dir());
        wait_until_caught_up(&second);
        assert_eq!(get(&second, &token, "unknown").0, 404);
        for (key, body) in &bodies {
            let (status, got) = get(&second, &token, key);
            assert_eq!(status, 200, "{key}: {}", second.output());
            assert!(got == *body, "{key}");
        }
        assert_eq!(put(&second, &token, "0001", b"other"), 409);
        let is_still = |(key, body): &(String, Vec<u8>)| get(&second, &token, key).1 == *body;
        wait_until("entries that are on this disk", SOON, || {
            place.go_away();
            let all = bodies.iter().all(is_still);
            place.come_back();
            Ok(all.then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn an_outage_breaks_nothing_and_what_waited_is_uploaded_after_it() {
    for mut place in Place::all() {
        let mut first = place.server("local");
        let token = first.token(Access::Trusted, None).unwrap();
        assert_eq!(put(&first, &token, "before", b"b"), 200);
        wait_until_uploaded(&first);
        first.stop().unwrap();
        let mut second = place.server("local");
        adopt_ledger(&mut second, &first.data_dir());
        wait_until_caught_up(&second);
        assert_eq!(put(&second, &token, "local", b"l"), 200);
        wait_until_uploaded(&second);

        place.go_away();
        for number in 0..20 {
            let since = Instant::now();
            assert_eq!(get(&second, &token, "local").0, 200);
            assert_eq!(get(&second, &token, "unknown").0, 404);
            assert_eq!(
                get(&second, &token, "before").0,
                404,
                "it is in the bucket alone"
            );
            assert_eq!(put(&second, &token, &format!("in-{number}"), b"i"), 200);
            assert_eq!(get(&second, &token, &format!("in-{number}")).0, 200);
            assert_eq!(status_of(&second, "/readyz"), 200);
            assert!(since.elapsed() < AT_ONCE, "{number}: {:?}", since.elapsed());
        }
        let is_left_alone = |status: &Value| status["server"]["reachable"] == false;
        let status = wait_for(&second, "an outage that is noticed", SOON, is_left_alone);
        assert_eq!(status["server"]["queue_entries"], 20, "{status}");
        second
            .wait_for_output("the bucket is left alone", SOON)
            .unwrap();
        let metrics = exchange(second.address(), &Request::get("/metrics")).unwrap();
        let metrics = String::from_utf8(metrics.body).unwrap();
        assert!(
            metrics.contains("\nlarder_bucket_reachable 0\n"),
            "{metrics}"
        );
        assert!(
            metrics.contains("\nlarder_bucket_queue_entries 20\n"),
            "{metrics}"
        );
        let check = second.larder(&["bucket", "check"]).unwrap();
        assert!(
            !check.status.success() && check.stderr.contains("not available"),
            "{check:?}"
        );

        place.come_back();
        wait_until_uploaded(&second);
        wait_until("an entry that is in the bucket alone", RECOVERY_MAX, || {
            Ok((get(&second, &token, "before").0 == 200).then_some(()))
        })
        .unwrap();
        second
            .wait_for_output("the bucket answers again", SOON)
            .unwrap();
        done(&second, &["bucket", "check"]);
    }
}

#[test]
fn a_server_starts_and_works_while_its_bucket_is_away() {
    for mut place in Place::all() {
        let mut server = place.server("local");
        let token = server.token(Access::Trusted, None).unwrap();
        assert_eq!(put(&server, &token, "before", b"b"), 200);
        wait_until_uploaded(&server);
        server.stop().unwrap();
        place.go_away();
        server.start_again().unwrap();
        wait_until("readiness", AT_ONCE, || {
            Ok((status_of(&server, "/readyz") == 200).then_some(()))
        })
        .unwrap();
        assert_eq!(get(&server, &token, "before").0, 200);
        assert_eq!(put(&server, &token, "after", b"a"), 200);
        server
            .wait_for_output("the bucket does not answer now", SOON)
            .unwrap();
        place.come_back();
        wait_until_uploaded(&server);
    }
}

#[test]
fn a_server_that_is_killed_with_a_queue_goes_on_with_it() {
    for mut place in Place::all() {
        let mut server = place.server("local");
        let token = server.token(Access::Trusted, None).unwrap();
        place.go_away();
        let keys: Vec<String> = (0..50)
            .map(|number| format!("queued-{number:02}"))
            .collect();
        for key in &keys {
            assert_eq!(put(&server, &token, key, b"q"), 200);
        }
        let queue: PathBuf = server.data_dir().join("bucket/queue");
        wait_until("the queue on disk", SOON, || {
            let written = fs::read(&queue)?;
            let has = |key: &String| written.windows(key.len()).any(|at| at == key.as_bytes());
            Ok(keys.iter().all(has).then_some(()))
        })
        .unwrap();
        server.kill().unwrap();
        place.come_back();
        server.start_again().unwrap();
        wait_until_uploaded(&server);
        let is_known = |status: &Value| status["server"]["entries"] == 50;
        wait_for(&server, "fifty entries in the bucket", SOON, is_known);
    }
}

#[test]
fn with_ack_bucket_what_the_bucket_does_not_have_is_not_stored() {
    for mut place in Place::all() {
        let mut server = place.server("bucket");
        let token = server.token(Access::Trusted, None).unwrap();
        assert_eq!(put(&server, &token, "one", b"1"), 200);
        let status = bucket(&server);
        assert_eq!(status["server"]["queue_entries"], 0, "{status}");
        server.kill().unwrap();
        let mut second = place.server("bucket");
        adopt_ledger(&mut second, &server.data_dir());
        wait_until_caught_up(&second);
        assert_eq!(get(&second, &token, "one"), (200, b"1".to_vec()));
        place.go_away();
        let status = put(&second, &token, "two", b"2");
        assert_eq!(status, 403, "a refusal that breaks no build");
        place.come_back();
    }
}

#[test]
fn what_was_purged_does_not_come_back_from_the_bucket() {
    let place = Place::folder();
    let mut server = place.server("local");
    let token = server.token(Access::Trusted, None).unwrap();
    assert_eq!(put(&server, &token, "bad", b"poison"), 200);
    wait_until_uploaded(&server);
    done(&server, &["purge", "--all", "--yes"]);
    assert_eq!(get(&server, &token, "bad").0, 404);
    server.restart().unwrap();
    wait_until_caught_up(&server);
    assert_eq!(get(&server, &token, "bad").0, 404);
    assert_eq!(put(&server, &token, "good", b"g"), 200);
    wait_until_uploaded(&server);

    // Without a server as well.
    server.stop().unwrap();
    done(&server, &["purge", "--all", "--yes"]);
    server.start_again().unwrap();
    wait_until_caught_up(&server);
    assert_eq!(get(&server, &token, "good").0, 404);
    assert_eq!(get(&server, &token, "bad").0, 404);
}

#[test]
fn the_commands_say_what_they_find_with_a_server_and_without() {
    let place = Place::folder();
    let mut server = place.server("local");
    let token = server.token(Access::Trusted, None).unwrap();
    assert_eq!(put(&server, &token, "1", b"1"), 200);
    wait_until_uploaded(&server);
    let check = done(&server, &["bucket", "check"]);
    assert!(check.contains("can be used"), "{check}");
    let status = done(&server, &["bucket", "status"]);
    assert!(
        status.contains("in use") && status.contains("create"),
        "{status}"
    );
    let gc = done(&server, &["bucket", "gc"]);
    assert!(gc.contains("deleted 0 expired packs"), "{gc}");
    let key = done(&server, &["bucket", "key", "export"]);
    assert_eq!(key.trim().len(), 64);
    assert!(!server.output().contains(key.trim()));

    server.stop().unwrap();
    assert!(done(&server, &["bucket", "status"]).contains("none runs"));
    done(&server, &["bucket", "check"]);
    done(&server, &["bucket", "gc"]);
    let kept = import(&server, &"00".repeat(32));
    assert!(kept.contains("made with its own key"), "{kept}");

    let mut other = Place::folder().server("local");
    let running = import(&other, key.trim());
    assert!(running.contains("stop it first"), "{running}");
    other.stop().unwrap();
    import(&other, key.trim());
    assert_eq!(done(&other, &["bucket", "key", "export"]), key);
}

/// Imports a key; what was said about it.
fn import(server: &Server, key: &str) -> String {
    let mut child = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")))
        .args(["bucket", "key", "import", "--data-dir"])
        .arg(server.data_dir())
        .arg("--config")
        .arg(server.config_path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, key.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}
