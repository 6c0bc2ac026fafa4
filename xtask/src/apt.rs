//! Packages of the system, on machines that have apt and let us.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::shell;

/// apt-get does not wait for another one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Installs these packages: as root, or through sudo where it asks for no password. Without either it fails at once.
///
/// A machine whose lists are old or missing, as in a fresh container, gets new ones.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let Some(prefix) = prefix() else {
        bail!("this takes root, or sudo without a password");
    };
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    shell::timed(&format!("apt-get install {}", packages.join(" ")), || {
        let install = || {
            let mut apt = apt_get(&prefix);
            apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
            shell::read(apt.args(packages)).map(|_| ())
        };
        if install().is_ok() {
            return Ok(());
        }
        shell::read(apt_get(&prefix).args(["update", "--quiet"]))?;
        install()
    })
}

/// The version of an installed package.
pub(crate) fn version(package: &str) -> Option<String> {
    let mut dpkg = Command::new("dpkg-query");
    dpkg.args(["--show", "--showformat=${Version}", package]);
    shell::read(&mut dpkg)
        .ok()
        .filter(|version| !version.is_empty())
}

/// What must stand in front of `apt-get`, or `None` if this user may not install.
fn prefix() -> Option<Vec<&'static str>> {
    let user = shell::read(Command::new("id").arg("--user")).ok()?;
    if user.trim() == "0" {
        return Some(Vec::new());
    }
    let sudo = shell::read(Command::new("sudo").args(["--non-interactive", "true"]));
    sudo.is_ok().then(|| vec!["sudo", "--non-interactive"])
}

fn apt_get(prefix: &[&str]) -> Command {
    // Through `env`, because sudo hands no variables on.
    let mut words =
        prefix
            .iter()
            .copied()
            .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    let mut command = Command::new(words.next().unwrap_or("env"));
    command.args(words);
    command
}
