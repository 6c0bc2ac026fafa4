use std::path::Path;

use larder_auth::San;
use larder_auth::ci::{Preset, PullRequests};
use larder_model::Access;

use super::super::problem::Problems;
use super::super::raw::RawConfig;
use super::super::resolve::resolve;
use super::super::settings::{IdentitySettings, IssuerKeysAt};

const FILE: &str = "/etc/larder/larder.toml";

fn read(text: &str) -> Result<IdentitySettings, Vec<String>> {
    let (mut raw, mut problems) = (RawConfig::default(), Problems::default());
    raw.read_file(Path::new(FILE), text, &mut problems);
    let settings = resolve(&raw, problems).map(|settings| settings.identity);
    settings.map_err(|problems| {
        let lines = problems.as_slice().iter().map(ToString::to_string);
        lines
            .map(|line| line.replace(&format!("{FILE}:"), ""))
            .collect()
    })
}

/// The problems of a rule for `provider` with these keys.
#[track_caller]
fn check(provider: &str, keys: &str, expected: &[&str]) {
    let text = format!(
        "[identity]\naudience = \"https://c.example\"\n[workspace.acme.ci.web]\nprovider = \"{provider}\"\n{keys}"
    );
    let problems = read(&text).err().unwrap_or_default();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}\n{expected}");
    }
}

const GITHUB: &str = "repository_id = 1\nrepository_owner_id = \"9\"\n";

#[test]
fn a_rule_is_what_its_keys_say_and_its_issuer_comes_with_it() {
    let text = format!(
        "[identity]\naudience = \"https://c.example\"\nsession_ttl_trusted = \"1h\"\n\
         [workspace.acme.ci.web]\nprovider = \"github\"\n{GITHUB}\
         trusted_refs = [\"refs/heads/main\", \"refs/heads/release/*\"]\ncreation_restricted = true\npull_requests = \"read-only\"\n"
    );
    let identity = read(&text).unwrap();
    let [rule] = &identity.rules[..] else {
        panic!("one rule: {:?}", identity.rules);
    };
    let Preset::GitHub(github) = &rule.preset else {
        panic!("{rule:?}");
    };
    assert_eq!(
        (
            github.repository_id.as_str(),
            github.repository_owner_id.as_str()
        ),
        ("1", "9")
    );
    assert!(
        github.require_ref_protected,
        "unless somebody says otherwise"
    );
    assert_eq!(github.pull_requests, PullRequests::ReadOnly);
    assert_eq!(github.trusted_refs.len(), 2);
    let [issuer] = &identity.issuers[..] else {
        panic!("one issuer: {:?}", identity.issuers);
    };
    assert_eq!(issuer.url, "https://token.actions.githubusercontent.com");
    assert_eq!(issuer.audience, "https://c.example");
    assert_eq!(issuer.keys, IssuerKeysAt::Discovery);
    assert_eq!(identity.session_ttl_trusted.as_secs(), 3600);
    assert_eq!(
        read("").unwrap().issuers,
        [],
        "nobody is believed without a rule"
    );
}

#[test]
fn a_key_that_says_nothing_about_the_provider_is_a_mistake() {
    check(
        "buildkite",
        "organization_id = \"o\"\npipeline_id = \"p\"\nrequire_ref_protected = true\n",
        &[
            "workspace.acme.ci.web.require_ref_protected: says nothing about provider \"buildkite\"; it is for github, gitlab",
        ],
    );
    check(
        "github",
        &format!("{GITHUB}audienc = \"x\"\n"),
        &["did you mean \"audience\"?"],
    );
    check(
        "circle",
        "",
        &["workspace.acme.ci.web.provider: \"circle\" is none of github"],
    );
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    check(
        "azure-devops",
        "",
        &[
            "ci.web.organization_id: is missing for provider \"azure-devops\"",
            "ci.web.project_id: is missing",
            "ci.web.repository_id: is missing",
            "ci.web.definition_id: is missing",
        ],
    );
    check(
        "custom",
        "",
        &["ci.web.issuer: is missing", "ci.web.claims: is missing"],
    );
    let nobody = read(&format!(
        "[workspace.acme.ci.web]\nprovider = \"github\"\n{GITHUB}"
    ))
    .unwrap_err();
    assert!(
        nobody[0].contains("identity.audience: needed for [workspace.acme.ci.web]"),
        "{nobody:?}"
    );
}

