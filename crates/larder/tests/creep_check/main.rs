//! `larder creep-check` against Larder, against a folder that everybody shares, against servers with one hole each, and
//! against none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod leaky;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use larder_testkit::nginx::Nginx;
use larder_testkit::process::{self, Finished};
use larder_testkit::{Access, Server, larder_binary, left_out};
use leaky::{Hole, Leaky};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(2);

/// Fewer than by default, and enough to meet every shift several times.
const ROUNDS: &str = "30";

/// Who can be given a credential: its word in options and variables.
const TRUNK: &str = "TRUNK";
const PULL_REQUEST: &str = "PR";
const OTHER: &str = "OTHER_PR";
const READER: &str = "READER";

fn creep_check(url: &str, tokens: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let mut command = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    command.args(["creep-check", url, "--rounds", ROUNDS]);
    command.args(arguments);
    for (who, token) in tokens {
        command.env(format!("LARDER_CREEP_{who}_TOKEN"), token);
    }
    let finished = process::run(&mut command, LIMIT).unwrap();
    for (who, token) in tokens {
        // The words that stand for tokens of the servers with holes are in sentences, too.
        let secret = token.starts_with("lrd_");
        let shown = finished.stdout.contains(token) || finished.stderr.contains(token);
        assert!(!(secret && shown), "the token of {who} is in the output");
    }
    finished
}

/// The report, if the exit code is this one.
#[track_caller]
fn check(url: &str, tokens: &[(&str, &str)], exit_code: i32) -> Value {
    check_with(&[], url, tokens, exit_code)
}

/// The same, with more arguments.
#[track_caller]
fn check_with(arguments: &[&str], url: &str, tokens: &[(&str, &str)], exit_code: i32) -> Value {
    let finished = creep_check(url, tokens, &[&["--json"], arguments].concat());
    let (stdout, stderr) = (&finished.stdout, &finished.stderr);
    assert_eq!(finished.status.code(), Some(exit_code), "{stdout}{stderr}");
    serde_json::from_str(stdout).unwrap()
}

/// The ids of the attempts with this result, in order.
fn with_result(report: &Value, result: &str) -> Vec<String> {
    let attempts = report["attempts"].as_array().unwrap().iter();
    attempts
        .filter(|attempt| attempt["outcome"]["result"] == result)
        .map(|attempt| attempt["id"].as_str().unwrap().to_owned())
        .collect()
}

fn larder() -> Server {
    Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap()
}

fn grpc(server: &Server) -> String {
    format!("grpc://{}", server.address())
}

#[test]
fn larder_is_safe_for_nx_and_for_the_remote_execution_api() {
    let server = larder();
    let trunk = server.token(Access::Trusted, None).unwrap();
    let pull_request = server.token(Access::Isolated, None).unwrap();
    let other = server.token(Access::Isolated, None).unwrap();
    let reader = server.token(Access::Reader, None).unwrap();
    let tokens = [
        (TRUNK, &*trunk),
        (PULL_REQUEST, &pull_request),
        (OTHER, &other),
        (READER, &reader),
    ];
    let in_workspace = server.url() + "/w/default/";
    let named = grpc(&server) + "/main";
    for url in [server.url(), in_workspace, grpc(&server), named] {
        let report = check(&url, &tokens, 0);
        assert_eq!(report["verdict"], "safe", "{report}");
        assert_eq!(with_result(&report, "fail"), [""; 0], "{report}");
        let untested = with_result(&report, "untested");
        let expected: &[&str] = if url.starts_with("http") {
            &[]
        } else {
            &["pull-request-deletes"]
        };
        assert_eq!(untested, expected, "{report}");
    }
}

#[test]
fn a_pull_request_with_trunks_rights_is_found() {
    let server = larder();
    let trunk = server.token(Access::Trusted, None).unwrap();
    let pull_request = server.token(Access::Trusted, None).unwrap();
    let tokens = [(TRUNK, &*trunk), (PULL_REQUEST, &pull_request)];
    for url in [server.url(), grpc(&server)] {
        let report = check(&url, &tokens, 1);
        assert_eq!(report["verdict"], "vulnerable", "{report}");
        let failed = with_result(&report, "fail");
        assert_eq!(failed[0], "pull-request-then-trunk-reads", "{report}");
        assert!(failed.contains(&"at-once".to_owned()), "{report}");
        let evidence = report["attempts"][0]["evidence"].as_array().unwrap();
        let last = evidence.last().unwrap();
        assert_eq!(last["who"], "trunk");
        assert_eq!(last["stored_by"], "pull request");
        assert_eq!(last["got_sha256"], evidence[0]["sent_sha256"]);
    }
}

