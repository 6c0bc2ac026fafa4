//! Programs of cargo that the chores need, each at one version.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use larder_testkit::target_dir;

use crate::shell;

/// The program at that version: the installed one if it is that, else built below `target/tools`.
pub(crate) fn pinned(name: &str, version: &str) -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    let own = tools.join("bin").join(name);
    let is_pinned = |program: &PathBuf| {
        shell::read(Command::new(program).arg("--version"))
            .is_ok_and(|said| said.trim().ends_with(&format!(" {version}")))
    };
    let installed = shell::find(name)
        .into_iter()
        .chain([own.clone()])
        .find(is_pinned);
    if let Some(installed) = installed {
        return Ok(installed);
    }
    shell::timed(
        &format!("building {name} {version} (once, some minutes)"),
        || {
            let mut install = shell::cargo();
            install.args(["install", "--locked", "--quiet", name]);
            install.args(["--version", version]);
            // A target directory of its own: this one would otherwise be filled with another program's crates.
            install
                .arg("--root")
                .arg(&tools)
                .env("CARGO_TARGET_DIR", tools.join("build"));
            shell::show(&mut install)
        },
    )?;
    Ok(own)
}
