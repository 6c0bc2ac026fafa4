//! The audit of a real server: who did what is in it, also after a kill, and nothing secret is.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::time::Duration;

use larder_testkit::http::{Request, exchange};
use larder_testkit::process;
use larder_testkit::{Access, Server, larder_binary};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn start() -> Server {
    Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap()
}

fn put(server: &Server, key: &str, token: &str) -> u16 {
    let request = Request::put(&format!("/v1/cache/{key}"), "0123456789").bearer(token);
    exchange(server.address(), &request).unwrap().status
}

fn stored(server: &Server, key: &str, token: &str) {
    process::wait_until("an upload that is stored", SOON, || {
        Ok((put(server, key, token) == 200).then_some(()))
    })
    .unwrap();
}

/// What `larder audit --json` prints with these filters.
fn audit(server: &Server, filters: &[&str]) -> Vec<Value> {
    let arguments = [&["audit", "--json"], filters].concat();
    let printed = server.larder(&arguments).unwrap().success().unwrap();
    let lines = printed.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for so many rows of what is written a second later.
fn wait_for(server: &Server, filters: &[&str], count: usize) -> Vec<Value> {
    process::wait_until("rows of the audit", SOON, || {
        let rows = audit(server, filters);
        Ok((rows.len() >= count).then_some(rows))
    })
    .unwrap()
}

#[test]
fn the_audit_says_who_stored_what_who_was_refused_and_what_the_operator_did() {
    let server = start();
    let trusted = server.token(Access::Trusted, None).unwrap();
    let isolated = server.token(Access::Isolated, Some("pr/7")).unwrap();
    let reader = server.token(Access::Reader, None).unwrap();
    stored(&server, "11", &trusted);
    stored(&server, "12", &isolated);
    assert_eq!(put(&server, "11", &trusted), 409, "a write that is none");
    assert_eq!(put(&server, "13", &reader), 403);
    let unknown = "lrd_nobody";
    assert_eq!(put(&server, "14", unknown), 401);

    let writes = wait_for(&server, &["--action", "write", "--workspace", "default"], 3);
    let seen: Vec<_> = writes
        .iter()
        .map(|row| {
            (
                row["outcome"].as_str().unwrap(),
                row["key"].as_str(),
                row["scope"].as_str(),
            )
        })
        .collect();
    for expected in [
        ("stored", Some("11"), Some("trusted")),
        ("stored", Some("12"), Some("pr/7")),
        ("refused", None, None),
    ] {
        assert!(seen.contains(&expected), "{expected:?}: {writes:?}");
    }
    assert_eq!(seen.len(), 3, "{writes:?}");
    for row in &writes {
        assert_eq!(row["address"], "127.0.0.1");
        assert_eq!(row["dialect"], "nx");
        assert_eq!(row["by"]["kind"], "token");
        assert_eq!(row["by"]["id"], row["writer"]);
    }
    let bad = wait_for(&server, &["--action", "bad-credential"], 1);
    assert_eq!(bad[0]["reason"], "malformed");

    let created = audit(&server, &["--action", "token-created"]);
    assert_eq!(created.len(), 4, "the first start's and three: {created:?}");
    assert!(created.iter().all(|row| row["actor"] == "operator"));
    assert_eq!(created[2]["scope"], "pr/7");

    let token = created[2]["writer"].to_string();
    let purge = ["purge", "--writer", &token, "--yes"];
    server.larder(&purge).unwrap().success().unwrap();
    let purges = audit(&server, &["--action", "purge"]);
    let outcomes: Vec<_> = purges
        .iter()
        .map(|row| row["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["requested", "done"], "{purges:?}");
    assert_eq!(purges[1]["count"], 1);
    assert!(purges.iter().all(|row| row["actor"] == "operator"));

    let whole = audit(&server, &[]);
    let text = format!("{whole:?}{}", server.output());
    for secret in [&trusted, &isolated, &reader] {
        assert!(!text.contains(secret.as_str()));
    }
    let table = server
        .larder(&["audit", "--key", "12"])
        .unwrap()
        .success()
        .unwrap();
    assert!(table.contains("nx 12") && table.contains("pr/7"), "{table}");
}

#[test]
fn an_administrator_sees_the_audit_of_its_workspace_and_no_other() {
    let server = start();
    let create = ["workspace", "create", "other"];
    server.larder(&create).unwrap().success().unwrap();
    let there = server.token_in("other", Access::Trusted, None).unwrap();
    let admin = server.token(Access::Admin, None).unwrap();
    let trusted = server.token(Access::Trusted, None).unwrap();
    stored(&server, "1", &there);
    stored(&server, "2", &trusted);
    wait_for(&server, &["--action", "write", "--key", "1"], 1);
    wait_for(&server, &["--action", "write", "--key", "2"], 1);
    let mut after = 0;
    let mut actions = Vec::new();
    loop {
        let path = format!("/v1/control/audit?limit=2&after={after}");
        let answer = exchange(server.address(), &Request::get(&path).bearer(&admin)).unwrap();
        assert_eq!(answer.status, 200);
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        for row in page["rows"].as_array().unwrap() {
            assert_eq!(row["workspace"], "default", "{row}");
            actions.push(row["action"].as_str().unwrap().to_owned());
        }
        match page["after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(actions.iter().filter(|it| *it == "write").count(), 1);
    assert!(actions.contains(&"token-created".to_owned()), "{actions:?}");
    let request = Request::get("/v1/control/audit").bearer(&trusted);
    assert_eq!(exchange(server.address(), &request).unwrap().status, 403);
}

#[test]
fn the_audit_survives_a_kill_but_for_the_last_moment_and_is_read_without_a_server() {
    let mut server = start();
    let trusted = server.token(Access::Trusted, None).unwrap();
    stored(&server, "1", &trusted);
    wait_for(&server, &["--action", "write"], 1);
    stored(&server, "2", &trusted);
    server.kill().unwrap();
    let rows = audit(&server, &["--action", "write"]);
    assert!(
        rows.len() == 1 || rows.len() == 2,
        "what was written stays, what was not is lost: {rows:?}"
    );
    assert_eq!(rows[0]["key"], "1");

    server.start_again().unwrap();
    // Entries remember their writers by themselves, whatever the audit has lost.
    let created = audit(&server, &["--action", "token-created"]);
    let writer = created.last().unwrap()["writer"].to_string();
    process::wait_until("the pools", SOON, || {
        let get = Request::get("/v1/cache/2").bearer(&trusted);
        Ok((exchange(server.address(), &get)?.status == 200).then_some(()))
    })
    .unwrap();
    let dry_run = ["purge", "--writer", &writer, "--dry-run"];
    let printed = server.larder(&dry_run).unwrap().success().unwrap();
    assert!(printed.contains("2 entries"), "{printed}");
    server.stop().unwrap();
    assert_eq!(audit(&server, &["--action", "write"])[0]["key"], "1");
}

#[test]
fn a_server_that_is_stopped_has_written_everything() {
    let mut server = start();
    let trusted = server.token(Access::Trusted, None).unwrap();
    for key in ["1", "2", "3"] {
        stored(&server, key, &trusted);
    }
    server.stop().unwrap();
    assert_eq!(audit(&server, &["--action", "write"]).len(), 3);
    let loaded = audit(&server, &["--action", "policy-changed"]);
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0]["outcome"], "loaded");
}
