//! Real Nx: pinned installations from npm, and throw-away workspaces that build with them.
//!
//! The workspace is the one under `tests/clients/nx-workspace`; each copy is a git repository, as a real one is. The environment
//! of a run holds only what is set here, so that neither the machine's Nx settings nor a CI provider's variables take part.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process;
use crate::{repository_root, target_dir};

const GIT_LIMIT: Duration = Duration::from_secs(30);
const NX_LIMIT: Duration = Duration::from_mins(4);

/// One installed version of Nx.
#[derive(Debug, Clone)]
pub struct PinnedNx {
    folder: PathBuf,
}

impl PinnedNx {
    /// The installation that `cargo xtask test` made from `tests/clients/nx-VERSION`.
    pub fn installed(version: &str) -> Result<Self> {
        let name = format!("nx-{version}");
        let folder = target_dir().join("clients").join(&name);
        let pinned = fs::read(
            repository_root()
                .join("tests/clients")
                .join(&name)
                .join("package-lock.json"),
        )?;
        if fs::read(folder.join("package-lock.json")).ok() != Some(pinned) {
            bail!("nx {version} is not installed as pinned; run `cargo xtask clients`");
        }
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
    home: TempDir,
}

impl NxWorkspace {
    /// A fresh copy of the committed workspace, plus `extra_projects` small ones that depend on nothing.
    pub fn create(nx: &PinnedNx, extra_projects: usize) -> Result<Self> {
        let workspace = Self::empty(nx)?;
        copy_folder(
            &repository_root().join("tests/clients/nx-workspace"),
            &workspace.path(),
        )?;
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
        workspace.git(&["init", "--quiet", "."])?;
        workspace.git(&["add", "--all"])?;
        workspace.git(&["commit", "--quiet", "--message", "first"])?;
        Ok(workspace)
    }

    /// A second checkout, as another machine has it: cloned, nothing built.
    pub fn git_clone(&self) -> Result<Self> {
        let clone = Self::empty(&self.nx)?;
        let source = self.path();
        clone.git(&["clone", "--quiet", path_text(&source)?, "."])?;
        clone.link_nx()?;
        Ok(clone)
    }

    /// The root of the workspace.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("workspace")
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

    fn empty(nx: &PinnedNx) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-nx-").tempdir()?;
        for folder in ["workspace", "home", "tmp"] {
            fs::create_dir(home.path().join(folder))?;
        }
        Ok(Self {
            nx: nx.clone(),
            home,
        })
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
        let mut command = Command::new(self.path().join("node_modules/.bin/nx"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")),
            )
            .env("HOME", self.home.path().join("home"))
            .env("TMPDIR", self.home.path().join("tmp"))
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

    fn git(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("git");
        command
            .args([
                "-c",
                "user.name=Larder",
                "-c",
                "user.email=tests@larder.test",
            ])
            .args(arguments)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        process::run(&mut command, GIT_LIMIT)?
            .success()
            .context("git")?;
        Ok(())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
