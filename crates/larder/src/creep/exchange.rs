//! What was asked, what was answered, and what that means.
//!
//! The two protocols say the same few things in different words; from here on only the meaning counts.

use std::fmt::Write as _;

use bytes::Bytes;

/// The random name of an entry. Task hashes of Nx have 64 bits, and so does this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) u64);

impl Key {
    pub(super) fn random() -> Self {
        Self(u64::from_ne_bytes(random_bytes()))
    }
}

/// `N` bytes of the operating system's random numbers.
pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

/// The SHA-256 of `bytes`, in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hex(digest.as_ref())
}

/// Two characters for each byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}

/// How a request to store something was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// As done. Whether it is, only reading tells.
    Accepted,
    /// There is such an entry already.
    Exists,
    Refused(Refusal),
}

/// How a request to read something was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loaded {
    Bytes(Bytes),
    Nothing,
    Refused(Refusal),
}

/// Why there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credential is none that the server knows.
    Unauthenticated,
    /// It may not do this, or the request is not one that the server takes.
    Forbidden,
}

/// An answer that means neither yes nor no: overload, a defect, no answer at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unclear(pub(super) String);

/// A request and its answer in words, and what the answer means.
#[derive(Debug, Clone)]
pub(super) struct Exchange<T> {
    /// `PUT /v1/cache/123`.
    pub(super) asked: String,
    /// `200`, `NOT_FOUND`, or why there is no answer.
    pub(super) answered: String,
    pub(super) meaning: Result<T, Unclear>,
}

impl<T> Exchange<T> {
    pub(super) fn new(asked: String, answered: String, meaning: Result<T, Unclear>) -> Self {
        Self {
            asked,
            answered,
            meaning,
        }
    }

    /// The same, with what was asked about.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.asked = format!("{} of {what}", self.asked);
        self
    }

    pub(super) fn read<U>(self, read: impl FnOnce(T) -> Result<U, Unclear>) -> Exchange<U> {
        Exchange {
            asked: self.asked,
            answered: self.answered,
            meaning: self.meaning.and_then(read),
        }
    }
}
