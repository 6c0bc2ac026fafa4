//! Rules that are refused before any token comes.

use larder_auth::ci::{
    AzureDevOps, Buildkite, CircleCi, Custom, GitHub, GitLab, Preset, Problem, Rule, Rules,
};

use crate::rules::{
    azure_devops, buildkite, circleci, custom, exact, github, gitlab, refs, rule, rule_of,
};

fn check(rules: Vec<Rule>, expected: &[(&str, Problem)]) {
    let problems = Rules::new(rules).map_or_else(|error| error.0, |_| Vec::new());
    let found: Vec<(String, Problem)> = problems
        .into_iter()
        .map(|(workspace, rule, problem)| (format!("{workspace}.{rule}"), problem))
        .collect();
    let expected: Vec<(String, Problem)> = expected
        .iter()
        .map(|(rule, problem)| ((*rule).to_owned(), problem.clone()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn two_rules_that_one_token_could_fit_are_refused() {
    let overlap = |name: &str| Problem::Overlaps {
        workspace: "acme".parse().unwrap(),
        name: name.parse().unwrap(),
    };
    let issuer = GitHub::ISSUER;
    let web = || rule("web", issuer, Preset::GitHub(github()));
    let named = |name, repository: &str, owner: &str| {
        let preset = GitHub::new(repository.to_owned(), owner.to_owned());
        rule(name, issuer, Preset::GitHub(preset))
    };
    check(vec![web(), named("docs", "75", "65")], &[]);
    check(
        vec![web(), named("again", "74", "66")],
        &[("acme.again", overlap("web"))],
    );
    let own_server = "https://github.example/_services/token";
    check(
        vec![web(), rule("again", own_server, Preset::GitHub(github()))],
        &[],
    );
    let by = |name, claim, value: &str| {
        let preset = Custom {
            claims: exact(&[(claim, &[value])]),
            ..custom()
        };
        rule(name, issuer, Preset::Custom(preset))
    };
    check(
        vec![web(), by("name", "repository", "acme/web")],
        &[("acme.name", overlap("web"))],
    );
    check(
        vec![web(), by("id", "repository_id", "74")],
        &[("acme.id", overlap("web"))],
    );
    check(vec![web(), by("id", "repository_id", "75")], &[]);
    let azure = |name, definition_id: &str| {
        let preset = AzureDevOps {
            definition_id: definition_id.to_owned(),
            ..azure_devops()
        };
        rule(name, issuer, Preset::AzureDevOps(preset))
    };
    check(vec![azure("a", "1"), azure("b", "2")], &[]);
    check(
        vec![azure("a", "1"), azure("b", "1")],
        &[("acme.b", overlap("a"))],
    );
}

#[test]
fn one_issuer_is_one_ci_system_whatever_the_ids() {
    let issuer = "https://ci.example";
    let web = || rule("web", issuer, Preset::GitHub(github()));
    let mixed = Problem::MixedPresets {
        workspace: "acme".parse().unwrap(),
        name: "web".parse().unwrap(),
    };
    let app = rule("app", issuer, Preset::GitLab(gitlab()));
    check(vec![web(), app], &[("acme.app", mixed.clone())]);
    // Their ids would tell these two apart, if one of them could ever fit.
    let azure = AzureDevOps {
        repository_id: "1".to_owned(),
        ..azure_devops()
    };
    let azure = rule("azure", issuer, Preset::AzureDevOps(azure));
    check(vec![web(), azure], &[("acme.azure", mixed)]);
    let elsewhere = rule("app", GitLab::ISSUER, Preset::GitLab(gitlab()));
    check(vec![web(), elsewhere], &[]);
}

#[test]
fn a_workspace_has_no_two_rules_of_one_name() {
    let rule_of_repository = |workspace: &str, id: &str| Rule {
        workspace: workspace.parse().unwrap(),
        ..rule(
            "web",
            GitHub::ISSUER,
            Preset::GitHub(GitHub::new(id.to_owned(), "65".to_owned())),
        )
    };
    let pair = |workspace| {
        vec![
            rule_of_repository("acme", "1"),
            rule_of_repository(workspace, "2"),
        ]
    };
    check(pair("acme"), &[("acme.web", Problem::NameTaken)]);
    check(pair("other"), &[]);
}

fn check_one(preset: Preset, problem: Problem) {
    let rule = rule_of(preset);
    let name = format!("acme.{}", rule.name);
    check(vec![rule], &[(&name, problem)]);
}

#[test]
fn a_pattern_of_refs_needs_the_claim_that_they_are_protected() {
    let problem = || Problem::UnprotectedGlob {
        pattern: "refs/heads/release/*".to_owned(),
    };
    let trusted_refs = || refs(&["refs/heads/main", "refs/heads/release/*"]);
    let rule = GitHub {
        require_ref_protected: false,
        ..github()
    };
    check_one(Preset::GitHub(rule), problem());
    let rule = GitLab {
        require_ref_protected: false,
        ..gitlab()
    };
    check_one(Preset::GitLab(rule), problem());
    let rule = Buildkite {
        trusted_refs: trusted_refs(),
        ..buildkite()
    };
    check_one(Preset::Buildkite(rule), problem());
    let rule = CircleCi {
        trusted_refs: trusted_refs(),
        ..circleci()
    };
    check_one(Preset::CircleCi(rule), problem());
    let rule = AzureDevOps {
        trusted_refs: trusted_refs(),
        ..azure_devops()
    };
    check_one(Preset::AzureDevOps(rule), problem());
}

#[test]
fn a_pattern_of_refs_needs_the_operators_word_that_not_everybody_creates_such_refs() {
    let problem = || Problem::OpenGlob {
        pattern: "refs/heads/release/*".to_owned(),
    };
    let rule = GitHub {
        creation_restricted: false,
        ..github()
    };
    assert!(problem().to_string().contains("creation_restricted = true"));
    check_one(Preset::GitHub(rule), problem());
    let rule = GitLab {
        creation_restricted: false,
        ..gitlab()
    };
    check_one(Preset::GitLab(rule), problem());
    // Of a ref that is named exactly nothing is asked.
    let rule = GitHub {
        creation_restricted: false,
        trusted_refs: refs(&["refs/heads/main"]),
        ..github()
    };
    check(vec![rule_of(Preset::GitHub(rule))], &[]);
}

#[test]
fn a_shared_audience_takes_consent() {
    let rule = AzureDevOps {
        accept_shared_audience: false,
        ..azure_devops()
    };
    check_one(Preset::AzureDevOps(rule), Problem::SharedAudience);
}

#[test]
fn a_rule_says_which_repository_it_is_for() {
    let of = |claims: &[(&str, &[&str])]| {
        Preset::Custom(Custom {
            claims: exact(claims),
            ..custom()
        })
    };
    let (id, none) = (|| "1".to_owned(), String::new);
    let azure = |change: &dyn Fn(&mut AzureDevOps)| {
        let mut rule = azure_devops();
        change(&mut rule);
        Preset::AzureDevOps(rule)
    };
    for preset in [
        of(&[]),
        of(&[("folder", &[])]),
        of(&[("folder", &["acme/web", ""])]),
        Preset::GitHub(GitHub::new(none(), id())),
        Preset::GitHub(GitHub::new(id(), none())),
        Preset::GitLab(GitLab::new(none())),
        Preset::Buildkite(Buildkite::new(none(), id())),
        Preset::Buildkite(Buildkite::new(id(), none())),
        Preset::CircleCi(CircleCi::new(none(), id())),
        Preset::CircleCi(CircleCi::new(id(), none())),
        azure(&|rule| rule.organization_id.clear()),
        azure(&|rule| rule.project_id.clear()),
        azure(&|rule| rule.repository_id.clear()),
        azure(&|rule| rule.definition_id.clear()),
    ] {
        check_one(preset, Problem::NoIdentity);
    }
}

#[test]
fn all_problems_of_all_rules_are_told_at_once() {
    let nobodys = || rule("a", GitHub::ISSUER, Preset::Custom(Custom::default()));
    let error = Rules::new(vec![nobodys(), nobodys()]).unwrap_err();
    assert_eq!(error.0.len(), 4, "{error}");
    let text = error.to_string();
    assert_eq!(text.matches("[workspace.acme.ci.a]").count(), 5, "{text}");
    assert!(text.starts_with("[workspace.acme.ci.a]: "), "{text}");
    assert_eq!(
        text.matches("; [workspace.acme.ci.a]: ").count(),
        3,
        "{text}"
    );
}
