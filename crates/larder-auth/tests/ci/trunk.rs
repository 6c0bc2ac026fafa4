//! What no claims can do: be trunk without being trunk in every decisive claim, or get anything of another repository.
//!
//! This looks neither at the golden file nor at the code: it says apart from both which claims together are trunk.

use std::collections::BTreeSet;

use larder_auth::ci::{Custom, Explanation, Preset, PullRequests, Rules};
use larder_model::{Access, UntrustedScope};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::rules::{JOBS, Job, RULES, SYSTEMS, custom, explain, rule_of, scope};

/// What a claim has to be for trunk.
#[derive(Clone, Copy)]
enum Must {
    Be(&'static [&'static str]),
    BeOrBeAbsent(&'static str),
    BeFalse,
    BeAbsent,
    BeThereAndSayNothing,
}

use Must::{Be, BeAbsent, BeFalse, BeOrBeAbsent, BeThereAndSayNothing};

impl Must {
    fn holds(self, value: Option<&Value>) -> bool {
        match self {
            Be(allowed) => value
                .and_then(Value::as_str)
                .is_some_and(|text| allowed.contains(&text)),
            BeOrBeAbsent(allowed) => value.is_none_or(|value| value == allowed),
            BeFalse => value == Some(&json!(false)),
            BeAbsent => value.is_none(),
            BeThereAndSayNothing => value.is_some_and(|value| value.is_null() || value == ""),
        }
    }
}

type Conditions = &'static [(&'static str, Must)];

/// What makes a token one of this repository: with another value there, nobody gets anything.
#[rustfmt::skip]
fn ours(system: &str) -> Conditions {
    match system {
        "github" => &[
            ("iss", Be(&["https://token.actions.githubusercontent.com"])),
            ("repository_id", Be(&["74"])),
            ("repository_owner_id", Be(&["65"])),
        ],
        "gitlab" => &[
            ("iss", Be(&["https://gitlab.com"])),
            ("project_id", Be(&["20"])),
            ("namespace_id", Be(&["72"])),
            ("job_project_id", BeOrBeAbsent("20")),
        ],
        "buildkite" => &[
            ("iss", Be(&["https://agent.buildkite.com"])),
            ("organization_id", Be(&["f892efa9-103e-4d28-97a1-3b8616a0994d"])),
            ("pipeline_id", Be(&["0184990a-4782-42b5-afc1-16715b10b1f0"])),
        ],
        "circleci" => &[
            ("iss", Be(&["https://oidc.circleci.com/org/d3b1e4a2-7f0c-4d8e-9f55-0a6d4a1b2c3d"])),
            ("oidc.circleci.com/project-id", Be(&["5c9d7f20-1e2a-4b7c-8d3e-6f1a2b3c4d5e"])),
        ],
        "azure-devops" => &[
            ("iss", Be(&["https://vstoken.dev.azure.com/3f1c2b4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d"])),
            ("org_id", Be(&["3f1c2b4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d"])),
            ("prj_id", Be(&["4a5b6c7d-8e9f-4a0b-9c1d-2e3f4a5b6c7d"])),
            ("rpo_id", Be(&["6c7d8e9f-0a1b-4c2d-8e3f-4a5b6c7d8e9f"])),
            ("def_id", Be(&["17"])),
        ],
        "custom" => &[
            ("iss", Be(&["https://jenkins.example.com/oidc"])),
            ("folder", Be(&["acme/web"])),
        ],
        other => panic!("{other}"),
    }
}

