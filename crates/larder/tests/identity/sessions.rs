//! What a session is worth, and for how long.

use std::time::{Duration, Instant};

use larder_testkit::issuer::Issuer;
use larder_testkit::larder_binary;
use larder_testkit::process::{self, wait_until};
use serde_json::json;

use super::site::{SOON, Site, config, github, json_of};

#[test]
fn an_exchange_says_what_the_session_may() {
    let site = Site::start();
    let answer = site.exchange(&site.pull_request(123));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("pragma"), Some("no-cache"));
    let mut given = json_of(&answer);
    let token = given["access_token"].take();
    let token = token.as_str().unwrap();
    assert!(token.starts_with("lrd_s_"), "{token}");
    assert_eq!(
        given,
        json!({
            "access_token": null,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 6 * 3600,
            "scope": "cache:read cache:write",
            "cache": {
                "workspace": "default", "write_scope": "ci.web/pr-123",
                "read_path": ["trusted", "ci.web/pr-123"], "trust": "untrusted",
            },
        })
    );
    let trusted = json_of(&site.exchange(&site.push()));
    assert_eq!(trusted["expires_in"], 2 * 3600);
    assert_eq!(trusted["cache"]["trust"], "trusted");
    let output = site.server.output();
    assert!(!output.contains(token), "the log shows no session");
}

#[test]
fn a_client_can_ask_for_less_and_never_gets_more() {
    let site = Site::start();
    let reduced = json_of(&site.exchange_with(&site.push(), "&scope=cache:read&expires_in=60"));
    assert_eq!(reduced["scope"], "cache:read");
    assert_eq!(reduced["expires_in"], 60);
    assert_eq!(reduced["cache"]["write_scope"], json!(null));
    assert_eq!(
        site.put("1", reduced["access_token"].as_str().unwrap(), "x"),
        403
    );
    let longer = json_of(&site.exchange_with(&site.push(), "&expires_in=999999999"));
    assert_eq!(longer["expires_in"], 2 * 3600);
    for (more, error) in [
        ("&scope=cache:admin", "invalid_scope"),
        ("&resource=https://cache.test/w/other", "invalid_target"),
        ("&grant_type=password", "invalid_request"),
    ] {
        let refused = site.exchange_with(&site.push(), more);
        assert_eq!(refused.status, 400, "{more}");
        assert_eq!(json_of(&refused)["error"], error, "{more}");
    }
    let own = site.exchange_with(&site.push(), "&resource=https://cache.test/w/default");
    assert_eq!(own.status, 200);
    assert_eq!(
        site.post("/v1/oauth/token", &"x".repeat(100_000)).status,
        400
    );
}

#[test]
fn a_token_is_exchanged_once_also_after_a_restart() {
    let mut site = Site::start();
    let jwt = site.push();
    let session = site.session(&jwt);
    let again = site.exchange(&jwt);
    assert_eq!(
        (again.status, json_of(&again)["error"].as_str()),
        (400, Some("invalid_grant"))
    );
    // The same id in another token is the same token.
    let twin = json!({ "jti": "one", "run_attempt": "2" });
    let first = site.github(&json!({ "jti": "one" }));
    assert_eq!(site.exchange(&first).status, 200);
    assert_eq!(site.exchange(&site.github(&twin)).status, 400);
    // Without an id it is the token itself.
    let nameless = site.github(&json!({ "jti": null }));
    assert_eq!(site.exchange(&nameless).status, 200);
    assert_eq!(site.exchange(&nameless).status, 400);

    site.server.restart().unwrap();
    wait_until("keys after the restart", SOON, || {
        Ok((site.exchange(&site.push()).status == 200).then_some(()))
    })
    .unwrap();
    for jwt in [&jwt, &first, &nameless] {
        assert_eq!(site.exchange(jwt).status, 400);
    }
    assert_eq!(site.put("1", &session, "x"), 200, "the session lives on");
}

#[test]
fn a_revoked_session_ends_within_a_second_and_softly_and_for_good() {
    let mut site = Site::start();
    let session = site.session(&site.pull_request(123));
    assert_eq!(site.put("1", &session, "x"), 200);
    assert_eq!(site.get("1", &session).as_deref(), Ok("x"));
    let asked = Instant::now();
    let form = format!("token={session}&token_type_hint=access_token");
    let answer = site.post("/v1/oauth/revoke", &form);
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(site.get("1", &session), Err(404), "a miss, and no 401");
    assert_eq!(site.put("2", &session, "x"), 403);
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    // RFC 7009: whatever the token is, the answer is the same.
    for token in [
        session.as_str(),
        "nonsense",
        "lrd_s_0000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(
            site.post("/v1/oauth/revoke", &format!("token={token}"))
                .status,
            200
        );
    }
    let nothing = site.post("/v1/oauth/revoke", "token=");
    assert_eq!(
        (nothing.status, json_of(&nothing)["error"].as_str()),
        (400, Some("invalid_request"))
    );
    assert_eq!(site.whoami(Some(&session)).status, 200);

    site.server.restart().unwrap();
    assert_eq!(site.get("1", &session), Err(404), "also after a restart");
    assert_eq!(site.put("2", &session, "x"), 403);
}

