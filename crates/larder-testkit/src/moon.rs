//! Real moon: pinned installations from npm, and throw-away workspaces that build with them.
//!
//! The workspace is the one under `tests/clients/moon-workspace`. Its `.moon/workspace.yml` is an input of every task's hash, so
//! a run is pointed at a server with variables. The first run of a version unpacks and compiles a plugin into the home directory;
//! an installation has a home where that is done, and each workspace gets a copy of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::checkout::{Checkout, copy_folder, remove_if_there};
use crate::{pinned, process};

const MOON_LIMIT: Duration = Duration::from_mins(1);

/// The variable that holds the token; moon is told its name.
const TOKEN_VARIABLE: &str = "LARDER_MOON_TOKEN";

/// What every run of a task that ran prints.
const BUILT: &str = "Tasks: 1 completed";

/// One installed version of moon.
#[derive(Debug, Clone)]
pub struct PinnedMoon {
    folder: PathBuf,
}

impl PinnedMoon {
    /// The installation that `cargo xtask test` made from `tests/clients/moon-VERSION`.
    pub fn installed(version: &str) -> Result<Self> {
        let folder = pinned::installation(&format!("moon-{version}"), "package-lock.json")?;
        Ok(Self { folder })
    }

    /// Completes a fresh installation: runs moon once, without a cache, and keeps the home that it leaves.
    pub fn prepare(folder: &Path) -> Result<()> {
        let moon = Self {
            folder: folder.to_path_buf(),
        };
        let workspace = MoonWorkspace {
            moon: moon.clone(),
            checkout: Checkout::of_template("moon-workspace")?,
        };
        workspace.checkout.commit()?;
        let run = finish(workspace.moon_command("app:build"))?;
        ensure!(
            run.succeeded && run.output.contains(BUILT),
            "{}",
            run.output
        );
        copy_folder(&workspace.checkout.home(), &moon.home())
    }

    fn home(&self) -> PathBuf {
        self.folder.join("home")
    }
}

/// Which of moon's clients is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoonApi {
    /// gRPC, blobs as they are.
    Grpc,
    /// gRPC, blobs compressed with zstd.
    GrpcZstd,
    /// HTTP, which moon never compresses.
    Http,
}

/// The cache that a run of moon is given.
#[derive(Debug, Clone)]
pub struct MoonCache {
    /// Where the server listens; moon refuses `localhost` when nobody looks on.
    pub address: SocketAddr,
    /// The client to use.
    pub api: MoonApi,
    /// The instance name; `None` leaves moon's own, `moon-outputs`.
    pub instance: Option<String>,
    /// The token, if any.
    pub token: Option<String>,
}

/// One run of moon.
#[derive(Debug)]
pub struct MoonRun {
    /// True if moon ended with 0.
    pub succeeded: bool,
    /// All that it printed.
    pub output: String,
}

/// A workspace in a folder of its own, gone when the value is dropped.
#[derive(Debug)]
pub struct MoonWorkspace {
    moon: PinnedMoon,
    checkout: Checkout,
}

impl MoonWorkspace {
    /// A fresh copy of the committed workspace.
    pub fn create(moon: &PinnedMoon) -> Result<Self> {
        Self::create_with(moon, "")
    }

    /// A fresh copy of the committed workspace, with these lines at the end of its `.moon/workspace.yml`.
    pub fn create_with(moon: &PinnedMoon, settings: &str) -> Result<Self> {
        let checkout = Checkout::of_template("moon-workspace")?;
        let file = checkout.workspace().join(".moon/workspace.yml");
        fs::write(&file, fs::read_to_string(&file)? + settings)?;
        checkout.commit()?;
        Self::at_home(moon, checkout)
    }

    /// A second checkout, as another machine has it: cloned, nothing built.
    pub fn git_clone(&self) -> Result<Self> {
        Self::at_home(&self.moon, self.checkout.git_clone()?)
    }

    /// The root of the workspace.
    pub fn path(&self) -> PathBuf {
        self.checkout.workspace()
    }

    /// Where `project` puts its outputs.
    pub fn dist(&self, project: &str) -> PathBuf {
        self.path().join(project).join("dist")
    }

    /// Runs `moon run PROJECT:build` with this remote cache.
    pub fn build(&self, project: &str, cache: &MoonCache) -> Result<MoonRun> {
        let mut command = self.moon_command(&format!("{project}:build"));
        let (scheme, api) = match cache.api {
            MoonApi::Grpc | MoonApi::GrpcZstd => ("grpc", "grpc"),
            MoonApi::Http => ("http", "http"),
        };
        command
            .env("MOON_REMOTE_API", api)
            .env("MOON_REMOTE_HOST", format!("{scheme}://{}", cache.address));
        if cache.api == MoonApi::GrpcZstd {
            command.env("MOON_REMOTE_CACHE_COMPRESSION", "zstd");
        }
        if let Some(instance) = &cache.instance {
            command.env("MOON_REMOTE_CACHE_INSTANCE_NAME", instance);
        }
        if let Some(token) = &cache.token {
            command
                .env("MOON_REMOTE_AUTH_TOKEN", TOKEN_VARIABLE)
                .env(TOKEN_VARIABLE, token);
        }
        finish(command)
    }

    /// Runs `moon run PROJECT:build` with these variables and what the workspace's own settings say.
    pub fn build_as_set(&self, project: &str, variables: &[(&str, &str)]) -> Result<MoonRun> {
        let mut command = self.moon_command(&format!("{project}:build"));
        command.envs(variables.iter().copied());
        finish(command)
    }

    /// Removes every output and the local cache, as on a fresh machine.
    pub fn wipe(&self) -> Result<()> {
        remove_if_there(&self.path().join(".moon/cache"))?;
        for project in fs::read_dir(self.path())? {
            remove_if_there(&project?.path().join("dist"))?;
        }
        Ok(())
    }

    fn at_home(moon: &PinnedMoon, checkout: Checkout) -> Result<Self> {
        copy_folder(&moon.home(), &checkout.home())
            .context("the installation of moon has no home")?;
        Ok(Self {
            moon: moon.clone(),
            checkout,
        })
    }

    fn moon_command(&self, target: &str) -> Command {
        let program = "node_modules/@moonrepo/core-linux-x64-gnu/moon";
        let mut command = self.checkout.command(self.moon.folder.join(program));
        command.args(["run", target]).env("NO_COLOR", "1");
        command
    }
}

fn finish(mut command: Command) -> Result<MoonRun> {
    let finished = process::run(&mut command, MOON_LIMIT)?;
    Ok(MoonRun {
        succeeded: finished.status.success(),
        output: format!("{}{}", finished.stdout, finished.stderr),
    })
}
