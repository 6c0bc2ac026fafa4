//! Real Nx: pinned installations from npm, and throw-away workspaces that build with them.
//!
//! The workspace is the one under `tests/clients/nx-workspace`; each copy is a git repository, as a real one is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::checkout::{Checkout, remove_if_there};
use crate::{pinned, process};

const NX_LIMIT: Duration = Duration::from_mins(4);

/// One installed version of Nx.
#[derive(Debug, Clone)]
pub struct PinnedNx {
    folder: PathBuf,
}

impl PinnedNx {
    /// The installation that `cargo xtask test` made from `tests/clients/nx-VERSION`.
    pub fn installed(version: &str) -> Result<Self> {
        let folder = pinned::installation(&format!("nx-{version}"), "package-lock.json")?;
        Ok(Self { folder })
    }
}

/// The cache that a run of Nx is given.
#[derive(Debug, Clone)]
pub struct RemoteCache {
    /// Its address, without `/v1/cache`.
    pub url: String,
    /// The access token. `None` leaves the variable unset, which is not the same as empty.
    pub token: Option<String>,
}

/// One run of Nx.
#[derive(Debug)]
pub struct NxRun {
    /// True if Nx ended with 0.
    pub succeeded: bool,
    /// All that it printed.
    pub output: String,
}

/// A workspace in a folder of its own, gone when the value is dropped.
#[derive(Debug)]
pub struct NxWorkspace {
    nx: PinnedNx,
    checkout: Checkout,
}

impl NxWorkspace {
    /// A fresh copy of the committed workspace, plus `extra_projects` small ones that depend on nothing.
    pub fn create(nx: &PinnedNx, extra_projects: usize) -> Result<Self> {
        let workspace = Self {
            nx: nx.clone(),
            checkout: Checkout::of_template("nx-workspace")?,
        };
        for number in 0..extra_projects {
            let folder = workspace.path().join(format!("packages/p{number}"));
            fs::create_dir_all(&folder)?;
            fs::write(
                folder.join("package.json"),
                format!(
                    r#"{{ "name": "p{number}", "version": "0.0.0", "nx": {{ "targets": {{ "build": {{ "command":
                    "mkdir -p packages/p{number}/dist && echo {number} > packages/p{number}/dist/out.txt" }} }} }} }}"#
                ),
            )?;
        }
        workspace.link_nx()?;
        workspace.checkout.commit()?;
        Ok(workspace)
    }

    /// A second checkout, as another machine has it: cloned, nothing built.
    pub fn git_clone(&self) -> Result<Self> {
        let clone = Self {
            nx: self.nx.clone(),
            checkout: self.checkout.git_clone()?,
        };
        clone.link_nx()?;
        Ok(clone)
    }

    /// The root of the workspace.
    pub fn path(&self) -> PathBuf {
        self.checkout.workspace()
    }

    /// Where the project `header` puts its outputs.
    pub fn header_dist(&self) -> PathBuf {
        self.path().join("packages/header/dist")
    }

    /// Runs `nx ARGUMENTS…` with this remote cache and these further variables.
    pub fn nx(
        &self,
        arguments: &[&str],
        cache: &RemoteCache,
        environment: &[(&str, &str)],
    ) -> Result<NxRun> {
        let finished = process::run(
            &mut self.nx_command(arguments, cache, environment),
            NX_LIMIT,
        )?;
        Ok(NxRun {
            succeeded: finished.status.success(),
            output: format!("{}{}", finished.stdout, finished.stderr),
        })
    }

    /// Removes every output and the local cache, as on a fresh machine.
    pub fn wipe(&self) -> Result<()> {
        remove_if_there(&self.path().join(".nx"))?;
        for project in fs::read_dir(self.path().join("packages"))? {
            remove_if_there(&project?.path().join("dist"))?;
        }
        Ok(())
    }

    fn link_nx(&self) -> Result<()> {
        Ok(symlink(
            self.nx.folder.join("node_modules"),
            self.path().join("node_modules"),
        )?)
    }

    fn nx_command(
        &self,
        arguments: &[&str],
        cache: &RemoteCache,
        environment: &[(&str, &str)],
    ) -> Command {
        let local = self.path().join(".nx");
        let mut command = self
            .checkout
            .command(self.path().join("node_modules/.bin/nx"));
        command
            .args(arguments)
            .env("CI", "true")
            .env("NO_COLOR", "1")
            .env("NX_DAEMON", "false")
            .env("NX_NO_CLOUD", "true")
            .env("NX_TUI", "false")
            // Otherwise Nx 24 keeps its local cache in the home directory, and each version copies 27 MB of itself to /tmp.
            .env("NX_CACHE_DIRECTORY", local.join("cache"))
            .env("NX_WORKSPACE_DATA_DIRECTORY", local.join("workspace-data"))
            .env("NX_SKIP_NATIVE_FILE_CACHE", "true")
            .env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", &cache.url);
        if let Some(token) = &cache.token {
            command.env("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", token);
        }
        command.envs(environment.iter().copied());
        command
    }
}
