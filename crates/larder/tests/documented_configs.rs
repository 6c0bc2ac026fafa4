//! Checks the configurations that README.md and docs/*.md show.
//!
//! Each ```` ```toml ```` block must be accepted by `larder config check`, on its own: with an audience where it names none, and
//! below the rule for GitHub Actions of docs/ci.md where it is keys without a table. The files that a block names exist.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use larder_testkit::tls::Authority;
use larder_testkit::{larder_binary, process, repository_root};

const CHECK_LIMIT: Duration = Duration::from_secs(30);

const AUDIENCE: &str = "[identity]\naudience = \"https://cache.example.com\"\n\n";

/// The systems of docs/ci.md, each of which must have a block.
const SYSTEMS: [&str; 6] = [
    "github",
    "gitlab",
    "buildkite",
    "circleci",
    "azure-devops",
    "custom",
];

/// A certificate authority that an example names, by its file's name.
const AUTHORITY: &str = "internal-ca.pem";

struct Block {
    place: String,
    text: String,
}

#[test]
fn every_configuration_that_is_shown_is_accepted() {
    let blocks = blocks();
    let rule = blocks
        .iter()
        .find(|block| block.place.starts_with("ci.md") && provider(&block.text) == Some("github"))
        .unwrap();
    for block in &blocks {
        let mut config = String::new();
        if !block.text.starts_with('[') {
            config.push_str(&rule.text);
        }
        config.push_str(&block.text);
        if !config.contains("[identity]") {
            config.insert_str(0, AUDIENCE);
        }
        let Block { place, .. } = block;
        let said = check(&config);
        assert!(said.is_ok(), "{place}: {}\n{config}", said.unwrap_err());
        // That this says something: a key that is no key is found in the same place.
        let wrong = check(&format!("{config}no_such_key = true\n"));
        let problem = wrong.expect_err(place);
        assert!(problem.contains("no_such_key"), "{place}: {problem}");
    }
    for system in SYSTEMS {
        let mut of_ci = blocks.iter().filter(|it| it.place.starts_with("ci.md"));
        let is_shown = of_ci.any(|block| provider(&block.text) == Some(system));
        assert!(is_shown, "docs/ci.md shows no rule for {system}");
    }
}

/// What `larder config check` says about this file, by whether it accepts it.
fn check(config: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("larder.toml"), config).unwrap();
    if config.contains(AUTHORITY) {
        let authority = Authority::create().unwrap();
        fs::copy(authority.certificate(), folder.path().join(AUTHORITY)).unwrap();
    }
    let mut larder = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    larder
        .args(["config", "check", "--config", "larder.toml"])
        .current_dir(folder.path())
        .env_clear();
    let ran = process::run(&mut larder, CHECK_LIMIT).unwrap();
    if ran.status.success() {
        Ok(ran.stdout)
    } else {
        Err(ran.stderr)
    }
}

fn provider(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|it| it.strip_prefix("provider = "))?;
    Some(line.trim_matches('"'))
}

fn blocks() -> Vec<Block> {
    let root = repository_root();
    let mut pages: Vec<PathBuf> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));
    pages.iter().flat_map(|page| of_page(page)).collect()
}

fn of_page(page: &Path) -> Vec<Block> {
    let name = page.file_name().unwrap().to_string_lossy();
    let text = fs::read_to_string(page).unwrap();
    let mut lines = text.lines().enumerate();
    let mut blocks = Vec::new();
    while let Some((index, line)) = lines.next() {
        if line.trim() != "```toml" {
            continue;
        }
        let text = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| line.trim() != "```")
            .fold(String::new(), |text, line| text + line + "\n");
        let place = format!("{name}:{}", index + 2);
        blocks.push(Block { place, text });
    }
    blocks
}
