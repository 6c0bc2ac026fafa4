//! Real Bazel, from the Debian package `bazel-bootstrap` and, for TLS, from npm, and throw-away workspaces that build with it.
//!
//! The workspace is the one under `tests/clients/bazel-workspace`: genrules only, so that nothing is downloaded. Bazel's server
//! keeps its state between the builds of a workspace, as it does for people; it is killed with the value.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::{pinned, process};

/// The program of the Debian package, whatever else is on the search path.
pub const PROGRAM: &str = "/usr/bin/bazel";

const BAZEL_LIMIT: Duration = Duration::from_mins(2);

/// Which of Bazel's clients is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BazelApi {
    /// `--remote_cache=grpc://…`
    Grpc,
    /// `--remote_cache=http://…`
    Http,
}

/// The cache that a build is given.
#[derive(Debug, Clone)]
pub struct BazelCache {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The client to use.
    pub api: BazelApi,
    /// The instance name, or the path over HTTP. May be empty.
    pub instance: String,
    /// What follows `Bearer `; `None` sends no header, which is not the same as empty.
    pub token: Option<String>,
}

/// One run of Bazel.
#[derive(Debug)]
pub struct BazelRun {
    /// True if Bazel ended with 0.
    pub succeeded: bool,
    /// All that it printed.
    pub output: String,
}

impl BazelRun {
    /// How many actions were hits, as the line `INFO: 23 processes: 22 remote cache hit, 1 internal.` says.
    pub fn remote_hits(&self) -> usize {
        let summary = self.output.lines().find(|line| line.contains(" process"));
        summary
            .unwrap_or_default()
            .split([':', ',', '.'])
            .find_map(|part| part.trim().strip_suffix("remote cache hit"))
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// The official Bazel 2.1.0, which a package for npm holds. Unlike Debian's it has what gRPC over TLS needs; it is older, and
/// knows no certificates of clients.
pub fn official() -> Result<PathBuf> {
    let folder = pinned::installation("bazel-2.1.0", "package-lock.json")?;
    Ok(folder.join("node_modules/@bazel/bazel-linux_x64/bazel-2.1.0-linux-x86_64"))
}

/// A workspace in a folder of its own, gone with its Bazel server when the value is dropped.
#[derive(Debug)]
pub struct BazelWorkspace {
    program: PathBuf,
    checkout: Checkout,
}

impl BazelWorkspace {
    /// A fresh copy of the committed workspace.
    pub fn create() -> Result<Self> {
        Self::create_for(PROGRAM.into())
    }

    /// One that is built by another Bazel than the package's.
    pub fn create_for(program: PathBuf) -> Result<Self> {
        let checkout = Checkout::of_template("bazel-workspace")?;
        Ok(Self { program, checkout })
    }

    /// Runs `bazel build` with this remote cache and these further arguments.
    pub fn build(&self, cache: &BazelCache, arguments: &[&str]) -> Result<BazelRun> {
        let mut command = self.bazel("build");
        command.args(cache_arguments(cache)).args(arguments);
        run_build(&mut command)
    }

    /// Runs `bazel build` with these arguments and the remote cache that the workspace's `.bazelrc` names, if it names one.
    pub fn build_as_configured(&self, arguments: &[&str]) -> Result<BazelRun> {
        run_build(self.bazel("build").args(arguments))
    }

    /// Runs `bazel clean`: outputs and the local action cache are gone.
    pub fn clean(&self) -> Result<()> {
        process::run(&mut self.bazel("clean"), BAZEL_LIMIT)?
            .success()
            .context("bazel clean")?;
        Ok(())
    }

    /// The root of the workspace.
    pub fn path(&self) -> PathBuf {
        self.checkout.workspace()
    }

    /// Where the output `name` is, if it was built or downloaded.
    pub fn output(&self, name: &str) -> PathBuf {
        self.path().join("bazel-bin").join(name)
    }

    fn bazel(&self, verb: &str) -> Command {
        let mut command = self.checkout.command(&self.program);
        command
            .arg(format!("--output_base={}", self.output_base().display()))
            .args([
                "--nohome_rc",
                "--max_idle_secs=60",
                "--host_jvm_args=-Xmx400m",
            ])
            .arg(verb);
        command
    }

    fn output_base(&self) -> PathBuf {
        self.checkout.home().join("base")
    }
}

impl Drop for BazelWorkspace {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.output_base().join("server/server.pid.txt"));
        if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
            process::kill(pid);
        }
    }
}

fn run_build(command: &mut Command) -> Result<BazelRun> {
    // Where a test runs there may be no user namespaces for Bazel's sandbox.
    command.args([
        "--spawn_strategy=local",
        "--noshow_progress",
        "--color=no",
        "--curses=no",
    ]);
    let finished = process::run(command, BAZEL_LIMIT)?;
    Ok(BazelRun {
        succeeded: finished.status.success(),
        output: format!("{}{}", finished.stdout, finished.stderr),
    })
}

fn cache_arguments(cache: &BazelCache) -> Vec<String> {
    let address = cache.address;
    let mut arguments = match cache.api {
        BazelApi::Grpc => vec![
            format!("--remote_cache=grpc://{address}"),
            format!("--remote_instance_name={}", cache.instance),
        ],
        BazelApi::Http => vec![format!(
            "--remote_cache=http://{address}/{}",
            cache.instance
        )],
    };
    if let Some(token) = &cache.token {
        arguments.push(format!("--remote_header=authorization=Bearer {token}"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::BazelRun;

    #[test]
    fn the_hits_are_read_from_the_summary() {
        let check = |line: &str, hits| {
            let output = format!("INFO: Elapsed time: 1.0s\nINFO: {line}\nINFO: Build completed\n");
            let run = BazelRun {
                succeeded: true,
                output,
            };
            assert_eq!(run.remote_hits(), hits, "{line}");
        };
        check("23 processes: 22 remote cache hit, 1 internal.", 22);
        check("3 processes: 1 internal, 2 remote cache hit.", 2);
        check("1 process: 1 internal.", 0);
    }
}
