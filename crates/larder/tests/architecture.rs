//! The table of crates in ARCHITECTURE.md against what cargo builds, and who makes what only one may make.
//!
//! The table is the fenced block ```` ```crates ````: one line for each crate of the workspace, `NAME` or `NAME -> NAME NAME`,
//! with every crate of the workspace that it needs, except for its tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_crates_depend_on_each_other_as_architecture_md_says() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let documented = documented_graph(&page);
    let built = built_graph();
    assert!(
        documented == built,
        "ARCHITECTURE.md says\n{}\nbut cargo builds\n{}",
        table(&documented),
        table(&built)
    );
}

/// Tests make them as well; what is in force is made where credentials are verified, and nowhere else.
#[test]
fn principals_are_made_by_the_authenticator_alone() {
    let mut made = BTreeSet::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") && !name.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                if code.contains("Principal::new(") {
                    let path = path.strip_prefix(root().join("crates")).unwrap();
                    made.insert(path.iter().next().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
    }
    assert_eq!(made, BTreeSet::from(["larder-auth".to_owned()]));
}

fn documented_graph(page: &str) -> Graph {
    let (_, rest) = page
        .split_once("\n```crates\n")
        .expect("ARCHITECTURE.md has a crates block");
    let (block, _) = rest.split_once("\n```").expect("the crates block ends");
    let mut graph = Graph::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let (name, needs) = line.split_once("->").unwrap_or((line, ""));
        let needs = needs.split_whitespace().map(str::to_owned).collect();
        let before = graph.insert(name.trim().to_owned(), needs);
        assert!(before.is_none(), "ARCHITECTURE.md names {name} twice");
    }
    graph
}

fn built_graph() -> Graph {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let needs = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| dependency["name"].as_str().unwrap())
            .filter(|name| names.contains(name))
            .map(str::to_owned)
            .collect()
    };
    packages
        .iter()
        .map(|package| (package["name"].as_str().unwrap().to_owned(), needs(package)))
        .collect()
}

fn table(graph: &Graph) -> String {
    graph
        .iter()
        .fold(String::new(), |mut table, (name, needs)| {
            let arrow = if needs.is_empty() { "" } else { " -> " };
            let needs = needs
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ");
            writeln!(table, "{name}{arrow}{needs}").unwrap();
            table
        })
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