#[test]
fn a_session_whose_time_is_over_is_a_miss_and_not_an_error() {
    let site = Site::start();
    let given = site.exchange_with(&site.push(), "&expires_in=1");
    let session = json_of(&given)["access_token"].as_str().unwrap().to_owned();
    assert_eq!(site.put("1", &session, "x"), 200);
    wait_until("the end of the session", SOON, || {
        Ok((site.get("1", &session) == Err(404)).then_some(()))
    })
    .unwrap();
    assert_eq!(site.put("2", &session, "x"), 403);
    let who = json_of(&site.whoami(Some(&session)));
    assert_eq!(who["authenticated"], false);
    assert!(
        who["text"].as_str().unwrap().contains("its time is over"),
        "{who}"
    );
    assert_eq!(site.get("1", "lrd_s_nonsense"), Err(401));
}

#[test]
fn the_configuration_says_how_long_sessions_last() {
    let issuer = Issuer::start().unwrap();
    let ttl = "[identity]\nsession_ttl_trusted = \"10m\"\nsession_ttl_untrusted = \"20m\"";
    let config = config(&issuer, "").replace("[identity]", ttl);
    let site = Site::start_configured(issuer, config, Vec::new());
    site.wait_for_keys();
    assert_eq!(json_of(&site.exchange(&site.push()))["expires_in"], 600);
    assert_eq!(
        json_of(&site.exchange(&site.pull_request(1)))["expires_in"],
        1200
    );
}

#[test]
fn whoever_asks_for_sessions_without_end_waits_and_nobody_else() {
    let site = Site::start();
    let refused = (0..1000).find_map(|attempt| {
        let request = json!({
            "event_name": "pull_request", "ref": "refs/pull/9/merge", "jti": format!("{attempt}"),
        });
        let answer = site.exchange(&site.github(&request));
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("there is an end");
    assert_eq!(refused.status, 429, "{}", refused.text());
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(json_of(&refused)["error"], "temporarily_unavailable");
    assert_eq!(site.exchange(&site.pull_request(10)).status, 200);
    assert_eq!(site.exchange(&site.push()).status, 200);
}

#[test]
fn whoever_fails_often_takes_nothing_from_others_at_its_address() {
    let site = Site::start();
    for attempt in 0..100 {
        let bad = site.token(
            &github(),
            &json!({ "aud": "elsewhere", "attempt": attempt }),
        );
        assert_eq!(site.exchange(&bad).status, 400);
    }
    assert_eq!(site.exchange(&site.push()).status, 200);
}

#[test]
fn an_operator_ends_the_sessions_of_a_run_and_of_no_other() {
    let site = Site::start();
    let of_run = |run: &str| {
        let claims = json!({ "ref_protected": "true", "run_id": run });
        site.session(&site.github(&claims))
    };
    let (leaked, also_leaked, other) = (of_run("4711"), of_run("4711"), of_run("4712"));
    assert_eq!(site.put("1", &leaked, "x"), 200);
    for session in [&leaked, &also_leaked, &other] {
        assert_eq!(site.get("1", session).as_deref(), Ok("x"));
    }
    let larder = |arguments: &[&str]| {
        let mut command = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
        command.args(["session", "revoke", "--data-dir"]);
        command.arg(site.server.data_dir()).args(arguments);
        process::run(&mut command, SOON).unwrap()
    };
    let would = larder(&["--run", "4711", "--dry-run"]).success().unwrap();
    assert!(would.contains("4711") && !would.contains("4712"), "{would}");
    assert_eq!(site.put("2", &leaked, "x"), 200, "a rehearsal ends nothing");
    assert!(!larder(&["--yes"]).status.success(), "whose?");
    let said = larder(&["--run", "4711", "--yes"]).success().unwrap();
    assert_eq!(said, "ended 2 sessions of 1 CI job\n");
    for session in [&leaked, &also_leaked] {
        assert_eq!(site.put("3", session, "x"), 403);
        assert_eq!(site.get("1", session), Err(404), "softly");
    }
    assert_eq!(site.put("3", &other, "x"), 200);
    // Nor does the run get a new one.
    let again = site.github(&json!({ "ref_protected": "true", "run_id": "4711" }));
    let again = site.exchange(&again);
    assert_eq!(again.status, 400, "{}", again.text());
    assert_eq!(json_of(&again)["error"], "invalid_grant");
    let said = larder(&["--all", "--yes"]).success().unwrap();
    assert_eq!(said, "ended 1 sessions of 2 CI jobs\n");
    assert_eq!(site.put("4", &other, "x"), 403);
}

#[test]
fn a_session_ends_with_the_rule_that_gave_it_at_a_reload_and_at_a_restart() {
    let mut site = Site::start();
    let config = std::fs::read_to_string(site.server.config_path()).unwrap();
    let wait_for_the_end = |site: &Site, session: &str| {
        wait_until("the end of the session", SOON, || {
            Ok((site.put("2", session, "x") == 403).then_some(()))
        })
        .unwrap();
        assert_eq!(site.get("1", session), Err(404), "softly");
    };
    let session = site.session(&site.push());
    assert_eq!(site.put("1", &session, "x"), 200);
    site.reload(&config);
    assert_eq!(
        site.get("1", &session).as_deref(),
        Ok("x"),
        "nothing changed"
    );
    site.reload(&config.replace("refs/heads/main", "refs/heads/trunk"));
    wait_for_the_end(&site, &session);
    site.server
        .wait_for_output("sessions have ended", SOON)
        .unwrap();
    site.reload(&config);
    let session = site.session(&site.push());
    assert_eq!(site.get("1", &session).as_deref(), Ok("x"));
    let changed = config.replace("refs/heads/main", "refs/heads/trunk");
    std::fs::write(site.server.config_path(), changed).unwrap();
    site.server.restart().unwrap();
    wait_for_the_end(&site, &session);
}
