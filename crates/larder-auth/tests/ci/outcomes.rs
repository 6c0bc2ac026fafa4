//! What each job gets, kept as a file that a reviewer reads: `outcomes.txt`. To write it anew:
//! `LARDER_WRITE_GOLDEN=1 cargo test -p larder-auth --test ci`

use std::fmt::Write;
use std::{env, fs};

use larder_auth::ci::{
    AzureDevOps, Buildkite, CircleCi, Custom, ExactClaims, Explanation, ForkBuilds, GitHub, GitLab,
    Isolation, Preset, PullRequests, Rules, TrustedEvent,
};
use larder_model::Access;
use serde_json::{Value, json};

use crate::rules::{
    CORPUS, JOBS, RULES, SYSTEMS, azure_devops, buildkite, circleci, custom, explain, github,
    gitlab, refs, rule_of, scope,
};

const HEADER: &str = "\
# What the jobs of the files beside this one get: \"writes; reads\", then who it is, then the scope if it has one.
# The first part is for rules that trust main and release/*, or main alone where the CI system does not tell what is
# protected. Each further part changes one rule and has only the jobs that then get something else.
# Compared with the rules by outcomes.rs, which says how to write it anew.
";

fn outcome(explanation: &Explanation) -> String {
    let Some(access) = explanation.access() else {
        return format!("NOTHING: {}", explanation.refused().unwrap());
    };
    let (writes, reads) = match access {
        Access::Trusted => ("trusted", "trusted"),
        Access::CleanRoom => ("trusted", "nothing"),
        Access::Isolated { .. } => ("own", "trusted, own"),
        Access::Gate { .. } => ("own", "trusted"),
        Access::Reader => ("nothing", "trusted"),
        Access::Admin => unreachable!("no job is an administrator"),
    };
    let scope = scope(explanation).map_or_else(String::new, |scope| format!(" | {scope}"));
    format!("{writes}; {reads} | {}{scope}", explanation.who().unwrap())
}

fn every_system(text: &mut String) {
    writeln!(text, "\n## every system").unwrap();
    for system in SYSTEMS {
        for (name, job) in &JOBS[system] {
            let outcome = outcome(&explain(&RULES, job));
            writeln!(text, "{system}/{name}: {outcome}").unwrap();
        }
    }
}

/// A part for one system's rule, changed: only the jobs that get something else by it.
fn variant(text: &mut String, title: &str, preset: Preset) {
    let system = title.split_once(':').unwrap().0;
    let rules = Rules::new(vec![rule_of(preset)]).unwrap();
    writeln!(text, "\n## {title}").unwrap();
    for (name, job) in &JOBS[system] {
        let changed = outcome(&explain(&rules, job));
        if changed != outcome(&explain(&RULES, job)) {
            writeln!(text, "{system}/{name}: {changed}").unwrap();
        }
    }
}

fn github_variants(text: &mut String) {
    let mut variant = |title: &str, change: &dyn Fn(&mut GitHub)| {
        let mut rule = github();
        change(&mut rule);
        variant(text, &format!("github: {title}"), Preset::GitHub(rule));
    };
    let workflow = "acme/web/.github/workflows/ci.yml";
    variant("isolation = \"commit\"", &|rule| {
        rule.isolation = Isolation::Commit;
    });
    variant("isolation = \"run\"", &|rule| {
        rule.isolation = Isolation::Run;
    });
    variant("pull_requests = \"read-only\"", &|rule| {
        rule.pull_requests = PullRequests::ReadOnly;
    });
    variant("pull_requests = \"none\"", &|rule| {
        rule.pull_requests = PullRequests::None;
    });
    variant("dispatch_trusted = true", &|rule| {
        rule.dispatch_trusted = true;
    });
    variant("trusted_events = [\"push\"]", &|rule| {
        rule.trusted_events = vec![TrustedEvent::Push];
    });
    variant(
        "trusted_refs = [main], require_ref_protected = false",
        &|rule| {
            rule.trusted_refs = refs(&["refs/heads/main"]);
            rule.require_ref_protected = false;
        },
    );
    variant("trusted_workflows = [ci.yml]", &|rule| {
        rule.trusted_workflows = vec![workflow.parse().unwrap()];
    });
    variant("clean_room_environments = [\"production\"]", &|rule| {
        rule.clean_room_environments = vec!["production".to_owned()];
    });
    variant("clean_room_workflows = [ci.yml]", &|rule| {
        rule.clean_room_workflows = vec![workflow.parse().unwrap()];
    });
}

