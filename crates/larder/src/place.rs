//! Where a command finds the configuration and the data directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_ledger::Ledger;

use crate::cli::PlaceArgs;
use crate::config::{self, Key, Settings};

const LEDGER_FILE: &str = "ledger.sqlite";

/// Reads the configuration with these flags on top.
pub(crate) fn settings(
    config: Option<&Path>,
    flags: &[(Key, &'static str, OsString)],
) -> anyhow::Result<Settings> {
    Ok(config::load(config, std::env::vars_os(), flags)?)
}

/// The settings of a command that needs what a server made.
pub(crate) fn existing(place: &PlaceArgs) -> anyhow::Result<Settings> {
    let settings = settings(place.config.as_deref(), &place.values())?;
    let data_dir = &settings.store.data_dir;
    if data_dir.join(LEDGER_FILE).is_file() {
        return Ok(settings);
    }
    let missing = if data_dir.is_dir() {
        "no ledger in the data directory"
    } else {
        "no data directory at"
    };
    anyhow::bail!(
        "{missing} {}; start with `larder serve`, or pass --data-dir DIR (or the server's --config FILE)",
        absolute(data_dir).display()
    )
}

/// Opens the ledger of a data directory.
pub(crate) async fn ledger(data_dir: &Path) -> anyhow::Result<Ledger> {
    let path = data_dir.join(LEDGER_FILE);
    Ledger::open(&path)
        .await
        .with_context(|| format!("cannot open {}", path.display()))
}

/// A path that means the same from every working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
