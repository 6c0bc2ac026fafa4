//! A run of trunk's own CI turns out to have been taken over: what it stored is found by the run's number alone.
//!
//! Both doors count as that run, another run's entries are left alone, and what is in quarantine stays there when the server is
//! killed. docs/incidents.md is the same way by a static token.

use std::fs;

use larder_testkit::Access;
use larder_testkit::process::{Finished, wait_until};
use serde_json::{Value, json};

use super::site::{SOON, Site};

/// A push to trunk in a run of its own.
fn run(site: &Site, number: &str) -> String {
    site.github(&json!({
        "event_name": "push", "ref": "refs/heads/main", "ref_protected": "true", "run_id": number,
    }))
}

#[track_caller]
fn larder(site: &Site, arguments: &[&str]) -> Finished {
    let ran = site.server.larder(arguments).unwrap();
    assert!(
        ran.status.success(),
        "{arguments:?}\n{}{}",
        ran.stdout,
        ran.stderr
    );
    ran
}

#[track_caller]
fn answer(site: &Site, arguments: &[&str]) -> Value {
    serde_json::from_str(&larder(site, arguments).stdout).unwrap()
}

#[test]
fn what_a_poisoned_run_stored_is_found_by_the_run_held_replaced_and_kept_as_evidence() {
    let mut site = Site::start();
    let honest = run(&site, "4711");
    let poisoned = run(&site, "666");
    let session = site.session(&poisoned);
    let reader = site.server.token(Access::Reader, None).unwrap();
    assert_eq!(site.put("111", &honest, "an honest output"), 200);
    assert_eq!(site.put("222", &poisoned, "a poisoned output"), 200);
    assert_eq!(site.put("333", &session, "another poisoned output"), 200);
    assert_eq!(site.get("222", &honest).as_deref(), Ok("a poisoned output"));

    // From the task's hash to the run.
    let shown = answer(&site, &["entry", "show", "222", "--json"]);
    assert_eq!(shown["writers"][0]["run"], "666", "{shown}");

    let misspelt = ["quarantine", "--run", "667", "--yes"];
    let misspelt = site.server.larder(&misspelt).unwrap();
    assert!(!misspelt.status.success());
    assert!(
        misspelt.stderr.contains("no writer matches"),
        "{}",
        misspelt.stderr
    );
    let held = answer(&site, &["quarantine", "--run", "666", "--yes", "--json"]);
    assert_eq!(held["entries"], 2, "{held}");
    for key in ["222", "333"] {
        assert_eq!(site.get(key, &honest), Err(404));
        assert_eq!(site.get(key, &reader), Err(404));
        assert_eq!(
            site.get(key, &poisoned),
            Err(404),
            "nor does who stored it find it"
        );
    }
    assert_eq!(site.get("111", &reader).as_deref(), Ok("an honest output"));

    // The audit says what was done, before and after, and by which condition.
    for word in ["requested", "done"] {
        wait_until(word, SOON, || {
            let audit = site
                .server
                .larder(&["audit", "--action", "quarantine", "--json"])?;
            let row = |line: &str| line.contains(word) && line.contains("666");
            Ok(audit.stdout.lines().any(row).then_some(()))
        })
        .unwrap();
    }

    // Trunk misses, builds and stores; neither a kill nor a start brings back what is held.
    assert_eq!(site.put("222", &honest, "a clean output"), 200);
    site.server.kill().unwrap();
    site.server.start_again().unwrap();
    assert_eq!(site.get("222", &reader).as_deref(), Ok("a clean output"));
    assert_eq!(site.get("333", &reader), Err(404));

    let listed = answer(
        &site,
        &[
            "quarantine",
            "list",
            "--run",
            "666",
            "--key",
            "222",
            "--json",
        ],
    );
    let sequence = listed["entries"][0]["sequence"].to_string();
    let folder = tempfile::tempdir().unwrap();
    let evidence = folder.path().join("evidence.bin");
    let get = ["entry", "get", "222", "--sequence", &sequence, "--output"];
    larder(&site, &[&get[..], &[evidence.to_str().unwrap()]].concat());
    assert_eq!(
        fs::read_to_string(&evidence).unwrap(),
        "a poisoned output",
        "and not the clean one of the same key"
    );
}
