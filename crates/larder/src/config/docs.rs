//! The page `docs/config.md`, made from the list of keys so that it cannot say anything else.

use std::fmt::Write as _;

use super::keys::{Key, WORKSPACE_SECTION, title};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `larder config docs`; a test compares this page with the program. -->

Everything is optional: `larder serve` works without a file. What is set comes, in rising order of
precedence, from

1. the TOML file of `--config FILE`, or of the environment variable `LARDER_CONFIG`;
2. the environment: the key `name` of the section `[section]` is `LARDER_SECTION_NAME`, for example
   `LARDER_STORE_TRUSTED=50GiB`. Keys of workspaces are set in the file only;
3. flags of `larder serve`.

An unknown key is an error, and so is an unknown variable that begins with `LARDER_`, apart from
those of Kubernetes' service links, `LARDER_SERVER`, `LARDER_AUDIENCE` and those that end in `_TOKEN`. `larder config check` reports
every problem at once, with its key and line, and what the file means on this disk.

Sizes have a unit: `50GiB`, `1.5TB`, `512MiB`. Durations as well: `30s`, `1h`, `90d`. A percentage is
of the whole disk that holds the data directory.

\"Reloads\" says whether `SIGHUP` applies a new value to a running server; the rest takes a restart,
and the log says so when such a key was changed. Tokens and workspaces are not configuration:
`larder token` and `larder workspace` change them, and a running server follows within a second.
";

const SHARING: &str = "
Workspaces share two pools, one for trusted and one for untrusted entries, unless a workspace has
pools of its own. In a shared pool the oldest entries that nobody uses make room first, whoever
wrote them: a busy workspace can evict another one's entries, though it can never read or replace
them. Pools of its own end that for a workspace, at the price of a fixed part of the disk.
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in Key::sections() {
        writeln!(page, "\n## `{}`", title(section)).expect("a string takes every write");
        if section == WORKSPACE_SECTION {
            page.push_str(SHARING);
        }
        page.push_str("\n| key | value | default | reloads | |\n|---|---|---|---|---|\n");
        for spec in Key::ALL
            .iter()
            .map(|key| key.spec())
            .filter(|spec| spec.section == section)
        {
            let reloads = if spec.reloads { "yes" } else { "no" };
            writeln!(
                page,
                "| `{}` | {} | {} | {reloads} | {} |",
                spec.name, spec.value, spec.default, spec.text
            )
            .expect("a string takes every write");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_the_one_the_program_makes() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.md");
        let kept = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            kept == page(),
            "docs/config.md is out of date; run: cargo run -- config docs > docs/config.md"
        );
    }
}