#[test]
fn a_folder_that_everybody_shares_is_found() {
    if left_out("nginx") {
        return;
    }
    let nginx = Nginx::shared_folder().unwrap();
    let tokens = [(TRUNK, "trunk"), (PULL_REQUEST, "pull-request")];
    let report = check(&nginx.url(), &tokens, 1);
    assert_eq!(report["verdict"], "vulnerable", "{report}");
    let expected = [
        "pull-request-then-trunk-reads",
        "trunk-then-pull-request-stores",
        "pull-request-stores-again",
        "nobody-reads",
        "nobody-then-trunk-reads",
        "trunk-then-nobody-stores",
        "at-once",
    ];
    assert_eq!(with_result(&report, "fail"), expected, "{report}");

    let text = creep_check(&nginx.url(), &tokens, &[]).stdout;
    for line in [
        "FAIL      a pull request stores, then trunk reads",
        "UNTESTED  a pull request stores, then another one reads",
        "PASS      trunk stores, then a pull request deletes",
        "\nVULNERABLE: ",
        ", stored by pull request\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

const ALL: [(&str, &str); 4] = [
    (TRUNK, "trunk"),
    (PULL_REQUEST, "pull-request"),
    (OTHER, "other-pull-request"),
    (READER, "reader"),
];

#[track_caller]
fn check_hole(hole: Hole, scheme: &str, harm: &str, expected: &[&str]) {
    let server = Leaky::start(hole);
    let report = check(&server.url(scheme), &ALL, 1);
    assert_eq!(with_result(&report, "fail"), expected, "{hole:?}: {report}");
    let attempts = report["attempts"].as_array().unwrap();
    let found = |attempt: &&Value| attempt["id"] == expected[0];
    let first = attempts.iter().find(found).unwrap();
    assert_eq!(first["outcome"]["why"], harm, "{hole:?}: {report}");
}

#[test]
fn a_server_without_a_hole_is_safe() {
    let server = Leaky::start(Hole::None);
    for scheme in ["http", "grpc"] {
        let report = check(&server.url(scheme), &ALL, 0);
        assert_eq!(with_result(&report, "fail"), [""; 0], "{report}");
    }
}

#[test]
fn every_hole_of_a_plain_request_is_found() {
    let (poisoned, blocked) = ("trunk-poisoned", "trunk-blocked");
    let first = "pull-request-then-trunk-stores";
    check_hole(Hole::FirstKeepsOut, "http", blocked, &[first, "at-once"]);
    check_hole(Hole::FirstKeepsOut, "grpc", blocked, &[first, "at-once"]);
    let overwrites = [
        "trunk-then-pull-request-stores",
        "pull-request-stores-again",
        "at-once",
    ];
    check_hole(Hole::Overwrites, "http", poisoned, &overwrites);
    check_hole(Hole::Overwrites, "grpc", poisoned, &overwrites);
    check_hole(Hole::Deletes, "http", blocked, &["pull-request-deletes"]);
    let siblings = ["other-pull-request-reads", "reader-reads", "nobody-reads"];
    check_hole(Hole::Siblings, "http", "others-poisoned", &siblings);
    let nobody = ["nobody-then-trunk-reads", "trunk-then-nobody-stores"];
    check_hole(Hole::NobodyStores, "http", poisoned, &nobody);
}

#[test]
fn a_hole_that_opens_for_a_moment_or_later_is_found() {
    check_hole(Hole::AtOnce, "http", "trunk-poisoned", &["at-once"]);
    check_hole(Hole::Late, "http", "trunk-poisoned", &["at-the-end"]);
    check_hole(Hole::Late, "grpc", "trunk-poisoned", &["at-the-end"]);
}

#[test]
fn what_is_accepted_and_not_to_be_seen_is_no_proof_of_anything() {
    let server = Leaky::start(Hole::AfterTheCheck);
    for scheme in ["http", "grpc"] {
        let report = check(&server.url(scheme), &ALL, 3);
        let untested = with_result(&report, "untested");
        for id in [
            "pull-request-then-trunk-reads",
            "other-pull-request-reads",
            "reader-reads",
            "nobody-reads",
        ] {
            assert!(untested.contains(&id.to_owned()), "{id}: {report}");
        }
        let because = report["because"].as_str().unwrap();
        assert!(because.contains("later than the check"), "{because}");
    }
}

#[test]
fn a_cache_that_loses_things_is_not_called_vulnerable_for_it() {
    let server = Leaky::start(Hole::Misses);
    for scheme in ["http", "grpc"] {
        let report = check(&server.url(scheme), &ALL, 0);
        assert_eq!(with_result(&report, "fail"), [""; 0], "{report}");
    }
    let server = Leaky::start(Hole::Evicts);
    for scheme in ["http", "grpc"] {
        let report = check(&server.url(scheme), &ALL, 3);
        assert_eq!(with_result(&report, "fail"), [""; 0], "{report}");
    }
}

#[test]
fn every_way_around_is_found() {
    for (hole, scheme, tricks) in [
        (
            Hole::Prefix,
            "http",
            &["trick: PUT /scope/trusted/v1/cache/{key}"][..],
        ),
        (
            Hole::DotSegments,
            "http",
            &[
                "trick: PUT /v1/x/../cache/{key}",
                "trick: PUT /v1/cache/{key}0/../{key}",
                "trick: PUT /scope/../v1/cache/{key}",
            ],
        ),
        (
            Hole::OriginalUrl,
            "http",
            &["trick: headers that name the path"],
        ),
        (
            Hole::MethodOverride,
            "http",
            &["trick: POST with headers that say PUT"],
        ),
        (
            Hole::BasicUser,
            "http",
            &["trick: the token as password of `trunk`"],
        ),
        (
            Hole::Claims,
            "http",
            &["trick: headers that claim to be trunk"],
        ),
        (
            Hole::InstanceName,
            "grpc",
            &["trick: instance name \"trusted\""],
        ),
        (Hole::Capitals, "grpc", &["trick: the hash in capitals"]),
    ] {
        check_hole(hole, scheme, "trunk-poisoned", tricks);
    }
}

#[test]
fn a_second_door_that_leaks_is_found() {
    let over_http = ["at-the-end-over-http"];
    check_hole(Hole::HttpReads, "grpc", "trunk-poisoned", &over_http);
    check_hole(Hole::HttpSpace, "grpc", "trunk-poisoned", &over_http);
}

#[test]
fn blobs_that_are_not_what_they_are_called_are_found() {
    let poisoned = "trunk-poisoned";
    check_hole(
        Hole::WrongBatch,
        "grpc",
        poisoned,
        &["wrong-blob-in-a-batch"],
    );
    check_hole(
        Hole::WrongStream,
        "grpc",
        poisoned,
        &["wrong-blob-in-a-stream"],
    );
    check_hole(Hole::WrongHttp, "grpc", poisoned, &["wrong-blob-over-http"]);
    check_hole(Hole::Presence, "grpc", "trunk-blocked", &["blob-presence"]);
}

#[track_caller]
fn check_inconclusive(url: &str, tokens: &[(&str, &str)], words: &str) {
    let report = check(url, tokens, 3);
    assert_eq!(report["verdict"], "inconclusive", "{report}");
    assert_eq!(with_result(&report, "untested"), ["setup"], "{report}");
    assert_eq!(report["attempts"].as_array().unwrap().len(), 1, "{report}");
    let because = report["because"].as_str().unwrap();
    assert!(because.contains(words), "{because}");
}

#[test]
fn without_a_cache_there_is_no_verdict() {
    let tokens = [(TRUNK, "trunk"), (PULL_REQUEST, "pull-request")];
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    for url in [format!("http://{nobody}"), format!("grpc://{nobody}")] {
        check_inconclusive(&url, &tokens, "connection refused");
    }
    let server = larder();
    // The server may be faster to close the connection than the client to see that this is no TLS.
    check_inconclusive(
        &format!("https://{}", server.address()),
        &tokens,
        "nothing could be tried",
    );
}

#[test]
fn with_the_wrong_credentials_there_is_no_verdict() {
    let server = larder();
    let trunk = server.token(Access::Trusted, None).unwrap();
    let reader = server.token(Access::Reader, None).unwrap();
    for url in [server.url(), grpc(&server)] {
        let tokens = [(TRUNK, &*reader), (PULL_REQUEST, &trunk)];
        check_inconclusive(&url, &tokens, "trunk's credential cannot store");
        let tokens = [(TRUNK, "unknown"), (PULL_REQUEST, &trunk)];
        check_inconclusive(&url, &tokens, "does not accept trunk's credential");
        let tokens = [(TRUNK, &*trunk), (PULL_REQUEST, "unknown")];
        check_inconclusive(
            &url,
            &tokens,
            "does not accept the pull request's credential",
        );
        let tokens = [
            (TRUNK, &*trunk),
            (PULL_REQUEST, &reader),
            (READER, "unknown"),
        ];
        check_inconclusive(&url, &tokens, "the credential of the reader");
    }
}

#[test]
fn a_pull_request_that_cannot_store_is_safe_only_if_that_is_meant_and_its_credential_known() {
    let server = larder();
    let trunk = server.token(Access::Trusted, None).unwrap();
    let reader = server.token(Access::Reader, None).unwrap();
    let isolated = server.token(Access::Isolated, None).unwrap();
    let meant = ["--pr-cannot-write"];
    let because = |report: &Value| report["because"].as_str().unwrap().to_owned();
    for url in [server.url(), grpc(&server)] {
        let reads = [(TRUNK, &*trunk), (PULL_REQUEST, &*reader)];
        let report = check(&url, &reads, 3);
        assert!(because(&report).contains("--pr-cannot-write"), "{report}");
        let report = check_with(&meant, &url, &reads, 0);
        assert!(because(&report).contains("as expected"), "{report}");
        let stores = [(TRUNK, &*trunk), (PULL_REQUEST, &*isolated)];
        let report = check_with(&meant, &url, &stores, 3);
        assert!(because(&report).contains("denies"), "{report}");
    }
    // It answers an unknown credential as one that may not, and whom it knows cannot be told.
    let unfriendly = Leaky::start(Hole::None);
    let unknown = [(TRUNK, "trunk"), (PULL_REQUEST, "unknown")];
    for scheme in ["http", "grpc"] {
        let report = check_with(&meant, &unfriendly.url(scheme), &unknown, 3);
        assert!(because(&report).contains("made up"), "{report}");
    }
    let only_reads = [(TRUNK, "trunk"), (PULL_REQUEST, "reader")];
    check_with(&meant, &unfriendly.url("http"), &only_reads, 0);
}

#[test]
fn credentials_come_from_files_and_standard_input() {
    let server = larder();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, access| {
        let path = folder.path().join(name);
        std::fs::write(&path, server.token(access, None).unwrap() + "\n").unwrap();
        path
    };
    let (trunk, pull_request) = (
        file("trunk", Access::Trusted),
        file("pull-request", Access::Isolated),
    );
    let mut command = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    command
        .args(["creep-check", &server.url(), "--rounds", "1"])
        .arg("--trunk-token-file")
        .arg(&trunk)
        .args(["--pr-token-file", "-"])
        .stdin(Stdio::from(std::fs::File::open(&pull_request).unwrap()));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\nSAFE: "));
}

#[test]
fn a_command_line_that_cannot_be_carried_out_says_nothing_of_a_cache() {
    let both = [(TRUNK, "trunk"), (PULL_REQUEST, "pull-request")];
    for (url, tokens, arguments, words) in [
        ("http://localhost", &both[..1], &[][..], "--pr-token-file"),
        ("http://localhost", &both[1..], &[], "--trunk-token-file"),
        ("ftp://localhost", &both, &[], "begins with"),
        ("http://192.0.2.1", &both, &[], "--insecure-http"),
        ("grpc://cache.example", &both, &[], "--insecure-http"),
        (
            "http://localhost",
            &both,
            &["--ca-file", "missing.pem"],
            "missing.pem",
        ),
        (
            "http://localhost",
            &both,
            &["--trunk-token-file", "-", "--pr-token-file", "-"],
            "only one",
        ),
    ] {
        let finished = creep_check(url, tokens, arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        assert_eq!(finished.stdout, "");
        assert!(finished.stderr.contains(words), "{finished:?}");
    }
}
