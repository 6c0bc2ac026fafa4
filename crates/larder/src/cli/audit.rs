//! `larder audit`.

use clap::Args;
use larder_model::WorkspaceName;

use super::PlaceArgs;
use crate::clock::Moment;

/// `larder audit`. Filters narrow each other.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Only what happened then or later: `2h` ago, `2026-11-21`, `2026-11-21T04:20:18Z`
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Only rows with a greater id: what was written down after the last row that you have seen
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) after: u64,
    /// Only what happened before
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Only this action: `write`, `bad-credential`, `token-created`, `purge` …
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only what is about this workspace
    #[arg(long, value_name = "W")]
    pub(crate) workspace: Option<WorkspaceName>,
    /// Only what the writer of this id did, or what was done to it; a token's id is its writer's
    #[arg(long, value_name = "ID")]
    pub(crate) writer: Option<u64>,
    /// Only what this run of a CI did
    #[arg(long, value_name = "RUN_ID")]
    pub(crate) run: Option<String>,
    /// Only what runs for this commit did
    #[arg(long, value_name = "SHA")]
    pub(crate) commit: Option<String>,
    /// Only what is about the entry with this key, as its tool prints it
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Only what came from this address
    #[arg(long)]
    pub(crate) address: Option<std::net::IpAddr>,
    /// Print a JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}