fn gitlab_variants(text: &mut String) {
    let mut variant = |title: &str, change: &dyn Fn(&mut GitLab)| {
        let mut rule = gitlab();
        change(&mut rule);
        variant(text, &format!("gitlab: {title}"), Preset::GitLab(rule));
    };
    variant("isolation = \"commit\"", &|rule| {
        rule.isolation = Isolation::Commit;
    });
    variant("pull_requests = \"none\"", &|rule| {
        rule.pull_requests = PullRequests::None;
    });
    variant("trusted_events = [\"schedule\"]", &|rule| {
        rule.trusted_events = vec![TrustedEvent::Schedule];
    });
    variant(
        "trusted_refs = [main], require_ref_protected = false",
        &|rule| {
            rule.trusted_refs = refs(&["refs/heads/main"]);
            rule.require_ref_protected = false;
        },
    );
    variant("clean_room_environments = [\"production\"]", &|rule| {
        rule.clean_room_environments = vec!["production".to_owned()];
    });
    variant("no namespace_id", &|rule| rule.namespace_id = None);
}

fn other_variants(text: &mut String) {
    let mut changed = |title: &str, change: &dyn Fn(&mut Buildkite)| {
        let mut rule = buildkite();
        change(&mut rule);
        variant(
            text,
            &format!("buildkite: {title}"),
            Preset::Buildkite(rule),
        );
    };
    changed("fork_builds = \"enabled\"", &|rule| {
        rule.fork_builds = ForkBuilds::Enabled;
    });
    changed("fork_builds = \"disabled\"", &|rule| {
        rule.fork_builds = ForkBuilds::Disabled;
    });
    changed("isolation = \"run\"", &|rule| {
        rule.isolation = Isolation::Run;
    });
    changed("pull_requests = \"read-only\"", &|rule| {
        rule.pull_requests = PullRequests::ReadOnly;
    });
    changed("trusted_events = [\"push\"]", &|rule| {
        rule.trusted_events = vec![TrustedEvent::Push];
    });
    let rule = CircleCi {
        pull_requests: PullRequests::None,
        ..circleci()
    };
    variant(
        text,
        "circleci: pull_requests = \"none\"",
        Preset::CircleCi(rule),
    );
    let rule = AzureDevOps {
        isolation: Isolation::Commit,
        ..azure_devops()
    };
    variant(
        text,
        "azure-devops: isolation = \"commit\"",
        Preset::AzureDevOps(rule),
    );
    let rule = Custom {
        trusted_claims: ExactClaims::default(),
        ..custom()
    };
    variant(text, "custom: no trusted_claims", Preset::Custom(rule));
    let rule = Custom {
        pull_request_claim: None,
        pull_requests: PullRequests::ReadOnly,
        ..custom()
    };
    let title = "custom: no pull_request_claim, pull_requests = \"read-only\"";
    variant(text, title, Preset::Custom(rule));
}

/// One explanation of each system, as `larder policy test` prints it.
fn explanations(text: &mut String) {
    for (system, name) in [
        ("github", "pull-request-target"),
        ("github", "push-main-renamed"),
        ("github", "push-main-of-another-repository"),
        ("gitlab", "push-main-unprotected"),
        ("gitlab", "merge-request-older-gitlab"),
        ("buildkite", "api-main"),
        ("circleci", "main-ssh-rerun"),
        ("azure-devops", "main"),
        ("custom", "trunk-by-hand"),
    ] {
        let explanation = explain(&RULES, &JOBS[system][name]);
        writeln!(text, "\n## explained: {system}/{name}\n{explanation}").unwrap();
    }
}

