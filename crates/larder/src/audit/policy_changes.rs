//! What of a configuration decides who may do what, and how two configurations differ in it: for the audit.

use std::collections::BTreeMap;

use larder_ledger::Ledger;
use larder_protocols::Journal;
use larder_protocols::journal::{Act, ActName, Actor};
use serde_json::{Map, Value};

use crate::clock;
use crate::config::Settings;
use crate::logging::chain;

/// Writes down what is in force from the start on.
pub(super) async fn note_start(journal: &Journal, ledger: &Ledger, settings: &Settings) {
    let names = |kind: &str| {
        let of = parts(settings);
        let names = of.keys().filter(|(of, _)| *of == kind);
        names.map(|(_, name)| name.clone()).collect::<Value>()
    };
    let details = KINDS.map(|kind| (kind.to_owned(), names(kind)));
    let act = Act {
        outcome: "loaded",
        details: details.into_iter().collect(),
        ..Act::new(ActName::PolicyChanged, Actor::Operator, clock::now_ms())
    };
    write(journal, ledger, act).await;
}

/// Writes down what changes, before it does.
pub(super) async fn note_change(
    journal: &Journal,
    ledger: &Ledger,
    old: &Settings,
    new: &Settings,
) {
    let details = changes(old, new);
    if details.is_empty() {
        return;
    }
    let act = Act {
        details,
        ..Act::new(ActName::PolicyChanged, Actor::Operator, clock::now_ms())
    };
    write(journal, ledger, act).await;
}

/// The operator's word counts also while the ledger cannot be written.
async fn write(journal: &Journal, ledger: &Ledger, act: Act) {
    if let Err(error) = journal.write_now(ledger, act.clone()).await {
        tracing::error!(error = %chain(&error), "a change of the policy is not in the audit yet");
        journal.record(act);
    }
}

/// The kinds of parts that decide.
const KINDS: [&str; 4] = [
    "public_workspaces",
    "ci_rules",
    "certificate_rules",
    "issuers",
];

/// Every part by kind and name, with all that it says.
fn parts(settings: &Settings) -> BTreeMap<(&'static str, String), String> {
    let identity = &settings.identity;
    let public = settings.workspaces.iter().filter(|(_, it)| it.public);
    let public = public.map(|(name, _)| ((KINDS[0], name.to_string()), String::new()));
    let rules = identity.rules.iter().map(|rule| {
        let name = format!("{}/{}", rule.workspace, rule.name);
        ((KINDS[1], name), format!("{rule:?}"))
    });
    let certificates = identity.certificates.iter().map(|rule| {
        let name = format!("{}/{}", rule.workspace, rule.name);
        ((KINDS[2], name), format!("{rule:?}"))
    });
    let issuers = identity.issuers.iter().map(|issuer| {
        let said = format!("{issuer:?}");
        ((KINDS[3], issuer.url.clone()), said)
    });
    public
        .chain(rules)
        .chain(certificates)
        .chain(issuers)
        .collect()
}

/// `{"ci_rules": {"added": ["acme/main"]}}`: names alone, as they are in the configuration.
fn changes(old: &Settings, new: &Settings) -> Map<String, Value> {
    let (old, new) = (parts(old), parts(new));
    let mut found: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut note = |kind, how, name| {
        let of_kind = found.entry(kind).or_default();
        of_kind.entry(how).or_default().push(name);
    };
    for ((kind, name), said) in &old {
        match new.get(&(*kind, name.clone())) {
            None => note(*kind, "removed", name.as_str()),
            Some(now) if now != said => note(*kind, "changed", name.as_str()),
            Some(_) => {}
        }
    }
    for (kind, name) in new.keys() {
        if !old.contains_key(&(*kind, name.clone())) {
            note(*kind, "added", name.as_str());
        }
    }
    let found = found.into_iter();
    found
        .map(|(kind, of)| (kind.to_owned(), serde_json::json!(of)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(workspaces: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("larder.toml");
        std::fs::write(&file, workspaces).unwrap();
        crate::config::load(Some(Path::new(&file)), std::iter::empty(), &[]).unwrap()
    }

    #[test]
    fn what_changes_in_who_may_do_what_is_named_and_nothing_else() {
        let old = settings("[workspace.a]\npublic = true\n[workspace.b]\npublic = true\n");
        let new = settings(
            "[log]\nlevel = \"debug\"\n[workspace.b]\npublic = true\n[workspace.c]\npublic = true\n",
        );
        let found = Value::Object(changes(&old, &new));
        let expected = serde_json::json!({
            "public_workspaces": { "added": ["c"], "removed": ["a"] },
        });
        assert_eq!(found, expected);
        assert!(changes(&new, &new).is_empty());
    }
}
