//! The rules of `acme/web` on each system, and its jobs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;

use larder_auth::Claims;
use larder_auth::ci::{
    AzureDevOps, Buildkite, CircleCi, Custom, ExactClaims, Explanation, ForkBuilds, GitHub, GitLab,
    Isolation, Preset, PullRequests, RefPattern, Rule, Rules,
};
use larder_model::{Access, UntrustedScope};
use serde_json::{Map, Value};

pub(crate) const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ci");

pub(crate) const SYSTEMS: [&str; 6] = [
    "github",
    "gitlab",
    "buildkite",
    "circleci",
    "azure-devops",
    "custom",
];

pub(crate) fn refs(texts: &[&str]) -> Vec<RefPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn github() -> GitHub {
    GitHub {
        repository: Some("acme/web".to_owned()),
        trusted_refs: refs(&["refs/heads/main", "refs/heads/release/*"]),
        creation_restricted: true,
        ..GitHub::new("74".to_owned(), "65".to_owned())
    }
}

pub(crate) fn gitlab() -> GitLab {
    GitLab {
        namespace_id: Some("72".to_owned()),
        project_path: Some("acme/web".to_owned()),
        trusted_refs: refs(&["refs/heads/main", "refs/heads/release/*"]),
        creation_restricted: true,
        ..GitLab::new("20".to_owned())
    }
}

pub(crate) fn buildkite() -> Buildkite {
    Buildkite {
        trusted_refs: refs(&["refs/heads/main"]),
        fork_builds: ForkBuilds::Prefixed,
        ..Buildkite::new(
            "f892efa9-103e-4d28-97a1-3b8616a0994d".to_owned(),
            "0184990a-4782-42b5-afc1-16715b10b1f0".to_owned(),
        )
    }
}

pub(crate) fn circleci() -> CircleCi {
    CircleCi {
        trusted_refs: refs(&["refs/heads/main"]),
        ..CircleCi::new(
            "5c9d7f20-1e2a-4b7c-8d3e-6f1a2b3c4d5e".to_owned(),
            "github.com/acme/web".to_owned(),
        )
    }
}

pub(crate) fn azure_devops() -> AzureDevOps {
    AzureDevOps {
        organization_id: "3f1c2b4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d".to_owned(),
        project_id: "4a5b6c7d-8e9f-4a0b-9c1d-2e3f4a5b6c7d".to_owned(),
        repository_id: "6c7d8e9f-0a1b-4c2d-8e3f-4a5b6c7d8e9f".to_owned(),
        definition_id: "17".to_owned(),
        trusted_refs: refs(&["refs/heads/main"]),
        pull_requests: PullRequests::Isolated,
        isolation: Isolation::Pr,
        accept_shared_audience: true,
    }
}

pub(crate) fn exact(claims: &[(&str, &[&str])]) -> ExactClaims {
    let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    let claims = claims
        .iter()
        .map(|&(claim, values)| (claim.to_owned(), owned(values)));
    ExactClaims::new(claims.collect())
}

pub(crate) fn custom() -> Custom {
    Custom {
        claims: exact(&[("folder", &["acme/web"])]),
        trusted_claims: exact(&[("branch", &["main"]), ("trigger", &["push", "timer"])]),
        ref_claim: Some("branch".to_owned()),
        run_claim: Some("build_number".to_owned()),
        pull_request_claim: Some("change".to_owned()),
        commit_claim: Some("commit".to_owned()),
        ..Custom::default()
    }
}

pub(crate) fn rule(name: &str, issuer: &str, preset: Preset) -> Rule {
    Rule {
        name: name.parse().unwrap(),
        workspace: "acme".parse().unwrap(),
        issuer: issuer.to_owned(),
        preset,
    }
}

/// The rule of this repository, with the issuer that signs the corpus.
pub(crate) fn rule_of(preset: Preset) -> Rule {
    let (name, issuer) = match &preset {
        Preset::GitHub(_) => ("web-github", GitHub::ISSUER.to_owned()),
        Preset::GitLab(_) => ("web-gitlab", GitLab::ISSUER.to_owned()),
        Preset::Buildkite(_) => ("web-bk", Buildkite::ISSUER.to_owned()),
        Preset::CircleCi(_) => (
            "web-circle",
            CircleCi::issuer("d3b1e4a2-7f0c-4d8e-9f55-0a6d4a1b2c3d"),
        ),
        Preset::AzureDevOps(rule) => ("web-azure", AzureDevOps::issuer(&rule.organization_id)),
        Preset::Custom(_) => ("web-jenkins", "https://jenkins.example.com/oidc".to_owned()),
    };
    rule(name, &issuer, preset)
}

pub(crate) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let presets = [
        Preset::GitHub(github()),
        Preset::GitLab(gitlab()),
        Preset::Buildkite(buildkite()),
        Preset::CircleCi(circleci()),
        Preset::AzureDevOps(azure_devops()),
        Preset::Custom(custom()),
    ];
    Rules::new(presets.into_iter().map(rule_of).collect()).unwrap()
});

/// The claims of a job, to be changed.
pub(crate) type Job = Map<String, Value>;

/// The corpus: for each system, its jobs by name.
pub(crate) static JOBS: LazyLock<BTreeMap<&str, BTreeMap<String, Job>>> = LazyLock::new(|| {
    let of_system = |system| {
        let folder = fs::read_dir(format!("{CORPUS}/{system}")).unwrap();
        let jobs = folder.map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (
                name,
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
            )
        });
        (system, jobs.collect())
    };
    SYSTEMS.into_iter().map(of_system).collect()
});

pub(crate) fn explain(rules: &Rules, job: &Job) -> Explanation {
    let json = serde_json::to_vec(job).unwrap();
    rules.explain(&Claims::parse(&json).unwrap())
}

/// Of an untrusted outcome: its scope.
pub(crate) fn scope(explanation: &Explanation) -> Option<&UntrustedScope> {
    match explanation.access()? {
        Access::Isolated { scope } | Access::Gate { scope } => Some(scope),
        Access::Trusted | Access::CleanRoom | Access::Reader | Access::Admin => None,
    }
}
