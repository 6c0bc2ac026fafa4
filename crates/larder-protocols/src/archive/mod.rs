//! What is in an archive that a client uploads: gzip'd tar, as Nx sends it, looked at while it comes.
//!
//! Nx 20.8 up to 22.7.6, and 23.0.0 and 23.0.1, unpack an archive without looking where its entries go (CVE-2026-71476), so an
//! archive that a pull request stores could write anywhere on the machine of whoever gets it. [`Inspector`] finds what no client
//! ever sends and an attacker would. It is a second line of defence for these versions and no more: the first is that trunk
//! never gets what a pull request stored.
//!
//! Parsers differ, and no inspector sees an archive as every client does. So an archive is [`Verdict::Clean`] only if every reader
//! must read it alike. What is legal, but read differently by some reader, is [`Fault::Ambiguous`], which is as bad as hostile: numbers in
//! lax forms, more before an entry than the writers put there, maps of sparse files that are not beyond doubt, unknown kinds, a second gzip
//! member. [`Verdict::Foreign`] is only what no reader of tar could take for an archive, packed with gzip or not at all: the
//! format may change, and that is Nx's business.
//!
//! - Bytes are pushed in and looked at once. Kept are a window of 32 KiB, a header, and a hash for each symbolic link.
//! - It never says no to what the real clients send: files, sparse files, directories, symbolic links, long names.
//! - A push ends soon after its [`Budget`], whatever the bytes are: they are taken in small slices.
//!
//! What follows from a verdict is decided in [`Examination`].

mod examination;
mod extension;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gunzip;
mod header;
mod links;
#[cfg(any(test, feature = "fuzzing"))]
mod listing;
mod walk;

pub use examination::InspectedWriters;
pub(crate) use examination::{Examination, Examined};

use std::time::{Duration, Instant};

use gunzip::{Gunzip, NoGzip};
use walk::{Stop, Walk};

/// How many bytes are unpacked at once.
const PLAIN_BYTES: usize = 32 << 10;

/// Of how many. Each may be worth some tens of nanoseconds: gzip has blocks of few bits that say nothing. In smaller slices the
/// whole costs a third more.
const SENT_BYTES: usize = 4 << 10;

/// So many bytes may be sent more than twice of what they unpack to. The worst that compressors make of noise is a thousandth
/// more than it has; the rest is for names and comments, and for writers who flush often.
const OVERHEAD_BYTES_MAX: u64 = 64 << 10;

/// How much is done at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Sent and unpacked, together.
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// What an archive may be at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of all its entries together, unpacked.
    pub(crate) unpacked_bytes_max: u64,
    /// Up to here it may be packed as tightly as gzip can.
    pub(crate) bomb_bytes_min: u64,
    /// Above that, it may have so many times the bytes that it was sent in. Gzip packs zeros at 1 : 1030.
    pub(crate) ratio_max: u64,
    pub(crate) entry_count_max: u64,
    /// All that is remembered to the end: a few bytes for each.
    pub(crate) link_count_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Nx has an archive in memory, packed, on both ends.
            unpacked_bytes_max: 32 << 30,
            bomb_bytes_min: 1 << 30,
            ratio_max: 200,
            entry_count_max: 1 << 20,
            link_count_max: 64 << 10,
        }
    }
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("an entry's path is absolute")]
    AbsolutePath,
    #[error("an entry's path has `..` in it")]
    ParentPath,
    #[error("an entry's path or target has a NUL in it")]
    NulInName,
    #[error("an entry has no name, or a link no target")]
    EmptyName,
    #[error("an entry is a hard link")]
    HardLink,
    #[error("an entry is a device or a pipe")]
    Device,
    #[error("a symbolic link leads out of the outputs")]
    LinkLeavesRoot,
    #[error("an entry is written through a symbolic link")]
    ThroughLink,
    #[error("`code` or `terminalOutput` comes twice")]
    Duplicate,
    #[error("clients would not agree on what an entry is")]
    Ambiguous,
    #[error("an entry is of no known kind")]
    UnknownKind,
    #[error("a number cannot be read")]
    Number,
    #[error("a checksum is wrong, or the compressed bytes are damaged")]
    Checksum,
    #[error("it ends in the middle")]
    Truncated,
    #[error("something follows its end")]
    Trailing,
    #[error("it is too large unpacked")]
    TooLarge,
    #[error("it is much larger unpacked than what build outputs come to")]
    Bomb,
    #[error("it has more bytes than any compressor makes")]
    Overhead,
    #[error("it has too many entries")]
    TooManyEntries,
    #[error("it has too many symbolic links")]
    TooManyLinks,
    #[error("an entry's path or target is too long")]
    LongName,
    #[error("there is too much about one entry")]
    LargeRecords,
}

impl Fault {
    /// The fault's name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AbsolutePath => "absolute_path",
            Self::ParentPath => "parent_path",
            Self::NulInName => "nul_in_name",
            Self::EmptyName => "empty_name",
            Self::HardLink => "hard_link",
            Self::Device => "device",
            Self::LinkLeavesRoot => "link_leaves_root",
            Self::ThroughLink => "through_link",
            Self::Duplicate => "duplicate",
            Self::Ambiguous => "ambiguous",
            Self::UnknownKind => "unknown_kind",
            Self::Number => "number",
            Self::Checksum => "checksum",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::TooLarge => "too_large",
            Self::Bomb => "bomb",
            Self::Overhead => "overhead",
            Self::TooManyEntries => "too_many_entries",
            Self::TooManyLinks => "too_many_links",
            Self::LongName => "long_name",
            Self::LargeRecords => "large_records",
        }
    }
}

