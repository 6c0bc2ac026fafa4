//! The commands about entries that are stored: which ones, and what becomes of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use larder_model::{Dialect, Scope, WorkspaceName};

use super::{PlaceArgs, ProvenanceArgs};
use crate::clock::Moment;
use crate::config::parse_duration;

/// What [`SelectionArgs`] has, for `--all`, which excludes it: clap puts a struct that has another one inside into no group.
const CONDITIONS: [&str; 10] = [
    "workspace",
    "scope",
    "dialect",
    "key",
    "writer",
    "token",
    "since",
    "until",
    "older_than",
    "ProvenanceArgs",
];

/// Which entries. Conditions narrow each other.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which entries")]
pub(crate) struct SelectionArgs {
    /// Only this workspace's entries
    #[arg(long, value_name = "W")]
    pub(crate) workspace: Option<WorkspaceName>,
    /// Only entries of exactly this scope: `trusted`, `pr/7`
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<Scope>,
    /// Only entries of this dialect
    #[arg(long, value_parser = parse_dialect)]
    pub(crate) dialect: Option<Dialect>,
    /// Only entries with this key, in every scope: a task's hash, a digest as HASH or HASH/SIZE
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Only entries of this writer: the id of a token, a CI's run or a certificate
    #[arg(long, value_name = "ID")]
    pub(crate) writer: Option<u64>,
    /// Only entries written with the token of this id
    #[arg(long, value_name = "ID")]
    pub(crate) token: Option<u64>,
    #[command(flatten)]
    pub(crate) said: ProvenanceArgs,
    /// Only entries written then or later: `2026-11-21T04:20:18Z`, `2026-11-21`, or how long ago: `3d`
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Only entries written before then
    #[arg(long, value_name = "TIME", conflicts_with = "older_than")]
    pub(crate) until: Option<Moment>,
    /// Only entries written longer ago than this: `30d`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) older_than: Option<Duration>,
}

/// A change of many entries.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Everything; needed when there is no condition
    #[arg(long, conflicts_with_all = CONDITIONS)]
    pub(crate) all: bool,
    /// Say what it would be about and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    // The last, as its heading is that of all arguments after it.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
}

/// `larder purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Only entries in quarantine
    #[arg(long)]
    pub(crate) quarantined: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// `larder quarantine`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) command: Option<QuarantineCommand>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// `larder quarantine …`.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Show what is in quarantine
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        selection: Box<SelectionArgs>,
    },
    /// Put entries back, unless a new one has their place
    Release(Box<ChangeArgs>),
}

/// `larder entry`.
#[derive(Debug, Subcommand)]
pub(crate) enum EntryCommand {
    /// Show where an entry is, in which state, and who wrote it
    Show {
        #[command(flatten)]
        name: EntryArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write an entry's bytes to a file, also of one in quarantine
    Get {
        #[command(flatten)]
        name: EntryArgs,
        /// The file; it must not exist
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// The sequence number, if there are several
        #[arg(long, value_name = "NUMBER")]
        sequence: Option<u64>,
    },
}

/// Which entry.
#[derive(Debug, Args)]
pub(crate) struct EntryArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// A task's hash, or a digest as HASH or HASH/SIZE
    pub(crate) key: String,
    /// Only in this workspace
    #[arg(long, value_name = "W")]
    pub(crate) workspace: Option<WorkspaceName>,
    /// Only in exactly this scope
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<Scope>,
    /// Only of this dialect
    #[arg(long, value_parser = parse_dialect)]
    pub(crate) dialect: Option<Dialect>,
    /// Only an action's result under this instance name
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
}

fn parse_dialect(text: &str) -> Result<Dialect, String> {
    Dialect::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
        format!("there is no such dialect; known are {}", names.join(", "))
    })
}
