//! The command line: what can be asked of the program, and nothing of how it is done.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_model::{UntrustedScope, WorkspaceName};

use crate::config::{Key, parse_duration, parse_listen};

mod audit;
mod bench;
mod bucket;
mod creep_check;
mod entries;
mod identity;

pub(crate) use audit::AuditArgs;
pub(crate) use bench::BenchArgs;
pub(crate) use bucket::{BucketCommand, BucketKeyCommand, BucketStatusArgs};
pub(crate) use creep_check::{CreepCheckArgs, CreepProtocol};
pub(crate) use entries::{
    ChangeArgs, EntryArgs, EntryCommand, PurgeArgs, QuarantineArgs, QuarantineCommand,
    SelectionArgs,
};
pub(crate) use identity::{
    AskedArgs, CredentialHelperArgs, Expectation, JobsArgs, LoginArgs, LoginFormat, LogoutArgs,
    PolicyCommand, PolicyTestArgs, SessionCommand, SessionRevokeArgs, Tool, WhoamiArgs,
};

/// A self-hosted remote build cache that no pull request can poison.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Create, list and revoke access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Create, list and delete workspaces
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Remove entries
    Purge(Box<PurgeArgs>),
    /// Take entries out of everybody's sight and keep their bytes
    Quarantine(Box<QuarantineArgs>),
    /// Show an entry, or get its bytes
    #[command(subcommand)]
    Entry(EntryCommand),
    /// Show what is stored, by workspace and scope
    Stats(StatsArgs),
    /// Read every entry again and compare it with its checksums
    Verify(VerifyArgs),
    /// Show who did what: writes, refusals, credentials, purges, as far back as the audit goes
    Audit(Box<AuditArgs>),
    /// Test whether a pull request can poison a cache: yours, or any other of Nx or the Remote Execution API
    CreepCheck(Box<CreepCheckArgs>),
    /// Measure a cache, or two against each other: any of Nx, of the Remote Execution API, or a folder
    Bench(Box<BenchArgs>),
    /// Look after the bucket behind the local store
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Try the rules for CI jobs
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Get a session for this CI job, and say what a tool needs to use it
    Login(LoginArgs),
    /// End the session of this CI job
    Logout(LogoutArgs),
    /// End the sessions of CI jobs
    #[command(subcommand)]
    Session(SessionCommand),
    /// Say who a server takes this environment's credential for
    Whoami(WhoamiArgs),
    /// Give Bazel credentials, as its --credential_helper asks for them
    CredentialHelper(CredentialHelperArgs),
}

/// Where the configuration and the data are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlaceArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where the server keeps everything [default: larder-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What a CI said of a job, to know its entries or sessions by. Conditions narrow each other.
#[derive(Debug, Default, Args)]
pub(crate) struct ProvenanceArgs {
    /// Only those of this run, pipeline or build of a CI
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
    /// Only those of runs of this commit
    #[arg(long, value_name = "SHA")]
    pub(crate) commit: Option<String>,
    /// Only those of runs of this repository
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<String>,
    /// Only those of runs of the repository with this id
    #[arg(long, value_name = "ID")]
    pub(crate) repository_id: Option<String>,
    /// Only those of runs for this git ref: `refs/heads/main`
    #[arg(long = "ref", value_name = "REF")]
    pub(crate) git_ref: Option<String>,
    /// Only those of runs of this workflow
    #[arg(long, value_name = "NAME")]
    pub(crate) workflow: Option<String>,
    /// Only those of runs that this event started: `push`
    #[arg(long, value_name = "NAME")]
    pub(crate) event: Option<String>,
    /// Only those of runs that this person started
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Only those of runs whose tokens came from this issuer
    #[arg(long, value_name = "URL")]
    pub(crate) issuer: Option<String>,
    /// Only those of writers that this rule of the configuration let in
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Option<String>,
}

/// `larder serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Where to listen for plain HTTP, or off; port 0 picks a free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub(crate) listen: Option<String>,
    /// Allow plain HTTP on an address that other machines can reach
    #[arg(long)]
    pub(crate) insecure_http: bool,
}

impl PlaceArgs {
    /// The flags as values of configuration keys.
    pub(crate) fn values(&self) -> Vec<(Key, &'static str, OsString)> {
        let data_dir = self.data_dir.iter();
        data_dir
            .map(|dir| (Key::StoreDataDir, "--data-dir", dir.clone().into()))
            .collect()
    }
}

impl ServeArgs {
    /// The flags as values of configuration keys.
    pub(crate) fn values(&self) -> Vec<(Key, &'static str, OsString)> {
        let mut values = self.place.values();
        if let Some(listen) = &self.listen {
            values.push((Key::HttpListen, "--listen", listen.into()));
        }
        if self.insecure_http {
            values.push((Key::HttpInsecureHttp, "--insecure-http", "true".into()));
        }
        values
    }
}

