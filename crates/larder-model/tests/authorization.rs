//! The authorization matrix, kept as a file that a reviewer reads: `authorization.txt`.
//!
//! A change of the policy shows as a change of that file. To write it anew:
//! `LARDER_WRITE_GOLDEN=1 cargo test -p larder-model --test authorization`

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::{env, fs};

use larder_model::{
    Access, Caller, Policy, Principal, ReadGrant, Refusal, Scope, ScopeLabel, WriterId,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/authorization.txt");

const HEADER: &str = "\
# What every kind of caller gets for every action, with and without a scope label in the request.
# Callers belong to workspace \"acme\"; isolated ones are named with their own scope.
# Compared with the policy by tests/authorization.rs, which says how to write it anew.
";

fn callers() -> Vec<(&'static str, Caller)> {
    let known =
        |access| Caller::Known(Principal::new("acme".parse().unwrap(), access, WriterId(7)));
    let isolated = |scope: &str| {
        known(Access::Isolated {
            scope: scope.parse().unwrap(),
        })
    };
    let anonymous = |public| Caller::Anonymous {
        workspace: "acme".parse().unwrap(),
        public,
    };
    vec![
        ("anonymous, private workspace", anonymous(false)),
        ("anonymous, public workspace", anonymous(true)),
        ("trusted", known(Access::Trusted)),
        ("clean room", known(Access::CleanRoom)),
        ("isolated, token/7", isolated("token/7")),
        ("isolated, pr", isolated("pr")),
        ("isolated, a/b/c", isolated("a/b/c")),
        (
            "gate, ci.web/mq-9",
            known(Access::Gate {
                scope: "ci.web/mq-9".parse().unwrap(),
            }),
        ),
        ("reader", known(Access::Reader)),
        ("admin", known(Access::Admin)),
        ("local operator", Caller::LocalOperator),
    ]
}

fn words(scopes: impl Iterator<Item = Scope>) -> String {
    let scopes: Vec<String> = scopes.map(|scope| scope.to_string()).collect();
    if scopes.is_empty() {
        return "nothing".to_owned();
    }
    scopes.join(", then ")
}

fn read(caller: &Caller, label: Option<&ScopeLabel>) -> Result<String, Refusal> {
    let grant: ReadGrant = Policy::read(caller, label)?;
    assert_eq!(grant.kind(), caller.kind());
    Ok(format!(
        "{}: {}",
        grant.workspace(),
        words(grant.path().scopes())
    ))
}

fn write(caller: &Caller, label: Option<&ScopeLabel>) -> Result<String, Refusal> {
    let grant = Policy::write(caller, label)?;
    assert_eq!((grant.kind(), grant.writer()), (caller.kind(), WriterId(7)));
    assert_eq!(grant.workspace(), grant.visible().workspace());
    let visible = words(grant.visible().path().scopes());
    Ok(format!(
        "{}: {}; conflicts in {visible}",
        grant.workspace(),
        grant.scope()
    ))
}

fn admin(caller: &Caller) -> Result<String, Refusal> {
    let grant = Policy::admin(caller)?;
    Ok(grant
        .workspace()
        .map_or_else(|| "every workspace".to_owned(), ToString::to_string))
}

fn matrix() -> String {
    let label: ScopeLabel = "linux".parse().unwrap();
    let shown = |decision: Result<String, Refusal>| match decision {
        Ok(granted) => granted,
        Err(refusal) => format!("REFUSED {refusal:?}"),
    };
    let mut text = HEADER.to_owned();
    for (name, caller) in callers() {
        let decisions = [
            ("read", read(&caller, None)),
            ("read  /linux", read(&caller, Some(&label))),
            ("write", write(&caller, None)),
            ("write /linux", write(&caller, Some(&label))),
            ("admin", admin(&caller)),
        ];
        writeln!(text, "\n{name}").unwrap();
        for (action, decision) in decisions {
            writeln!(text, "  {action:13} {}", shown(decision)).unwrap();
        }
    }
    text
}

#[test]
fn the_policy_decides_as_the_golden_matrix_says() {
    let matrix = matrix();
    if env::var_os("LARDER_WRITE_GOLDEN").is_some() {
        fs::write(GOLDEN, &matrix).unwrap();
    }
    let golden = fs::read_to_string(GOLDEN).unwrap();
    assert_eq!(
        matrix, golden,
        "if the change is meant, see the head of this file"
    );
}
