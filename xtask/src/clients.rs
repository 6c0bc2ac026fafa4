//! Installs the pinned clients of `tests/clients` below `target/clients`.
//!
//! An installation is made in a folder beside its place and renamed when it is whole, with a copy of its lockfile in it; so one
//! that is there and has today's lockfile is complete and is used as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use larder_testkit::target_dir;

use crate::shell;

const NX_VERSIONS: [&str; 3] = ["24.0.6", "22.7.12", "20.8.4"];

/// The parts of the tests that could not be installed on this machine.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(pub(crate) Vec<&'static str>);

impl LeftOut {
    /// True if `part` is missing.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.0.contains(&part)
    }
}

/// Installs every client that is not there yet, all at the same time.
pub(crate) fn install_all() -> Result<LeftOut> {
    let (nx, schemathesis) = std::thread::scope(|scope| {
        let nx = NX_VERSIONS.map(|version| scope.spawn(move || install_nx(version)));
        let schemathesis = scope.spawn(install_schemathesis);
        (
            nx.into_iter().map(join).collect::<Result<Vec<()>>>(),
            join(schemathesis),
        )
    });
    let mut left_out = LeftOut::default();
    if let Err(error) = nx {
        shell::leave_out(
            "the tests with real nx",
            "install node 20 or later, with npm",
            &format!("{error:#}"),
        )?;
        left_out.0.push("nx");
    }
    if let Err(error) = schemathesis {
        shell::leave_out(
            "schemathesis",
            "install python 3.11 or later, with venv",
            &format!("{error:#}"),
        )?;
        left_out.0.push("schemathesis");
    }
    Ok(left_out)
}

/// The pinned schemathesis.
///
/// Through the interpreter: the scripts of a virtual environment name the folder it was made in, and this one was moved.
pub(crate) fn schemathesis() -> Command {
    let mut python = Command::new(target_dir().join("clients/schemathesis/venv/bin/python"));
    python.args(["-m", "schemathesis.cli"]);
    python
}

fn install_nx(version: &str) -> Result<()> {
    let name = format!("nx-{version}");
    install(&name, "package-lock.json", |folder| {
        for file in ["package.json", ".npmrc"] {
            fs::copy(
                Path::new("tests/clients").join(&name).join(file),
                folder.join(file),
            )?;
        }
        // Nx's own install script only looks for a daemon to stop.
        let mut npm = Command::new("npm");
        npm.args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]);
        shell::read(npm.current_dir(folder)).map(|_| ())
    })
}

fn install_schemathesis() -> Result<()> {
    install("schemathesis", "requirements.txt", |folder| {
        let venv = folder.join("venv");
        shell::read(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        shell::read(
            pip.arg("--requirement")
                .arg(folder.join("requirements.txt")),
        )
        .map(|_| ())
    })
}

/// Makes `target/clients/NAME` from `tests/clients/NAME/LOCKFILE` unless it is there already.
fn install(name: &str, lockfile: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let clients = target_dir().join("clients");
    let place = clients.join(name);
    let pinned = fs::read(Path::new("tests/clients").join(name).join(lockfile))?;
    if fs::read(place.join(lockfile)).is_ok_and(|installed| installed == pinned) {
        return Ok(());
    }
    shell::timed(&format!("installing {name}"), || {
        fs::create_dir_all(&clients)?;
        let fresh = tempfile::Builder::new().prefix(name).tempdir_in(&clients)?;
        fs::write(fresh.path().join(lockfile), &pinned)?;
        fill(fresh.path())?;
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(fresh.keep(), &place).context("moving the installation to its place")
    })
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
