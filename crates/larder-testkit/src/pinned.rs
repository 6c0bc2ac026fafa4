//! The pinned programs that `cargo xtask clients` installs below `target/clients`, and where they are.
//!
//! An installation holds a copy of the lockfile it was made from. One whose copy is not today's does not count, so that a test
//! never meets a version other than the one it names.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{repository_root, target_dir};

/// The folder of the installation that was made from `tests/clients/NAME/LOCKFILE`.
pub(crate) fn installation(name: &str, lockfile: &str) -> Result<PathBuf> {
    let folder = target_dir().join("clients").join(name);
    let pinned = fs::read(
        repository_root()
            .join("tests/clients")
            .join(name)
            .join(lockfile),
    )?;
    if fs::read(folder.join(lockfile)).ok() != Some(pinned) {
        bail!("{name} is not installed as pinned; run `cargo xtask clients`");
    }
    Ok(folder)
}