/// A fault, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) fault: Fault,
    /// The path of the entry that was read last, as it stands in the archive; empty before the first one.
    pub(crate) entry: Vec<u8>,
}

/// What an archive turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// An archive with nothing against it.
    Clean,
    /// Nothing that any reader could take for a tar archive.
    Foreign,
    Hostile(Finding),
}

/// How far [`Inspector::push`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It needs the next bytes.
    Done,
    /// It has unpacked enough for once, and wants to go on.
    Enough,
}

/// Looks into an archive whose bytes are pushed.
pub(crate) struct Inspector {
    limits: Limits,
    /// `None` once there is a verdict.
    open: Option<Open>,
    verdict: Option<Verdict>,
}

struct Open {
    gunzip: Gunzip,
    walk: Walk,
    /// `Some` until it is known to be gzip: some readers unpack what is not packed, too.
    unpacked: Option<Walk>,
    is_gzip: bool,
    sent_bytes: u64,
    plain_bytes: u64,
}

impl Inspector {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Some(Open {
                gunzip: Gunzip::new(),
                walk: Walk::new(limits),
                unpacked: Some(Walk::foreign()),
                is_gzip: true,
                sent_bytes: 0,
                plain_bytes: 0,
            }),
            verdict: None,
        }
    }

    /// Looks at the next bytes until the budget is used up, and takes what it has looked at off the front. After
    /// [`Progress::Enough`] what is left must come again, even if it is nothing.
    pub(crate) fn push(&mut self, sent: &mut &[u8], budget: Budget) -> Progress {
        let (limits, mut plain) = (self.limits, vec![0; PLAIN_BYTES]);
        let (start, mut done) = (Instant::now(), 0);
        while let Some(open) = &mut self.open {
            if done >= budget.bytes || start.elapsed() >= budget.time {
                return Progress::Enough;
            }
            let before = sent.len();
            match open.step(sent, &mut plain, &limits) {
                Ok(0) if sent.is_empty() => return Progress::Done,
                Ok(made) => done += made + before - sent.len(),
                Err(stop) => self.stop(stop),
            }
        }
        *sent = &[];
        Progress::Done
    }

    /// The verdict, if it is known before the end.
    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The verdict, when all bytes have been pushed.
    pub(crate) fn finish(mut self) -> Verdict {
        if let Some(open) = &self.open {
            let end = match open.gunzip.ends_here() {
                _ if !open.is_gzip => Err(Stop::Foreign),
                None => Err(Stop::Foreign),
                Some(false) => Err(Fault::Truncated.into()),
                Some(true) => open.walk.finish(),
            };
            match end {
                Ok(()) => return Verdict::Clean,
                Err(stop) => self.stop(stop),
            }
        }
        self.verdict.unwrap_or(Verdict::Foreign)
    }

    /// The memory that grows with the archive.
    pub(crate) fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.walk.bytes())
    }

    fn stop(&mut self, stop: Stop) {
        let open = self.open.take();
        self.verdict = Some(match stop {
            Stop::Foreign => Verdict::Foreign,
            Stop::Fault(fault) => {
                let entry = open.map_or_else(Vec::new, |open| open.walk.into_latest());
                Verdict::Hostile(Finding { fault, entry })
            }
        });
    }
}

impl Open {
    /// Looks at a slice of what was sent, and says how many bytes came out of it.
    fn step(&mut self, sent: &mut &[u8], plain: &mut [u8], limits: &Limits) -> Result<usize, Stop> {
        let (slice, _) = sent.split_at(sent.len().min(SENT_BYTES));
        let mut left = slice;
        let made = if self.is_gzip {
            self.gunzip.step(&mut left, plain)
        } else {
            left = &[];
            Ok(0)
        };
        let taken = slice.len() - left.len();
        *sent = &sent[taken..];
        self.sent_bytes += taken as u64;
        if let Some(unpacked) = &mut self.unpacked {
            unpacked.push(&slice[..taken])?;
        }
        let made = match made {
            Err(NoGzip::Foreign) => {
                self.is_gzip = false;
                0
            }
            Err(NoGzip::Damaged) => return Err(Fault::Checksum.into()),
            Err(NoGzip::Unusual) => return Err(Fault::Ambiguous.into()),
            Err(NoGzip::Trailing) => return Err(Fault::Trailing.into()),
            Ok(made) => made,
        };
        if !self.is_gzip {
            return Ok(0);
        }
        if self.gunzip.has_begun() {
            self.unpacked = None;
        }
        self.plain_bytes += made as u64;
        self.walk.push(&plain[..made])?;
        let unpacked = self.plain_bytes.saturating_add(self.walk.hole_bytes());
        if unpacked > limits.unpacked_bytes_max {
            return Err(Fault::TooLarge.into());
        }
        let most = self.sent_bytes.saturating_mul(limits.ratio_max);
        if unpacked > limits.bomb_bytes_min && unpacked > most {
            return Err(Fault::Bomb.into());
        }
        if self.sent_bytes > OVERHEAD_BYTES_MAX.saturating_add(2 * self.plain_bytes) {
            return Err(Fault::Overhead.into());
        }
        Ok(made)
    }
}

#[cfg(test)]
mod bypasses;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod sequences;
#[cfg(test)]
mod tests;
