//! A real S3 server: versitygw over a folder, with signed requests, conditional writes, ranges, multipart and bulk deletes.
//!
//! `cargo xtask test` builds it from `tests/clients/versitygw`. Its data outlives the process, so that a server can be killed and
//! started again at the same address.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::upkeep::Upkeep;
use crate::{Identity, pinned};

const ACCESS_KEY: &str = "larder-test";
const SECRET_KEY: &str = "larder-test-secret";

/// An S3 server with empty buckets, on a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct S3Server {
    upkeep: Upkeep,
    scheme: &'static str,
    _home: TempDir,
}

impl S3Server {
    /// Starts one with buckets of these names and waits until it listens.
    pub fn start(buckets: &[&str]) -> Result<Self> {
        Self::begin(buckets, None)
    }

    /// The same, over TLS with this certificate.
    pub fn start_tls(buckets: &[&str], identity: &Identity) -> Result<Self> {
        Self::begin(buckets, Some(identity.clone()))
    }

    fn begin(buckets: &[&str], identity: Option<Identity>) -> Result<Self> {
        let program = pinned::installation("versitygw", "go.sum")?.join("versitygw");
        let home = tempfile::Builder::new().prefix("larder-s3-").tempdir()?;
        for bucket in buckets {
            fs::create_dir_all(files(home.path()).join(bucket))?;
        }
        fs::create_dir_all(files(home.path()))?;
        fs::create_dir_all(home.path().join("metadata"))?;
        let folder = home.path().to_path_buf();
        let scheme = if identity.is_some() { "https" } else { "http" };
        let upkeep = Upkeep::start("versitygw", home.path(), move |address| {
            command(&program, &folder, address, identity.as_ref())
        })?;
        Ok(Self {
            upkeep,
            scheme,
            _home: home,
        })
    }

    /// `http://ADDRESS:PORT` or `https://ADDRESS:PORT`, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.upkeep.address())
    }

    /// The variables that give a client access.
    pub fn environment(&self) -> Vec<(String, String)> {
        Self::environment_with(SECRET_KEY)
    }

    /// The variables of somebody who has another secret.
    pub fn wrong_environment(&self) -> Vec<(String, String)> {
        Self::environment_with("not-the-secret")
    }

    fn environment_with(secret: &str) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), secret.to_owned()),
        ]
    }

    /// Kills, freezes and starts it.
    pub fn upkeep(&mut self) -> &mut Upkeep {
        &mut self.upkeep
    }
}

fn files(home: &Path) -> PathBuf {
    home.join("files")
}

fn command(
    program: &Path,
    home: &Path,
    address: SocketAddr,
    identity: Option<&Identity>,
) -> Command {
    let mut command = Command::new(program);
    command
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .arg("--port")
        .arg(address.to_string())
        .args(["--quiet", "--keep-alive"]);
    if let Some(identity) = identity {
        command
            .arg("--cert")
            .arg(&identity.certificate)
            .arg("--key")
            .arg(&identity.key);
    }
    command
        .arg("posix")
        // Not every file system of a test has extended attributes.
        .arg("--sidecar")
        .arg(home.join("metadata"))
        .arg(files(home));
    command
}