#[test]
fn jobs_get_what_the_golden_file_says() {
    let mut text = HEADER.to_owned();
    every_system(&mut text);
    github_variants(&mut text);
    gitlab_variants(&mut text);
    other_variants(&mut text);
    explanations(&mut text);
    let golden = format!("{CORPUS}/outcomes.txt");
    if env::var_os("LARDER_WRITE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(
        text,
        fs::read_to_string(&golden).unwrap(),
        "if the change is meant, see the head of this file"
    );
}

fn check_provenance(system: &str, name: &str, expected: Value) {
    let explanation = explain(&RULES, &JOBS[system][name]);
    let found = explanation.provenance().unwrap();
    let fields = json!([
        found.issuer,
        found.rule,
        found.repository_id,
        found.repository,
        found.git_ref,
        found.commit_sha,
        found.event,
        found.workflow,
        found.run_id,
        found.run_attempt,
        found.job,
        found.actor,
        found.subject,
        found.environment,
    ]);
    assert_eq!(fields, expected, "{system}/{name}");
}

const SHA: &str = "9f3182061f1e2cca4702c368cbc039b7dc9d4485";

#[test]
#[rustfmt::skip]
fn provenance_is_what_the_claims_say() {
    check_provenance("github", "push-main-environment", json!([
        "https://token.actions.githubusercontent.com", "web-github", "74", "acme/web", "refs/heads/main", SHA, "push",
        "acme/web/.github/workflows/ci.yml@refs/heads/main", "7135202116", "1", "21930498721", "octocat",
        "repo:acme/web:environment:production", "production",
    ]));
    check_provenance("gitlab", "push-main-environment", json!([
        "https://gitlab.com", "web-gitlab", "20", "acme/web", "refs/heads/main", SHA, "push",
        "gitlab.com/acme/web//.gitlab-ci.yml@refs/heads/main", "574", null, "302", "sample-user",
        "project_path:acme/web:ref_type:branch:ref:main", "production",
    ]));
    check_provenance("buildkite", "tag", json!([
        "https://agent.buildkite.com", "web-bk", "0184990a-4782-42b5-afc1-16715b10b1f0", "acme-inc/web",
        "refs/tags/v1.2.0", SHA, "webhook", "build", "1041", null, "0184990a-477b-4fa8-9968-496074483cee", null,
        format!("organization:acme-inc:pipeline:web:ref:refs/heads/main:commit:{SHA}:step:build"), null,
    ]));
    check_provenance("circleci", "main-older-subject", json!([
        "https://oidc.circleci.com/org/d3b1e4a2-7f0c-4d8e-9f55-0a6d4a1b2c3d", "web-circle",
        "5c9d7f20-1e2a-4b7c-8d3e-6f1a2b3c4d5e", "github.com/acme/web", "refs/heads/main", null, null, null, null, null,
        null, null, "org/d3b1e4a2-7f0c-4d8e-9f55-0a6d4a1b2c3d/project/5c9d7f20-1e2a-4b7c-8d3e-6f1a2b3c4d5e/user/\
        1f2e3d4c-5b6a-4978-8a9b-0c1d2e3f4a5b", null,
    ]));
    check_provenance("azure-devops", "pull-request", json!([
        "https://vstoken.dev.azure.com/3f1c2b4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d", "web-azure",
        "6c7d8e9f-0a1b-4c2d-8e3f-4a5b6c7d8e9f", "https://dev.azure.com/acme/web/_git/web", "refs/pull/45/merge", SHA,
        null, "17", "2210", null, null, null, "p://acme/web/ci", null,
    ]));
    check_provenance("custom", "trunk", json!([
        "https://jenkins.example.com/oidc", "web-jenkins", null, "acme/web", "main", SHA, null, null, "1377", null, null,
        null, "https://jenkins.example.com/job/acme/job/web/job/main/", null,
    ]));
}
