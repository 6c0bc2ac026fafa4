//! The larder program under test: one process at a time on one data directory, in a temporary home that goes with the value.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::identity::Identity;
use crate::process::{self, Finished};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What a token may do; the word that `larder token create --access` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes the trusted scope.
    Trusted,
    /// Reads trusted, then its own scope; writes its own.
    Isolated,
    /// Reads the trusted scope.
    Reader,
    /// The control plane only.
    Admin,
}

impl Access {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Isolated => "isolated",
            Self::Reader => "reader",
            Self::Admin => "admin",
        }
    }
}

/// How to start a [`Server`]; the default is `larder serve` on a free port.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The text of a configuration file.
    pub config: Option<String>,
    /// Further arguments of `larder serve`.
    pub arguments: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// The one core that it may run on, for measurements.
    pub core: Option<usize>,
    /// What it serves over TLS, if it does, on another free port.
    pub tls: Option<TlsOptions>,
    /// No plain HTTP.
    pub only_tls: bool,
}

/// The files of a server's TLS: what `[tls]` has keys for.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The server's own certificate and key.
    pub identity: Identity,
    /// Who issues clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// `off`, `optional` or `required`.
    pub client_certificates: Option<&'static str>,
    /// Revoked clients' certificates.
    pub client_crl: Option<PathBuf>,
}

impl TlsOptions {
    /// A server with this certificate that asks nobody for theirs.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            client_ca: None,
            client_certificates: None,
            client_crl: None,
        }
    }

    fn variables(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let paths = [
            ("LARDER_TLS_CERTIFICATE", Some(&self.identity.certificate)),
            ("LARDER_TLS_KEY", Some(&self.identity.key)),
            ("LARDER_TLS_CLIENT_CA", self.client_ca.as_ref()),
            ("LARDER_TLS_CLIENT_CRL", self.client_crl.as_ref()),
        ];
        let asked = self.client_certificates.map(Into::into);
        paths
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?.into())))
            .chain(asked.map(|asked| ("LARDER_TLS_CLIENT_CERTIFICATES", asked)))
            .collect()
    }
}

/// A larder program on a data directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    options: ServerOptions,
    home: TempDir,
    address: SocketAddr,
    tls_address: SocketAddr,
    process: Option<Child>,
}

impl Server {
    /// Starts `binary` with nothing configured and waits until it listens.
    pub fn start(binary: impl AsRef<Path>) -> Result<Self> {
        Self::start_with(binary, ServerOptions::default())
    }

