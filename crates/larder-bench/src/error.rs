//! Why a run ended without a result that could be believed.

use std::io;

/// A run failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// What was asked for cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The server gave other bytes, or another answer, than it must.
    #[error("wrong: {0}")]
    Wrong(String),
    /// The server took entries and does not have them.
    #[error(
        "{lost} of {sampled} entries that it took are gone; is there room for what this run writes?"
    )]
    Lost {
        /// How many are gone.
        lost: u64,
        /// Of how many.
        sampled: u64,
    },
    /// It cannot be reached, or a connection broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// It answered with an error.
    #[error("refused: {0}")]
    Refused(String),
    /// What the operating system says of the server's process.
    #[error("process {pid}: {source}")]
    Process {
        /// Its id.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

impl BenchError {
    pub(crate) fn connection(error: impl std::fmt::Display) -> Self {
        Self::Connection(error.to_string())
    }
}
