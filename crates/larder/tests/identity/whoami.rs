//! "Who am I?", over HTTP and on the command line.

use larder_testkit::{Access, larder_binary, process};
use serde_json::json;

use super::site::{SOON, Site, json_of};

#[test]
fn a_pull_request_learns_who_it_is() {
    let site = Site::start();
    let jwt = site.pull_request(123);
    let text = "you are pull request 123 of acme/web; you write ci.web/pr-123; you read trusted, then ci.web/pr-123 \
                (workspace default)";
    for (kind, credential) in [("session", site.session(&jwt)), ("identity-token", jwt)] {
        let answer = site.whoami(Some(&credential));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let who = json_of(&answer);
        assert_eq!(who["text"], text);
        assert_eq!(who["kind"], kind);
        assert_eq!(who["workspace"], "default");
        assert_eq!(who["provenance"]["repository_id"], "456789");
        assert_eq!(who["provenance"]["ref"], "refs/pull/123/merge");
        assert!(who["expires_at_ms"].is_u64(), "{who}");
    }
}

#[test]
fn everybody_gets_an_answer_but_whoever_has_a_bad_credential() {
    let site = Site::start();
    let check = |credential: Option<&str>, expected: &str| {
        let answer = site.whoami(credential);
        assert_eq!(
            (answer.status, json_of(&answer)["text"].as_str()),
            (200, Some(expected))
        );
    };
    check(
        None,
        "you sent no credential; you read nothing and write nothing",
    );
    check(
        Some(""),
        "you sent no credential; you read nothing and write nothing",
    );
    let token = |access| site.server.token(access, None).unwrap();
    check(
        Some(&token(Access::Isolated)),
        "you are token 2; you write token/2; you read trusted, then token/2 (workspace default)",
    );
    check(
        Some(&token(Access::Reader)),
        "you are token 3; you write nothing; you read trusted (workspace default)",
    );
    check(
        Some(&token(Access::Admin)),
        "you are token 4; you administer the workspace default, and read and write no entries",
    );
    let push = site.push();
    check(
        Some(&push),
        "you are a push on refs/heads/main of acme/web; you write trusted; you read trusted (workspace default)",
    );
    let bad = site.whoami(Some("lrd_nonsense"));
    assert_eq!(bad.status, 401);
    assert_eq!(bad.header("www-authenticate"), Some("Bearer"));
    assert_eq!(json_of(&bad)["error"], "invalid_token");
    assert!(
        json_of(&bad)["error_description"]
            .as_str()
            .unwrap()
            .contains("Larder token")
    );
}

#[test]
fn the_command_finds_server_and_token_where_the_tools_do() {
    let site = Site::start();
    let session = site.session(&site.pull_request(7));
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
        command.env_clear().envs(variables.iter().copied());
        command.arg("whoami").args(arguments);
        process::run(&mut command, SOON).unwrap()
    };
    let url = format!("{}/w/default", site.server.url());
    let nx = [
        ("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", url.as_str()),
        ("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", &session),
    ];
    let said = run(&nx, &[]).success().unwrap();
    assert!(
        said.starts_with("you are pull request 7 of acme/web; "),
        "{said}"
    );
    let named = run(
        &[("ELSEWHERE", &session)],
        &[
            "--server",
            &site.server.url(),
            "--token",
            "ELSEWHERE",
            "--json",
        ],
    );
    let named: serde_json::Value = serde_json::from_str(&named.success().unwrap()).unwrap();
    assert_eq!(named["writes"], json!("ci.web/pr-7"));
    let refused = run(&[], &["--server", &site.server.url(), "--token", &session]);
    assert!(!refused.status.success(), "a token is no argument");
    assert!(!refused.stderr.contains(&session), "and is not repeated");
    let bad = run(
        &[
            ("LARDER_SERVER", &site.server.url()),
            ("LARDER_TOKEN", "lrd_x"),
        ],
        &[],
    );
    assert!(!bad.status.success());
    assert!(bad.stderr.contains("Larder token"), "{}", bad.stderr);
}
