//! Which jobs share a scope, and which never do.

use larder_auth::ci::{CircleCi, GitHub, GitLab, Isolation, Preset, Refused, Rules};
use proptest::prelude::*;
use serde_json::json;

use crate::rules::{JOBS, Job, RULES, SYSTEMS, circleci, explain, github, gitlab, rule_of, scope};

fn with(system: &str, name: &str, claim: &str, value: &str) -> Job {
    let mut job = JOBS[system][name].clone();
    job.insert(claim.to_owned(), json!(value));
    job
}

/// A job of this ref.
fn with_ref(system: &str, git_ref: &str) -> Job {
    let (name, claim) = match system {
        "github" => ("push-branch", "ref"),
        "gitlab" => ("push-branch", "ref_path"),
        "buildkite" => ("webhook-branch", "build_branch"),
        "circleci" => ("branch", "oidc.circleci.com/vcs-ref"),
        "azure-devops" => ("branch", "rpo_ref"),
        "custom" => ("branch", "branch"),
        other => panic!("{other}"),
    };
    let branch = git_ref.strip_prefix("refs/heads/").unwrap();
    let is_short = matches!(system, "buildkite" | "custom");
    with(system, name, claim, if is_short { branch } else { git_ref })
}

fn branch() -> impl Strategy<Value = String> {
    prop_oneof![
        "refs/heads/[a-c/-]{1,4}",
        "refs/heads/[a-zA-Z0-9/._-]{1,80}",
        "refs/heads/\\PC{1,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn two_branches_never_share_a_scope(
        system in prop::sample::select(&SYSTEMS),
        one in branch(),
        other in branch(),
    ) {
        let explained = [&one, &other].map(|git_ref| explain(&RULES, &with_ref(system, git_ref)));
        // A branch that happens to be trusted or a merge queue's has no scope by its name.
        if let [Some(first), Some(second)] = explained.each_ref().map(scope) {
            prop_assert_eq!(one == other, first == second);
        }
    }

    #[test]
    fn two_pull_requests_never_share_a_scope(one in 1u32.., other in 1u32..) {
        for (system, claim) in [("github", "ref"), ("azure-devops", "rpo_ref")] {
            let scopes = [one, other].map(|number| {
                let git_ref = format!("refs/pull/{number}/merge");
                let job = with(system, "pull-request", claim, &git_ref);
                scope(&explain(&RULES, &job)).unwrap().clone()
            });
            prop_assert_eq!(one == other, scopes[0] == scopes[1]);
        }
    }
}

/// A claim and another value for it.
type Change = (&'static str, &'static str);

/// Which changes of a job give it another scope, and which do not.
fn check(preset: Preset, system: &str, name: &str, other: &[Change], same: &[Change]) {
    let rules = Rules::new(vec![rule_of(preset)]).unwrap();
    let original = explain(&rules, &JOBS[system][name]);
    let changed = |&(claim, value): &Change| explain(&rules, &with(system, name, claim, value));
    for change in other {
        let explanation = changed(change);
        assert_ne!(
            scope(&original),
            scope(&explanation),
            "{system}/{name} {change:?}"
        );
    }
    for change in same {
        let explanation = changed(change);
        assert_eq!(
            scope(&original),
            scope(&explanation),
            "{system}/{name} {change:?}"
        );
    }
}

#[test]
fn isolation_says_what_a_scope_does_not_outlive() {
    let isolated = |isolation| {
        Preset::GitHub(GitHub {
            isolation,
            ..github()
        })
    };
    let number = ("ref", "refs/pull/124/merge");
    let (commit, run) = (("sha", "9f31"), ("run_id", "1"));
    for name in ["pull-request", "push-branch"] {
        check(
            isolated(Isolation::Pr),
            "github",
            name,
            &[number],
            &[commit, run],
        );
        check(
            isolated(Isolation::Commit),
            "github",
            name,
            &[number, commit],
            &[run],
        );
        check(
            isolated(Isolation::Run),
            "github",
            name,
            &[number, run],
            &[commit],
        );
    }
    let isolated = |isolation| {
        Preset::GitLab(GitLab {
            isolation,
            ..gitlab()
        })
    };
    let branch = ("ref_path", "refs/heads/other");
    let (commit, run) = (("sha", "9f31"), ("pipeline_id", "1"));
    let name = "merge-request";
    check(
        isolated(Isolation::Pr),
        "gitlab",
        name,
        &[branch],
        &[commit, run],
    );
    check(
        isolated(Isolation::Commit),
        "gitlab",
        name,
        &[branch, commit],
        &[run],
    );
    check(
        isolated(Isolation::Run),
        "gitlab",
        name,
        &[branch, run],
        &[commit],
    );
}

#[test]
fn branches_of_two_forks_are_two_branches() {
    let origin = ("oidc.circleci.com/vcs-origin", "github.com/somebody/web");
    for name in ["branch", "fork-branch", "fork-main"] {
        let rule: CircleCi = circleci();
        check(Preset::CircleCi(rule), "circleci", name, &[origin], &[]);
    }
}

#[test]
fn a_scope_that_should_end_with_an_unknown_commit_is_the_runs() {
    let rule = GitHub {
        isolation: Isolation::Commit,
        ..github()
    };
    let rules = Rules::new(vec![rule_of(Preset::GitHub(rule))]).unwrap();
    let mut job = JOBS["github"]["pull-request"].clone();
    job.remove("sha");
    let explanation = explain(&rules, &job);
    let scope = scope(&explanation).unwrap();
    assert_eq!(scope.as_str(), "ci.web-github/run-7135202999");
    job.remove("run_id");
    assert_eq!(explain(&rules, &job).refused(), Some(Refused::NoRun));
}
