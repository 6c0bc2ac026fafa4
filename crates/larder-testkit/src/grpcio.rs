//! A real gRPC client that a test can steer in every detail: Python's grpcio, with the scripts under `tests/clients/grpcio`.
//!
//! The stubs are generated here from the `.proto` files of `larder-proto`, into `target/clients/grpcio-stubs`, once for each state
//! of those files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::{self, Finished};
use crate::{pinned, repository_root, target_dir};

const SCRIPT_LIMIT: Duration = Duration::from_mins(2);

/// The `.proto` files that clients need, below `crates/larder-proto/proto`.
const PROTOS: [&str; 4] = [
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/semver/semver.proto",
    "google/bytestream/bytestream.proto",
    "google/rpc/status.proto",
];

/// As a module of its own: below `grpc`, Python would look for it in grpcio.
const HEALTH: (&str, &str) = ("grpc/health/v1", "health.proto");

/// Tests of one process start at the same time and must not generate into one folder.
static GENERATING: Mutex<()> = Mutex::new(());

/// The installed grpcio with stubs of today's protocol.
#[derive(Debug, Clone)]
pub struct PinnedGrpcio {
    python: PathBuf,
    stubs: PathBuf,
}

impl PinnedGrpcio {
    /// The installation that `cargo xtask test` made from `tests/clients/grpcio`.
    pub fn installed() -> Result<Self> {
        let folder = pinned::installation("grpcio", "requirements.txt")?;
        let python = folder.join("venv/bin/python");
        let stubs = {
            let _alone = GENERATING
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            generate_stubs(&python)?
        };
        Ok(Self { python, stubs })
    }

    /// Runs `tests/clients/SCRIPT` with these arguments and variables to its end.
    pub fn run(
        &self,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Finished> {
        let scripts = repository_root().join("tests/clients");
        let mut command = Command::new(&self.python);
        command
            .arg(scripts.join(script))
            .args(arguments)
            .env("PYTHONPATH", &self.stubs)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(environment.iter().copied());
        process::run(&mut command, SCRIPT_LIMIT)
    }
}

/// The folder with the stubs, made unless those of today's `.proto` files are there.
fn generate_stubs(python: &Path) -> Result<PathBuf> {
    let protos = repository_root().join("crates/larder-proto/proto");
    let (health_folder, health) = HEALTH;
    let health_folder = protos.join(health_folder);
    let mut sources = PROTOS.map(|file| protos.join(file)).to_vec();
    sources.push(health_folder.join(health));
    let mut pinned = Vec::new();
    for source in &sources {
        pinned.extend(fs::read(source).with_context(|| source.display().to_string())?);
    }

    let clients = target_dir().join("clients");
    let place = clients.join("grpcio-stubs");
    if fs::read(place.join("protos")).is_ok_and(|generated| generated == pinned) {
        return Ok(place);
    }
    let fresh = tempfile::Builder::new()
        .prefix("grpcio-stubs-")
        .tempdir_in(&clients)?;
    fs::write(fresh.path().join("protos"), &pinned)?;
    protoc(python, &protos, fresh.path(), &PROTOS)?;
    protoc(python, &health_folder, fresh.path(), &[health])?;
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(fresh.keep(), &place)?;
    Ok(place)
}

fn protoc(python: &Path, include: &Path, out: &Path, files: &[&str]) -> Result<()> {
    let mut command = Command::new(python);
    command
        .args(["-m", "grpc_tools.protoc"])
        .arg(format!("-I{}", include.display()))
        .arg(format!("--python_out={}", out.display()))
        .arg(format!("--grpc_python_out={}", out.display()))
        .args(files);
    process::run(&mut command, SCRIPT_LIMIT)?
        .success()
        .context("generating stubs with grpcio-tools")?;
    Ok(())
}
