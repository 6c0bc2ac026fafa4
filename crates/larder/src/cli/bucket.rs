//! `larder bucket`.

use clap::{Args, Subcommand};

use super::PlaceArgs;

/// `larder bucket`.
#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// Show what is in the bucket, what waits for it, and whether it answers
    Status(BucketStatusArgs),
    /// Find out whether the bucket can be used: write, write again, read and delete an object
    Check {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Delete what has expired, and what no entry refers to
    Gc {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Keep or restore the key that makes the bucket's contents believable
    #[command(subcommand)]
    Key(BucketKeyCommand),
}

/// `larder bucket status`.
#[derive(Debug, Args)]
pub(crate) struct BucketStatusArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `larder bucket key`.
#[derive(Debug, Subcommand)]
pub(crate) enum BucketKeyCommand {
    /// Print the key, a secret, and nothing else, on standard output
    Export {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Read a key from standard input, for a ledger that has never had a pack; the server must be stopped
    Import {
        #[command(flatten)]
        place: PlaceArgs,
    },
}