/// What it takes besides to write `trusted`.
#[rustfmt::skip]
fn trunk(system: &str) -> Conditions {
    match system {
        "github" => &[
            ("event_name", Be(&["push", "schedule"])),
            ("ref", Be(&["refs/heads/main", "refs/heads/release/1.2", "refs/heads/release/evil"])),
            ("ref_protected", Be(&["true"])),
        ],
        "gitlab" => &[
            ("source_project_id", BeOrBeAbsent("20")),
            ("pipeline_source", Be(&["push", "schedule"])),
            ("ref_type", Be(&["branch"])),
            ("ref_path", Be(&["refs/heads/main"])),
            ("ref_protected", Be(&["true"])),
        ],
        "buildkite" => &[
            ("build_source", Be(&["webhook", "schedule"])),
            ("build_branch", Be(&["main"])),
            ("build_tag", BeAbsent),
        ],
        "circleci" => &[
            ("oidc.circleci.com/vcs-origin", Be(&["github.com/acme/web"])),
            ("oidc.circleci.com/vcs-ref", Be(&["refs/heads/main"])),
            ("oidc.circleci.com/ssh-rerun", BeFalse),
        ],
        "azure-devops" => &[("rpo_ref", Be(&["refs/heads/main"]))],
        "custom" => &[
            ("branch", Be(&["main"])),
            ("trigger", Be(&["push", "timer"])),
            ("change", BeThereAndSayNothing),
        ],
        other => panic!("{other}"),
    }
}

fn hold(conditions: Conditions, job: &Job) -> bool {
    conditions
        .iter()
        .all(|(claim, must)| must.holds(job.get(*claim)))
}

fn is_trunk(system: &str, job: &Job) -> bool {
    hold(ours(system), job) && hold(trunk(system), job)
}

fn writes_trusted(explanation: &Explanation) -> bool {
    explanation
        .access()
        .is_some_and(|access| access.kind().writes_trusted())
}

/// What holds for any claims whatever that are made of a job of this system.
fn check(system: &str, job: &Job) {
    let explanation = explain(&RULES, job);
    let shown = || format!("{system}: {}\n{explanation}", Value::from(job.clone()));
    if !hold(ours(system), job) {
        assert_eq!(explanation.access(), None, "{}", shown());
    }
    if writes_trusted(&explanation) {
        assert!(is_trunk(system, job), "{}", shown());
    }
    if let Some(scope) = scope(&explanation) {
        let (_, rule) = explanation.rule().unwrap();
        let own = format!("ci.{rule}/");
        assert!(scope.as_str().starts_with(&own), "{}", shown());
        let parsed = scope.as_str().parse::<UntrustedScope>();
        assert_eq!(parsed.as_ref(), Ok(scope), "{}", shown());
    }
    assert_ne!(explanation.access(), Some(&Access::Admin), "{}", shown());
}

fn decisive(system: &str) -> BTreeSet<&'static str> {
    let conditions = ours(system).iter().chain(trunk(system));
    conditions.map(|(claim, _)| *claim).collect()
}

fn names(system: &str) -> BTreeSet<&str> {
    let of_jobs = JOBS[system].values().flat_map(Map::keys);
    let of_jobs = of_jobs.map(String::as_str);
    of_jobs
        .chain(decisive(system))
        .chain(["unheard_of"])
        .collect()
}

/// What these claims say in any job of the system, and some values that none has.
fn values(system: &str, names: &BTreeSet<&str>) -> Vec<Value> {
    let of_job = |job: &'static Job| names.iter().filter_map(|name| job.get(*name));
    let known: BTreeSet<String> = JOBS[system]
        .values()
        .flat_map(of_job)
        .map(Value::to_string)
        .collect();
    let known = known.iter().map(|json| serde_json::from_str(json).unwrap());
    let garbage = json!([
        null, true, false, 0, 74, 20, 17.0, "", " ", "*", "True", "TRUE", "true ", "PUSH", "push\0", "main", "trusted",
        "refs/heads/main", "refs/heads/main\n", "refs/heads/Main", "refs/heads//main", "refs/heads/release/",
        "refs/heads/release/*", "refs/pull/1/merge", ["push"], {"ref": "refs/heads/main"},
    ]);
    known.chain(garbage.as_array().unwrap().clone()).collect()
}

