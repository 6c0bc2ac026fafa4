//! Throw-away git checkouts of the workspaces under `tests/clients`, each with a home directory of its own.
//!
//! A client that is started through [`Checkout::command`] sees only what is set there: no settings of the person who runs the
//! tests, no variables of a CI provider.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{process, repository_root};

const GIT_LIMIT: Duration = Duration::from_secs(30);

/// A folder with a workspace, a home and a place for temporary files; gone when the value is dropped.
#[derive(Debug)]
pub struct Checkout {
    folder: TempDir,
}

impl Checkout {
    /// An empty workspace.
    pub fn empty() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("larder-checkout-")
            .tempdir()?;
        for name in ["workspace", "home", "tmp"] {
            fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { folder })
    }

    /// A copy of `tests/clients/TEMPLATE`, which is not committed yet.
    pub fn of_template(template: &str) -> Result<Self> {
        let checkout = Self::empty()?;
        let template = repository_root().join("tests/clients").join(template);
        copy_folder(&template, &checkout.workspace())?;
        Ok(checkout)
    }

    /// Makes the workspace a git repository with all that is in it.
    pub fn commit(&self) -> Result<()> {
        self.git(&["init", "--quiet", "."])?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", "first"])
    }

    /// A second checkout, as another machine has it: cloned, nothing built.
    pub fn git_clone(&self) -> Result<Self> {
        let clone = Self::empty()?;
        let source = self.workspace();
        let source = source.to_str().context("a path that is not UTF-8")?;
        clone.git(&["clone", "--quiet", source, "."])?;
        Ok(clone)
    }

    /// The root of the workspace.
    pub fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    /// The home directory of the programs that run here.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// `program`, to be run in the workspace with nothing in its environment but `PATH`, `HOME` and `TMPDIR`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.workspace())
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")),
            )
            .env("HOME", self.home())
            .env("TMPDIR", self.folder.path().join("tmp"));
        command
    }

    fn git(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("git");
        command
            .args([
                "-c",
                "user.name=Larder",
                "-c",
                "user.email=tests@larder.test",
            ])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        process::run(&mut command, GIT_LIMIT)?
            .success()
            .context("git")?;
        Ok(())
    }
}

/// Copies a folder with all that is in it; symbolic links are followed.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("copying {}", from.display()))? {
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

/// Removes a folder with all that is in it, if it is there.
pub fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