    /// Starts `binary` and waits until it listens.
    pub fn start_with(binary: impl AsRef<Path>, options: ServerOptions) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
        if let Some(config) = &options.config {
            fs::write(home.path().join("larder.toml"), config)?;
        }
        let mut server = Self {
            binary: binary.as_ref().to_path_buf(),
            options,
            home,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            process: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the program again after [`stop`](Self::stop) or [`kill`](Self::kill): same data directory, same port.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the server is running already");
        }
        let seen = self.output().len();
        let mut command = self.command(self.options.core);
        let listen = if self.options.only_tls {
            "off".to_owned()
        } else {
            self.address.to_string()
        };
        command.args(["serve", "--listen", &listen]);
        if let Some(tls) = &self.options.tls {
            command.env("LARDER_TLS_LISTEN", self.tls_address.to_string());
            command.envs(tls.variables());
        }
        command.arg("--data-dir").arg(self.data_dir());
        if self.options.config.is_some() {
            command.arg("--config").arg(self.config_path());
        }
        command.args(&self.options.arguments);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.output_path())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;

        let listening = process::wait_until("the line `listening on …`", START_LIMIT, || {
            let output = self.output();
            if let Some(addresses) = listening(output.get(seen..).unwrap_or_default()) {
                return Ok(Some(addresses));
            }
            if let Some(status) = child.try_wait()? {
                bail!("larder ended before it listened: {status}");
            }
            Ok(None)
        });
        match listening {
            Ok((plain, tls)) => {
                self.address = plain.unwrap_or(self.address);
                self.tls_address = tls.unwrap_or(self.tls_address);
                self.process = Some(child);
                Ok(())
            }
            Err(error) => {
                process::kill_group(&mut child);
                Err(error.context(format!("larder printed: {}", self.output())))
            }
        }
    }

    /// Stops the program as an operator does (SIGTERM) and waits for its end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut child = self.process.take().context("the server is not running")?;
        process::terminate(&child)?;
        if let Some(status) = process::wait(&mut child, STOP_LIMIT) {
            return Ok(status);
        }
        process::kill_group(&mut child);
        bail!(
            "larder did not stop within {STOP_LIMIT:?}: {}",
            self.output()
        )
    }

    /// Ends the program without warning (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.process.take().context("the server is not running")?;
        process::kill_group(&mut child);
        Ok(())
    }

    /// [`stop`](Self::stop), then [`start_again`](Self::start_again).
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls_address
    }

    /// `https://127.0.0.1:PORT`, without a slash at the end.
    pub fn tls_url(&self) -> String {
        format!("https://{}", self.tls_address)
    }

    /// Asks it to read its configuration again (SIGHUP).
    pub fn reload(&self) -> Result<()> {
        let child = self.process.as_ref().context("the server is not running")?;
        process::hang_up(child)
    }

    /// `http://ADDRESS:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `None` while the program runs; how it ended, if it ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Its configuration file, which exists if the options had one.
    pub fn config_path(&self) -> PathBuf {
        self.home.path().join("larder.toml")
    }

    /// All that it has printed since the first start, on both outputs.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until it has printed `needle`.
    pub fn wait_for_output(&self, needle: &str, limit: Duration) -> Result<()> {
        process::wait_until(&format!("`{needle}` in the server's output"), limit, || {
            Ok(self.output().contains(needle).then_some(()))
        })
        .with_context(|| format!("larder printed: {}", self.output()))
    }

    /// Runs `larder ARGUMENTS… --data-dir DIR` to its end. Works while the server runs and while it does not.
    pub fn larder(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(None);
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir());
        if self.options.config.is_some() {
            command.arg("--config").arg(self.config_path());
        }
        process::run(&mut command, COMMAND_LIMIT)
    }

    /// Creates a token in the workspace `default`; its text.
    pub fn token(&self, access: Access, scope: Option<&str>) -> Result<String> {
        self.token_in("default", access, scope)
    }

    /// Creates a token in `workspace`; its text.
    pub fn token_in(&self, workspace: &str, access: Access, scope: Option<&str>) -> Result<String> {
        let mut arguments = vec![
            "token",
            "create",
            "--workspace",
            workspace,
            "--access",
            access.word(),
        ];
        if let Some(scope) = scope {
            arguments.extend(["--scope", scope]);
        }
        let printed = self
            .larder(&arguments)?
            .success()
            .context("larder token create")?;
        Ok(printed.trim().to_owned())
    }

    fn command(&self, core: Option<usize>) -> Command {
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command
                    .args(["--cpu-list", &core.to_string()])
                    .arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LARDER_")) {
            command.env_remove(name);
        }
        command.current_dir(self.home.path());
        command.envs(
            self.options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command
    }

    fn output_path(&self) -> PathBuf {
        self.home.path().join("output")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            process::kill_group(child);
        }
    }
}

/// The addresses in a whole line with `listening on http://ADDRESS and https://ADDRESS`; either may be missing.
fn listening(output: &str) -> Option<(Option<SocketAddr>, Option<SocketAddr>)> {
    let (_, rest) = output.split_once("listening on http")?;
    let (line, _) = rest.split_once('\n')?;
    let line = format!("http{line}");
    let address = |scheme: &str| -> Option<SocketAddr> {
        let (_, rest) = line.split_once(scheme)?;
        let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || "[]:.".contains(c)));
        rest[..end.unwrap_or(rest.len())].parse().ok()
    };
    Some((address("http://"), address("https://")))
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[track_caller]
    fn check(output: &str, plain: &str, tls: &str) {
        assert_eq!(
            listening(output),
            Some((plain.parse().ok(), tls.parse().ok()))
        );
    }

    #[test]
    fn the_addresses_are_read_only_from_a_whole_line() {
        assert_eq!(listening("x listening on http://127.0.0.1:47"), None);
        check(
            "x listening on http://127.0.0.1:4711\n",
            "127.0.0.1:4711",
            "",
        );
        check(
            "{\"m\":\"listening on http://127.0.0.1:4711\"}\n",
            "127.0.0.1:4711",
            "",
        );
        check(
            "listening on http://127.0.0.1:4711 (h1, h2c)\n",
            "127.0.0.1:4711",
            "",
        );
        check("listening on http://[::1]:4711\n", "[::1]:4711", "");
        check("listening on https://127.0.0.1:1\n", "", "127.0.0.1:1");
        check(
            "listening on http://[::1]:4711 and https://127.0.0.1:1\n",
            "[::1]:4711",
            "127.0.0.1:1",
        );
    }
}