/// `larder token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it, and nothing else, on standard output
    Create(TokenCreateArgs),
    /// List all tokens; never the tokens themselves, which are kept as hashes only
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; a running server refuses it within a second
    Revoke {
        #[command(flatten)]
        place: PlaceArgs,
        /// The token's id, the token itself, or `-` to read either from standard input, where no
        /// list of processes shows it
        #[arg(value_name = "TOKEN_OR_ID")]
        token: String,
    },
}

/// `larder token create`.
#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The workspace the token is for
    #[arg(long, value_name = "W", default_value = "default")]
    pub(crate) workspace: WorkspaceName,
    /// What the token may do
    #[arg(long, value_enum)]
    pub(crate) access: AccessArg,
    /// The own scope of an isolated or gate token, such as `pr/7`; none that begins with `token` or `ci`
    /// [default: token/ID]
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<UntrustedScope>,
    /// A name to recognize the token by
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// When it stops working, counted from now: `90d`, `12h` [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) expires: Option<Duration>,
}

/// The kinds of access a token can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccessArg {
    /// Reads and writes trusted entries: trunk's CI
    Trusted,
    /// Writes trusted entries and reads nothing: releases
    CleanRoom,
    /// Reads trusted entries, writes its own scope: pull requests
    Isolated,
    /// Reads trusted entries alone, writes its own scope: runs that decide about a merge
    Gate,
    /// Reads trusted entries: laptops
    Reader,
    /// The control plane of its workspace; no entries
    Admin,
}

/// `larder workspace`.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Create a workspace
    Create {
        #[command(flatten)]
        place: PlaceArgs,
        /// The new workspace's name
        name: WorkspaceName,
    },
    /// List all workspaces
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a workspace whose tokens are all revoked, and its entries
    Delete {
        #[command(flatten)]
        place: PlaceArgs,
        /// The workspace's name
        name: WorkspaceName,
        /// Remove its entries without asking
        #[arg(long, short)]
        yes: bool,
    },
}

/// `larder stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Show the actions whose results were stored again with other outputs
    #[arg(long)]
    pub(crate) nondeterministic: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `larder verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// `larder config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report every problem of the configuration, or what it means on this disk
    Check {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Print docs/config.md
    #[command(hide = true)]
    Docs,
}

/// Checked here, so that it is an error of the command line; read with the configuration.
fn listen(text: &str) -> Result<String, String> {
    parse_listen(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Everything that a command has under this heading is a condition, and `--all` is refused beside each.
    #[test]
    fn all_excludes_every_condition() {
        let mut command = Cli::command();
        command.build();
        for (path, heading) in [
            (&["purge"][..], "Which entries"),
            (&["quarantine"], "Which entries"),
            (&["session", "revoke"], "Which jobs"),
        ] {
            let found = path
                .iter()
                .try_fold(&command, |command, name| command.find_subcommand(name));
            let command = found.expect("a command");
            let all = command
                .get_arguments()
                .find(|argument| argument.get_id() == "all");
            let excluded = command.get_arg_conflicts_with(all.expect("--all"));
            let excluded: Vec<_> = excluded.iter().map(|argument| argument.get_id()).collect();
            let conditions = command
                .get_arguments()
                .filter(|argument| argument.get_help_heading() == Some(heading));
            let missing: Vec<_> = conditions
                .map(clap::Arg::get_id)
                .filter(|id| !excluded.contains(id))
                .collect();
            assert!(missing.is_empty(), "{path:?}: {missing:?}");
            assert!(excluded.len() > 10, "{path:?}: {excluded:?}");
        }
    }

    #[test]
    fn bad_names_and_quantities_are_refused_at_the_door() {
        let refused = [
            "larder token create --access owner",
            "larder token create --access isolated --scope trusted",
            "larder token create --access isolated --scope ../x",
            "larder token create --access reader --workspace Acme",
            "larder token create --access reader --expires soon",
            "larder serve --listen localhost",
            "larder purge --all --workspace acme",
            "larder purge --dialect bazel",
            "larder purge --since yesterday",
            "larder purge --until 1d --older-than 2d",
            "larder quarantine release --all --run 4711",
            "larder quarantine --run 4711 list",
            "larder entry get 123",
            "larder workspace create UPPER",
        ];
        for line in refused {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in [
            "larder serve",
            "larder serve --listen localhost:0",
            "larder serve --listen [::1]:0 --insecure-http --data-dir d --config c",
            "larder token create --access isolated --scope pr/7 --expires 90d",
            "larder token revoke -",
            "larder purge --scope trusted --older-than 30d --dry-run",
            "larder quarantine --run 4711 --since 2026-11-21T04:20:18Z --until 2h",
            "larder quarantine list",
            "larder quarantine release --key 123 --yes",
            "larder entry show 123 --json",
            "larder entry get 123 --output f",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
