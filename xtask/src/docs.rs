//! `docs/config.md`, which the program writes from its own settings (`larder config docs`).

use std::fs;

use anyhow::{Result, bail};

use crate::{shell, test};

const CONFIG_PAGE: &str = "docs/config.md";

/// Fails if the committed page is not what the program writes.
pub(crate) fn check() -> Result<()> {
    if fs::read_to_string(CONFIG_PAGE)? != config_page()? {
        bail!("{CONFIG_PAGE} is not what the program says; run `cargo xtask docs --write`");
    }
    Ok(())
}

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    Ok(fs::write(CONFIG_PAGE, config_page()?)?)
}

fn config_page() -> Result<String> {
    let mut larder = shell::cargo();
    larder.args([
        "run",
        "--quiet",
        "--profile",
        test::PROFILE,
        "--package",
        "larder",
    ]);
    shell::read(larder.args(["--", "config", "docs"]))
}
