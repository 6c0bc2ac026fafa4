//! What one thread counts while it measures.

use std::collections::VecDeque;

use crate::content::Blob;
use crate::histogram::Histogram;

/// Of the entries that were written last, how many are remembered to be read back.
const WRITTEN_COUNT_MAX: usize = 256;

/// Counts of one block.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) latency: Histogram,
    /// Bodies, both ways.
    pub(crate) bytes: u64,
    /// Reads that found nothing.
    pub(crate) misses: u64,
    /// Requests that the server would not serve.
    pub(crate) refused: u64,
    /// Requests without an answer.
    pub(crate) errors: u64,
    /// Entries that it has taken and does not have.
    pub(crate) lost: u64,
    /// What the first refusal or error said.
    pub(crate) trouble: Option<String>,
    /// The entries written last, the newest at the end.
    pub(crate) written: VecDeque<Blob>,
}

impl Tally {
    pub(crate) fn wrote(&mut self, blob: &Blob) {
        if self.written.len() == WRITTEN_COUNT_MAX {
            self.written.pop_front();
        }
        self.written.push_back(blob.clone());
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latency.add(&other.latency);
        self.bytes += other.bytes;
        self.misses += other.misses;
        self.refused += other.refused;
        self.errors += other.errors;
        self.lost += other.lost;
        self.trouble = self.trouble.take().or(other.trouble);
        self.written.extend(other.written);
    }
}
