//! What can be asked about identity: `policy`, `login`, `logout`, `whoami`, `credential-helper`, `session`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use larder_model::WorkspaceName;

use super::{PlaceArgs, ProvenanceArgs};
use crate::identity::ServerUrl;

/// `larder policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what a CI job with these claims would get, and why; exit with 2 if that is nothing
    Test(PolicyTestArgs),
}

/// `larder policy test`.
#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// A JSON file with the claims, or one with the identity token itself; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) claims: PathBuf,
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Fail unless this is the outcome
    #[arg(long, value_enum)]
    pub(crate) expect: Option<Expectation>,
}

/// What a job gets, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expectation {
    /// It writes trusted entries
    Trusted,
    /// It gets something, and writes no trusted entries
    Untrusted,
    /// It gets nothing
    Refused,
}

impl Expectation {
    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
            Self::Refused => "refused",
        }
    }
}

/// `larder session`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// End the sessions of CI jobs, whoever holds them
    Revoke(SessionRevokeArgs),
}

/// `larder session revoke`.
#[derive(Debug, Args)]
pub(crate) struct SessionRevokeArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// All jobs; needed when there is no condition
    #[arg(long, conflicts_with_all = ["workspace", "writer", "ProvenanceArgs"])]
    pub(crate) all: bool,
    /// Say whose sessions it would end and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    // The last, as its heading is that of all arguments after it.
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
}

/// Which CI jobs. Conditions narrow each other.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which jobs")]
pub(crate) struct JobsArgs {
    /// Only jobs of this workspace
    #[arg(long, value_name = "W")]
    pub(crate) workspace: Option<WorkspaceName>,
    /// Only the writer of this id, as `larder entry show` says
    #[arg(long, value_name = "ID")]
    pub(crate) writer: Option<u64>,
    #[command(flatten)]
    pub(crate) said: ProvenanceArgs,
}

/// `larder login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The server's address; for Nx with `/w/WORKSPACE` or `/scope/LABEL` if need be
    ///
    /// One that is missing or wrong is a login that fails, and no wrong use: forks have no variables.
    #[arg(
        long,
        value_name = "URL",
        env = "LARDER_SERVER",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) server: String,
    /// What the server calls itself (`identity.audience`) [default: its address]
    #[arg(long, value_name = "TEXT")]
    pub(crate) audience: Option<String>,
    /// Whose variables to set
    #[arg(long = "for", value_name = "TOOL", value_enum, default_value = "env")]
    pub(crate) tool: Tool,
    /// Set them for the later steps of a job on GitHub, and print nothing
    #[arg(long, conflicts_with = "format")]
    pub(crate) github_env: bool,
    /// How to print them
    #[arg(long, value_enum, default_value = "sh")]
    pub(crate) format: LoginFormat,
    /// Ask for reading alone
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Fail if there is no session; otherwise the tool is told to do without the cache
    #[arg(long)]
    pub(crate) strict: bool,
}

/// The tools that a session can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tool {
    /// NX_SELF_HOSTED_REMOTE_CACHE_SERVER and …_ACCESS_TOKEN
    Nx,
    /// MOON_REMOTE_HOST and LARDER_TOKEN, which `auth.token` in .moon/workspace.yml has to name
    Moon,
    /// LARDER_SERVER and LARDER_TOKEN, for the credential helper; or lines for a .bazelrc
    Bazel,
    /// LARDER_SERVER and LARDER_TOKEN
    Env,
}

/// How `larder login` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoginFormat {
    /// `export` lines for a shell
    Sh,
    /// One object
    Json,
    /// Lines of a .bazelrc
    Bazelrc,
}

/// The server and the credential that a question is about.
#[derive(Debug, Args)]
pub(crate) struct AskedArgs {
    /// The server's address [default: LARDER_SERVER, NX_SELF_HOSTED_REMOTE_CACHE_SERVER or MOON_REMOTE_HOST]
    #[arg(long, value_name = "URL", value_parser = ServerUrl::parse)]
    pub(crate) server: Option<ServerUrl>,
    /// `-` to read the token from standard input, or the name of a variable with it
    /// [default: LARDER_TOKEN or NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN]
    #[arg(long, value_name = "-|VARIABLE", allow_hyphen_values = true)]
    pub(crate) token: Option<String>,
}

/// `larder whoami`.
#[derive(Debug, Args)]
pub(crate) struct WhoamiArgs {
    #[command(flatten)]
    pub(crate) asked: AskedArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `larder logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    #[command(flatten)]
    pub(crate) asked: AskedArgs,
}

/// `larder credential-helper`.
#[derive(Debug, Args)]
pub(crate) struct CredentialHelperArgs {
    /// What Bazel asks for: `get`
    pub(crate) command: String,
    /// What the server calls itself (`identity.audience`) [default: LARDER_SERVER]
    #[arg(long, value_name = "TEXT", env = "LARDER_AUDIENCE")]
    pub(crate) audience: Option<String>,
    /// Give credentials also to a server of another machine without TLS
    #[arg(long, env = "LARDER_ALLOW_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) allow_http: bool,
}
