//! A running server against its own OpenAPI document: schemathesis makes requests from the document and checks every answer
//! against it. The number of examples is bounded and their seed fixed, so a run is repeatable.

use std::path::Path;

use anyhow::{Context as _, Result};
use larder_testkit::{Access, Server, repository_root};

use crate::{clients, shell};

const EXAMPLES_MAX: &str = "50";
const SEED: &str = "1";

/// Starts a server for each kind of token and examines it with that.
pub(crate) fn run(larder: &Path) -> Result<()> {
    for access in [Access::Trusted, Access::Isolated, Access::Admin] {
        let what = format!("requests with a token of the kind {}", access.word());
        shell::timed(&what, || examine(larder, access))?;
    }
    Ok(())
}

fn examine(larder: &Path, access: Access) -> Result<()> {
    let server = Server::start(larder)?;
    let token = server.token(access, None)?;
    let reports = tempfile::tempdir()?;
    let mut schemathesis = clients::schemathesis();
    schemathesis
        .arg("--config-file")
        .arg(repository_root().join("tests/clients/schemathesis/schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", server.url()))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-examples", EXAMPLES_MAX, "--seed", SEED, "--no-color"])
        .args(["--warnings", "off"])
        .current_dir(reports.path());
    let printed = shell::read(&mut schemathesis)
        .with_context(|| format!("larder printed: {}", server.output()))?;
    let mut tested = printed.lines().filter(|line| line.contains(" generated"));
    shell::say(tested.next_back().unwrap_or_default().trim());
    Ok(())
}
