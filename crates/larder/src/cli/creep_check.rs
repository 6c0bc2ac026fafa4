//! `larder creep-check`: which cache to test, with whose credentials.
//!
//! No option takes a credential itself: other users of a machine can read command lines.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::HeaderName;

use crate::config::parse_duration;

/// `larder creep-check`.
#[derive(Debug, Args)]
pub(crate) struct CreepCheckArgs {
    /// The cache: http:// or https:// for Nx, grpc:// or grpcs:// for the Remote Execution API, the
    /// instance name behind the host
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// What to speak there; auto goes by the URL
    #[arg(long, value_enum, default_value_t = CreepProtocol::Auto)]
    pub(crate) protocol: CreepProtocol,
    /// The instance name, if it is not in the URL
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// A file with the credential of builds of the trunk, or `-` for standard input; else
    /// LARDER_CREEP_TRUNK_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) trunk_token_file: Option<PathBuf>,
    /// A file with the credential of a pull request's builds, or `-`; else LARDER_CREEP_PR_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) pr_token_file: Option<PathBuf>,
    /// A file with another pull request's, or `-`; else LARDER_CREEP_OTHER_PR_TOKEN, else untested
    #[arg(long, value_name = "FILE")]
    pub(crate) other_pr_token_file: Option<PathBuf>,
    /// A file with the credential of who only reads, or `-`; else LARDER_CREEP_READER_TOKEN, else
    /// untested
    #[arg(long, value_name = "FILE")]
    pub(crate) reader_token_file: Option<PathBuf>,
    /// Send tokens as they are in this header, instead of `Authorization: Bearer`
    #[arg(long, value_name = "NAME")]
    pub(crate) token_header: Option<HeaderName>,
    /// Pull requests only read this cache: do not doubt a credential that cannot store
    #[arg(long)]
    pub(crate) pr_cannot_write: bool,
    /// Send the tokens over http:// or grpc:// to another machine, readable for everyone on the way
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Certificate authorities (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How often trunk and a pull request store at once
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rounds: u32,
    /// How long one request may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Show every request and answer, not only those that speak against the cache
    #[arg(long)]
    pub(crate) evidence: bool,
    /// Print JSON, with all requests and answers
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a cache speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CreepProtocol {
    Auto,
    Nx,
    Reapi,
}
