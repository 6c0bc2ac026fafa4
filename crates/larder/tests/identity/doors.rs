//! Both doors lead to the same rights: the token as it is, and the session that it was exchanged for.

use larder_testkit::Access;
use larder_testkit::issuer::Issuer;
use serde_json::json;

use super::site::{SOON, Site, config, config_gitlab, gitlab, json_of};

/// What a push and a pull request can do to each other, by these credentials.
fn check(site: &Site, push: &str, pull_request: &str) {
    let reader = site.server.token(Access::Reader, None).unwrap();
    assert_eq!(site.put("1", pull_request, "of the pull request"), 200);
    assert_eq!(site.get("1", push), Err(404), "trunk never sees it");
    assert_eq!(
        site.put("1", push, "of trunk"),
        200,
        "and is not hindered by it"
    );
    assert_eq!(site.get("1", &reader).as_deref(), Ok("of trunk"));
    assert_eq!(site.get("1", pull_request).as_deref(), Ok("of trunk"));
    assert_eq!(site.put("2", pull_request, "its own"), 200);
    assert_eq!(site.get("2", pull_request).as_deref(), Ok("its own"));
    assert_eq!(site.get("2", &reader), Err(404));
}

#[test]
fn a_push_writes_for_everybody_and_a_pull_request_for_itself_by_token() {
    let site = Site::start();
    let (push, pull_request) = (site.push(), site.pull_request(123));
    check(&site, &push, &pull_request);
    let sibling = site.pull_request(124);
    assert_eq!(
        site.get("2", &sibling),
        Err(404),
        "no pull request sees another's"
    );
}

#[test]
fn a_push_writes_for_everybody_and_a_pull_request_for_itself_by_session() {
    let site = Site::start();
    let push = site.session(&site.push());
    let pull_request = site.session(&site.pull_request(123));
    check(&site, &push, &pull_request);
    // Both doors are one scope.
    assert_eq!(
        site.get("2", &site.pull_request(123)).as_deref(),
        Ok("its own")
    );
}

#[test]
fn a_gitlab_job_needs_nothing_but_its_token() {
    let issuer = Issuer::start().unwrap();
    let config = config_gitlab(&issuer);
    let site = Site::start_configured(issuer, config, Vec::new());
    site.wait_for_keys();
    let trunk = site.token(&gitlab(), &json!({}));
    let merge_request = json!({
        "pipeline_source": "merge_request_event", "ref_path": "refs/heads/main", "ref_protected": "true",
        "pipeline_id": "901", "job_project_id": "77",
    });
    let merge_request = site.token(&gitlab(), &merge_request);
    check(&site, &trunk, &merge_request);
}

#[test]
fn whatever_is_not_genuine_is_refused_loudly_and_what_no_rule_knows_is_a_miss() {
    let site = Site::start();
    let other_audience = site.github(&json!({ "aud": "https://elsewhere.test" }));
    let other_issuer = site.github(&json!({ "iss": "https://issuer.test" }));
    let push = site.push();
    let (head, tail) = push.split_at(push.len() - 40);
    let tampered = format!(
        "{head}{}{}",
        if tail.starts_with('A') { 'B' } else { 'A' },
        &tail[1..]
    );
    for bad in [&other_audience, &tampered] {
        assert_eq!(site.get("1", bad), Err(401));
        assert_eq!(site.put("1", bad, "x"), 401);
        let refused = site.exchange(bad);
        assert_eq!(refused.status, 400);
        let refused = json_of(&refused);
        assert_eq!(refused["error"], "invalid_grant");
        let id = refused["request_id"].as_str().unwrap();
        site.server.wait_for_output(id, SOON).unwrap();
    }
    let fork = site.github(&json!({ "repository_id": "1" }));
    for nobody in [&fork, &other_issuer] {
        assert_eq!(site.get("1", nobody), Err(404));
        assert_eq!(site.put("1", nobody, "x"), 403);
        assert_eq!(json_of(&site.exchange(nobody))["error"], "invalid_grant");
    }
    // Nobody is told what was wrong.
    let texts = [&other_audience, &other_issuer, &fork].map(|jwt| {
        let answer = json_of(&site.exchange(jwt));
        answer["error_description"].as_str().unwrap().to_owned()
    });
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn a_changed_rule_counts_at_once_and_a_broken_configuration_not_at_all() {
    let site = Site::start();
    let direct = site.push();
    assert_eq!(site.put("1", &direct, "x"), 200);
    let config = std::fs::read_to_string(site.server.config_path()).unwrap();
    site.reload(&config.replace("refs/heads/main", "refs/heads/trunk"));
    let who = json_of(&site.whoami(Some(&direct)));
    assert!(
        who["writes"]
            .as_str()
            .unwrap()
            .starts_with("ci.web/branch-"),
        "the token is judged by the new rule: {who}"
    );
    // A configuration with a mistake changes nothing.
    let before = json_of(&site.whoami(Some(&direct)));
    std::fs::write(site.server.config_path(), "[workspace.default.ci.web]\n").unwrap();
    let pid = i32::try_from(site.server.pid().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    site.server.wait_for_output("not reloaded", SOON).unwrap();
    assert_eq!(json_of(&site.whoami(Some(&direct))), before);
}

#[test]
fn a_rule_that_got_less_counts_though_another_issuers_keys_cannot_be_read() {
    let issuer = Issuer::start().unwrap();
    let file = issuer.jwks_file().unwrap();
    let other = format!(
        "[issuer.other]\nurl = \"https://other.test\"\njwks_file = \"{}\"\n\
         [workspace.default.ci.other]\nprovider = \"gitlab\"\nissuer = \"other\"\nproject_id = 1\n",
        file.display()
    );
    let config = config(&issuer, "") + &other;
    let site = Site::start_configured(issuer, config.clone(), Vec::new());
    site.wait_for_keys();
    let push = site.push();
    assert_eq!(json_of(&site.whoami(Some(&push)))["writes"], "trusted");
    std::fs::remove_file(&file).unwrap();
    site.reload(&config.replace("refs/heads/main", "refs/heads/trunk"));
    let who = json_of(&site.whoami(Some(&push)));
    assert_ne!(who["writes"], "trusted", "{who}");
    let output = site.server.output();
    assert!(
        output.contains("configuration reloaded in part"),
        "{output}"
    );
    assert!(
        output.contains("an issuer stays as it was: cannot read"),
        "{output}"
    );
}
