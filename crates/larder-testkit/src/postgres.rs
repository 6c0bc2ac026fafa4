//! Real PostgreSQL, the one of the system: `cargo xtask test` installs Debian's package.
//!
//! It refuses to run as root. Where the tests are root's it runs as the user that the package made, or as nobody.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::process;
use crate::upkeep::Upkeep;

const INIT_LIMIT: Duration = Duration::from_mins(2);

const USER: &str = "larder";
const PASSWORD: &str = "larder-test-password";

/// A PostgreSQL with an empty database `larder`, on a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct Postgres {
    upkeep: Upkeep,
    programs: PathBuf,
    _home: TempDir,
}

impl Postgres {
    /// Makes one and waits until it answers.
    pub fn start() -> Result<Self> {
        let programs = programs().context("there is no PostgreSQL; run `cargo xtask clients`")?;
        let runner = Runner::find()?;
        let home = tempfile::Builder::new()
            .prefix("larder-postgres-")
            .tempdir()?;
        let password = home.path().join("password");
        fs::write(&password, PASSWORD)?;
        runner.give(home.path())?;
        runner.give(&password)?;
        let cluster = home.path().join("cluster");
        let mut init = runner.command(&programs.join("initdb"), home.path());
        init.arg("--pgdata")
            .arg(&cluster)
            .arg("--pwfile")
            .arg(&password)
            .args(["--username", USER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        process::run(&mut init, INIT_LIMIT)?.success()?;
        let (program, folder) = (programs.join("postgres"), home.path().to_path_buf());
        let upkeep = Upkeep::start("postgres", home.path(), move |address| {
            server(&runner, &program, &folder, &cluster, address)
        })?;
        let postgres = Self {
            upkeep,
            programs,
            _home: home,
        };
        postgres.wait_until_it_answers()?;
        postgres.create_database("larder")?;
        Ok(postgres)
    }

    /// `postgres://USER:PASSWORD@ADDRESS:PORT/larder`
    pub fn url(&self) -> String {
        self.url_of("larder")
    }

    /// The same for another database.
    pub fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{PASSWORD}@{}/{database}",
            self.upkeep.address()
        )
    }

    /// Makes another empty database: tests that share a server have one each.
    pub fn create_database(&self, name: &str) -> Result<()> {
        let mut create = self.client("createdb");
        create.arg(name);
        process::run(&mut create, INIT_LIMIT)?.success().map(|_| ())
    }

    /// Starts it again after it was killed, and waits until it answers.
    pub fn revive(&mut self) -> Result<()> {
        self.upkeep.revive()?;
        self.wait_until_it_answers()
    }

    /// Kills and freezes it.
    pub fn upkeep(&mut self) -> &mut Upkeep {
        &mut self.upkeep
    }

    /// It listens before it takes anybody in, when it has to recover first.
    fn wait_until_it_answers(&self) -> Result<()> {
        process::wait_until("PostgreSQL to answer", INIT_LIMIT, || {
            let asked = process::run(&mut self.client("pg_isready"), INIT_LIMIT)?;
            Ok(asked.status.success().then_some(()))
        })
    }

    fn client(&self, name: &str) -> Command {
        let address = self.upkeep.address();
        let mut client = Command::new(self.programs.join(name));
        client
            .env("PGHOST", address.ip().to_string())
            .env("PGPORT", address.port().to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", "postgres");
        client
    }
}

fn server(
    runner: &Runner,
    program: &Path,
    home: &Path,
    cluster: &Path,
    address: SocketAddr,
) -> Command {
    let mut server = runner.command(program, home);
    server
        .arg("-D")
        .arg(cluster)
        .arg("-c")
        .arg(format!("listen_addresses={}", address.ip()))
        .arg("-c")
        .arg(format!("port={}", address.port()))
        .arg("-c")
        .arg(format!("unix_socket_directories={}", home.display()))
        // What survives a test's kill is in the page cache; nothing here has to survive a power cut.
        .args(["-c", "fsync=off", "-c", "max_connections=100"]);
    server
}

/// The folder with the programs of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let programs = entry.path().join("bin");
            programs
                .join("initdb")
                .is_file()
                .then_some((version, programs))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}

/// Whether PostgreSQL is installed.
pub fn is_installed() -> bool {
    programs().is_some()
}

/// Who runs it: this user, or another one if this is root.
#[derive(Debug, Clone, Copy)]
struct Runner(Option<(u32, u32)>);

impl Runner {
    fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let user_of = |name: &str| {
            let line = users
                .lines()
                .find(|line| line.starts_with(&format!("{name}:")))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let user = user_of("postgres").or_else(|| user_of("nobody"));
        Ok(Self(Some(
            user.context("neither postgres nor nobody is a user")?,
        )))
    }

    fn give(self, path: &Path) -> Result<()> {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match self.0 {
            None => Ok(()),
            Some((user, group)) => Ok(chown(path, Some(user), Some(group))?),
        }
    }

    fn command(self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new(program);
        // It looks at the folder it was started in.
        command.current_dir(home);
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_answers_before_and_after_it_was_killed() {
        if crate::left_out("postgres") {
            return;
        }
        let mut postgres = Postgres::start().unwrap();
        let ask = |postgres: &Postgres| {
            let mut psql = Command::new(postgres.programs.join("psql"));
            psql.arg(postgres.url()).args(["-Atc", "select 6 * 7"]);
            process::run(&mut psql, INIT_LIMIT)
                .unwrap()
                .success()
                .unwrap()
        };
        assert_eq!(ask(&postgres), "42\n");
        postgres.upkeep().kill();
        postgres.revive().unwrap();
        assert_eq!(ask(&postgres), "42\n");
    }
}
