//! Azurite, Microsoft's stand-in for Azure Blob Storage.
//!
//! `cargo xtask test` installs it from `tests/clients/azurite-3.35.0`. Its data outlives the process, so that it can be killed and
//! started again at the same address.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::upkeep::Upkeep;
use crate::{pinned, process};

/// The account that it has.
pub const ACCOUNT: &str = "larder";
/// `larder-test-azurite-key`, in Base64 as Azure's keys are.
const KEY: &str = "bGFyZGVyLXRlc3QtYXp1cml0ZS1rZXk=";
/// `not-the-key-of-the-account`.
const WRONG_KEY: &str = "bm90LXRoZS1rZXktb2YtdGhlLWFjY291bnQ=";

const CREATE_LIMIT: Duration = Duration::from_secs(30);

/// Makes a container; there is no other way to make one than a signed request.
const CREATE_CONTAINER: &str = r#"
const { createHmac } = require("crypto");
const [endpoint, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-12-02";
const path = new URL(`${endpoint}/${container}`).pathname;
const text = `PUT${"\n".repeat(12)}x-ms-date:${date}\nx-ms-version:${version}\n/${account}${path}\nrestype:container`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
fetch(`${endpoint}/${container}?restype=container`, { method: "PUT", headers: {
  "x-ms-date": date, "x-ms-version": version, authorization: `SharedKey ${account}:${signature}` } })
  .then(async (answer) => { if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`); });
"#;

/// An Azurite with empty containers, on a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct Azurite {
    upkeep: Upkeep,
    home: TempDir,
}

impl Azurite {
    /// Starts one with containers of these names.
    pub fn start(containers: &[&str]) -> Result<Self> {
        let installed = pinned::installation("azurite-3.35.0", "package-lock.json")?;
        let program = installed.join("node_modules/azurite/dist/src/blob/main.js");
        let home = tempfile::Builder::new()
            .prefix("larder-azurite-")
            .tempdir()?;
        let folder = home.path().to_path_buf();
        let upkeep = Upkeep::start("azurite", home.path(), move |address| {
            command(&program, &folder, address)
        })?;
        let azurite = Self { upkeep, home };
        for container in containers {
            let mut create = Command::new("node");
            create.args([
                "-e",
                CREATE_CONTAINER,
                &azurite.endpoint(),
                ACCOUNT,
                KEY,
                container,
            ]);
            process::run(&mut create, CREATE_LIMIT)?.success()?;
        }
        Ok(azurite)
    }

    /// `http://ADDRESS:PORT/ACCOUNT`, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.upkeep.address())
    }

    /// The variables that give a client access.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), KEY.to_owned())]
    }

    /// The variables of somebody who has another key.
    pub fn wrong_environment(&self) -> Vec<(String, String)> {
        vec![("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), WRONG_KEY.to_owned())]
    }

    /// Waits until it would still know the blob after it was killed: it saves its names every few seconds.
    pub fn wait_until_saved(&self, blob: &str) -> Result<()> {
        let names = self.home.path().join("__azurite_db_blob__.json");
        process::wait_until("Azurite to save its names", CREATE_LIMIT, || {
            let saved = fs::read_to_string(&names).unwrap_or_default();
            Ok(saved.contains(blob).then_some(()))
        })
    }

    /// Kills, freezes and starts it.
    pub fn upkeep(&mut self) -> &mut Upkeep {
        &mut self.upkeep
    }
}

fn command(program: &PathBuf, home: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new("node");
    command
        .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
        .arg(program)
        .arg("--blobHost")
        .arg(address.ip().to_string())
        .arg("--blobPort")
        .arg(address.port().to_string())
        .arg("--location")
        .arg(home)
        // It is older than the protocol's version that object_store names, and does what is asked of it all the same.
        .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
    command
}