#[test]
fn trunks_jobs_and_no_others_write_trusted() {
    let mut trunks = 0;
    for system in SYSTEMS {
        for (name, job) in &JOBS[system] {
            check(system, job);
            let found = writes_trusted(&explain(&RULES, job));
            assert_eq!(found, is_trunk(system, job), "{system}/{name}");
            trunks += u32::from(found);
        }
    }
    assert!(trunks > 15, "there are {trunks} jobs of trunk to change");
}

#[test]
fn no_claim_that_is_changed_or_removed_raises_trust() {
    for system in SYSTEMS {
        let (names, decisive) = (names(system), decisive(system));
        let (all, decisive_alone) = (values(system, &names), values(system, &decisive));
        for job in JOBS[system].values() {
            for &name in &names {
                let mut changed = job.clone();
                if changed.remove(name).is_some() {
                    check(system, &changed);
                }
                let values = if decisive.contains(name) {
                    &all
                } else {
                    &decisive_alone
                };
                for value in values {
                    changed.insert(name.to_owned(), value.clone());
                    check(system, &changed);
                }
            }
        }
    }
}

/// How much an outcome is, the most last.
fn rank(explanation: &Explanation) -> u8 {
    match explanation.access() {
        None => 0,
        Some(Access::Reader) => 1,
        Some(Access::Isolated { .. } | Access::Gate { .. }) => 2,
        Some(Access::Trusted | Access::CleanRoom | Access::Admin) => 3,
    }
}

/// Of systems with a preset some claims count only if they are there; what an operator writes by hand has to be there.
#[test]
fn without_any_of_its_claims_a_token_of_a_custom_rule_never_gets_more() {
    for pull_requests in [
        PullRequests::Isolated,
        PullRequests::ReadOnly,
        PullRequests::None,
    ] {
        let preset = Custom {
            pull_requests,
            ..custom()
        };
        let rules = Rules::new(vec![rule_of(Preset::Custom(preset))]).unwrap();
        for (file, job) in &JOBS["custom"] {
            let before = explain(&rules, job);
            for name in job.keys() {
                let mut less = job.clone();
                less.remove(name);
                let after = explain(&rules, &less);
                let shown = format!("{pull_requests:?} {file} without {name}\n{after}");
                assert!(rank(&after) <= rank(&before), "{shown}");
            }
        }
    }
}

#[test]
fn claims_of_one_system_in_a_token_of_another_raise_nothing() {
    for system in SYSTEMS {
        for other in SYSTEMS.into_iter().filter(|&other| other != system) {
            for job in JOBS[system].values() {
                let mut disguised = JOBS[other].values().next().unwrap().clone();
                disguised.extend(job.clone());
                check(system, &disguised);
            }
        }
    }
}

/// A job of some system with several claims changed or removed, the decisive ones more often.
fn changed_job() -> impl Strategy<Value = (&'static str, Job)> {
    prop::sample::select(&SYSTEMS).prop_flat_map(|system| {
        let jobs: Vec<Job> = JOBS[system].values().cloned().collect();
        let known = values(system, &names(system));
        let select = |names: BTreeSet<&str>| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            prop::sample::select(names)
        };
        let name = prop_oneof![select(names(system)), select(decisive(system))];
        let value = prop_oneof![
            4 => prop::sample::select(known).prop_map(Some),
            1 => any::<String>().prop_map(|text| Some(Value::from(text))),
            1 => Just(None),
        ];
        let changes = prop::collection::vec((name, value), 1..6);
        (prop::sample::select(jobs), changes).prop_map(move |(mut job, changes)| {
            for (name, value) in changes {
                match value {
                    Some(value) => job.insert(name, value),
                    None => job.remove(&name),
                };
            }
            (system, job)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_claims_that_are_changed_or_removed_together_raise_trust((system, job) in changed_job()) {
        check(system, &job);
    }
}