#[test]
fn what_would_trust_too_much_is_refused() {
    let with = |more: &str| format!("{GITHUB}{more}\n");
    check(
        "github",
        &with("trusted_refs = [\"main\"]"),
        &["a trusted ref begins with \"refs/heads/\""],
    );
    check(
        "github",
        &with("trusted_events = [\"pull_request_target\"]"),
        &["no other event can be trusted"],
    );
    check(
        "github",
        &with("trusted_refs = [\"refs/heads/*\"]\nrequire_ref_protected = false"),
        &["workspace.acme.ci.web: \"refs/heads/*\" is a pattern"],
    );
    check(
        "github",
        &with("trusted_refs = [\"refs/heads/release/*\"]"),
        &["say so here: creation_restricted = true"],
    );
    check(
        "github",
        &with("trusted_workflows = [\"acme/web/.github/workflows/ci.yml@main\"]"),
        &["OWNER/REPO/.github/workflows/FILE@refs/heads/BRANCH"],
    );
    check(
        "github",
        &with("require_ref_protected = \"false\""),
        &["write true or false, without quotes"],
    );
    check(
        "github",
        &with("issuer = \"http://ci.example\""),
        &["is not an https address"],
    );
    check(
        "github",
        &with("issuer = \"nobody\""),
        &["there is no [issuer.nobody]"],
    );
    check(
        "github",
        &with(
            "[workspace.other.ci.web]\nprovider = \"github\"\nrepository_id = 1\nrepository_owner_id = 9",
        ),
        &["one token could fit this rule and [workspace.acme.ci.web]"],
    );
    check(
        "github",
        &with(
            "issuer = \"https://ci.example\"\n[workspace.acme.ci.app]\nprovider = \"gitlab\"\nproject_id = 7\nissuer = \"https://ci.example\"",
        ),
        &["has the same issuer and another provider"],
    );
    let two = with(
        "[workspace.acme.ci.two]\nprovider = \"github\"\nrepository_id = 2\nrepository_owner_id = 9\naudience = \"x\"",
    );
    check("github", &two, &["all rules of an issuer need the same"]);
}

#[test]
fn patterns_count_at_gitlab_as_well_only_with_the_word_of_the_operator() {
    let keys = "project_id = 7\ntrusted_refs = [\"refs/heads/release/*\"]\n";
    check("gitlab", keys, &["say so here: creation_restricted = true"]);
    check(
        "gitlab",
        &format!("{keys}creation_restricted = true\n"),
        &[],
    );
}

#[test]
fn an_issuer_that_has_a_provider_is_not_read_by_exact_claims_alone() {
    let claims =
        "claims = { repository_id = \"1\" }\ntrusted_claims = { ref = \"refs/heads/main\" }\n";
    for (issuer, provider) in [
        ("https://token.actions.githubusercontent.com", "github"),
        ("https://token.actions.githubusercontent.com/acme", "github"),
        ("https://token.actions.acme.ghe.com", "github"),
        ("https://github.example/_services/token", "github"),
        ("https://gitlab.com", "gitlab"),
        ("https://agent.buildkite.com", "buildkite"),
        ("https://oidc.circleci.com/org/1", "circleci"),
        ("https://vstoken.dev.azure.com/1", "azure-devops"),
    ] {
        let keys = format!("issuer = \"{issuer}\"\n{claims}");
        let expected = format!("write provider = \"{provider}\"");
        check("custom", &keys, &[&expected]);
    }
    let keys = format!("issuer = \"https://ci.example\"\n{claims}");
    check("custom", &keys, &[]);
}

#[test]
fn an_audience_is_this_servers_alone_and_as_clients_write_it() {
    let check = |audience: &str, expected: Option<&str>| {
        let problems = read(&format!("[identity]\naudience = \"{audience}\"\n"));
        let problems = problems.err().unwrap_or_default();
        match expected {
            None => assert!(problems.is_empty(), "{audience}: {problems:?}"),
            Some(expected) => assert!(problems[0].contains(expected), "{audience}: {problems:?}"),
        }
    };
    for shared in [
        "sts.amazonaws.com",
        "api://AzureADTokenExchange",
        "https://github.com/acme",
    ] {
        check(shared, Some("are made for others too"));
    }
    for written in [
        "https://c.example/",
        "https://C.example",
        "HTTPS://c.example",
    ] {
        check(written, Some("in lower case and without a slash"));
    }
    check("https://c.example/Base", None);
    check("larder", None);
}

#[test]
fn an_issuers_table_says_where_its_keys_are() {
    let text = format!(
        "[identity]\naudience = \"a\"\n[issuer.own]\nurl = \"https://ci.example\"\njwks_file = \"keys.json\"\n\
         ca_file = \"/etc/ca.pem\"\nalgorithms = [\"ES256\"]\nmax_token_lifetime = \"1h\"\n\
         [workspace.acme.ci.web]\nprovider = \"github\"\nissuer = \"own\"\n{GITHUB}"
    );
    let issuer = read(&text).unwrap().issuers.remove(0);
    assert_eq!(
        issuer.keys,
        IssuerKeysAt::File("/etc/larder/keys.json".into())
    );
    assert_eq!(issuer.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(issuer.token_lifetime_max.as_secs(), 3600);
    let problems = read(
        "[issuer.own]\nurl = \"http://ci.example\"\njwks_file = \"k\"\njwks_url = \"https://x.example\"\nalgorithms = [\"HS256\"]\n",
    );
    let problems = problems.unwrap_err().join("\n");
    for problem in [
        "issuer.own.url: \"http://ci.example\" is not an https address",
        "jwks_file and jwks_url exclude each other",
        "issuer.own.algorithms: \"HS256\" is none of RS256",
    ] {
        assert!(problems.contains(problem), "{problems}");
    }
}

#[test]
fn a_certificate_is_mapped_by_one_name() {
    let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n";
    let rule = |keys: &str| read(&format!("{tls}[workspace.acme.certificate.ci]\n{keys}"));
    let unasked = read("[workspace.acme.certificate.ci]\nsan = \"DNS:x\"\naccess = \"reader\"\n");
    assert!(
        unasked.unwrap_err()[0]
            .contains("tls.client_ca: needed for [workspace.acme.certificate.ci]")
    );
    let identity =
        rule("san = \"DNS:CI.example.com\"\naccess = \"isolated\"\nscope = \"ci-host\"\n").unwrap();
    let [certificate] = &identity.certificates[..] else {
        panic!("{:?}", identity.certificates);
    };
    assert_eq!(certificate.san, San::Dns("ci.example.com".to_owned()));
    assert!(
        matches!(&certificate.access, Access::Isolated { scope } if scope.as_str() == "ci-host")
    );
    for (keys, expected) in [
        (
            "san = \"ci.example.com\"\naccess = \"reader\"\n",
            "write a name as \"DNS:",
        ),
        (
            "san = \"IP:here\"\naccess = \"reader\"\n",
            "write a name as \"DNS:",
        ),
        (
            "san = \"DNS:x\"\naccess = \"isolated\"\n",
            "scope: is missing for this access",
        ),
        (
            "san = \"DNS:x\"\naccess = \"trusted\"\nscope = \"x\"\n",
            "has no scope of its own",
        ),
        (
            "san = \"DNS:x\"\naccess = \"owner\"\n",
            "is none of trusted",
        ),
        (
            "san = \"DNS:x\"\naccess = \"isolated\"\nscope = \"ci.web/pr-7\"\n",
            "given by the server itself",
        ),
        (
            "san = \"DNS:x\"\naccess = \"gate\"\nscope = \"token/7\"\n",
            "given by the server itself",
        ),
        (
            "san = \"DNS:x\"\naccess = \"reader\"\n[workspace.other.certificate.too]\nsan = \"DNS:X\"\naccess = \"reader\"\n",
            "[workspace.acme.certificate.ci] is for the same name",
        ),
        ("", "san: is missing"),
    ] {
        let problems = rule(keys).unwrap_err();
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}
