//! What is stored and must come back: bytes that a seed and a number determine, cheap to make and to compare.
//!
//! An entry is a stretch of one random megabyte, repeated, and an end of 64 bytes that belongs to this entry alone. So the client
//! sends slices without copying, compares with `memcmp`, and knows the SHA-256 of a new large entry after hashing its end. Nothing
//! of it compresses, but for the repetition of a megabyte, which is beyond what compressors at a cache's levels look back.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

use crate::target::Protocol;

/// Larger than a processor's first caches, smaller than its last.
const SEA_BYTES: usize = 1 << 20;

/// What no other entry has.
const END_BYTES: usize = 64;

/// How many sizes the unfinished hashes are kept of; a build's thousands of sizes come once each.
const HASHES_COUNT_MAX: usize = 64;

/// The contents of a run.
pub(crate) struct Content {
    seed: u64,
    sea: Bytes,
    /// Hashes of everything but the end, by size.
    hashes: Mutex<HashMap<u64, Context>>,
    ids: AtomicU64,
}

/// An entry: what its content comes from, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) id: u64,
    pub(crate) size: u64,
    /// A number in decimal for Nx, which means nothing; else the SHA-256 in hexadecimal.
    pub(crate) name: String,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut sea = Vec::with_capacity(SEA_BYTES);
        while sea.len() < SEA_BYTES {
            sea.extend_from_slice(&random.next().to_le_bytes());
        }
        Self {
            seed,
            sea: sea.into(),
            hashes: Mutex::default(),
            ids: AtomicU64::new(1),
        }
    }

    /// An entry that this run has not had, called as `protocol` wants it.
    pub(crate) fn new_blob(&self, protocol: Protocol, size: u64) -> Blob {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        match protocol {
            Protocol::Nx | Protocol::Files => self.numbered(id, size),
            Protocol::Reapi | Protocol::ReapiHttp => self.hashed(id, size),
        }
    }

    /// The entry of this number under its SHA-256.
    pub(crate) fn hashed(&self, id: u64, size: u64) -> Blob {
        let mut hash = self.hash_of_start(size);
        hash.update(&self.end(id, size));
        Blob {
            id,
            size,
            name: hex(hash.finish().as_ref()),
        }
    }

    /// The entry of this number under a name that does not depend on its bytes.
    pub(crate) fn numbered(&self, id: u64, size: u64) -> Blob {
        Blob {
            id,
            size,
            name: Random::new(self.seed ^ mixed(id)).next().to_string(),
        }
    }

    /// All of it, in order.
    pub(crate) fn pieces(&self, blob: &Blob) -> Vec<Bytes> {
        let mut left = start_bytes(blob.size);
        let mut pieces = Vec::with_capacity(left / SEA_BYTES + 2);
        while left > 0 {
            let piece = self.sea.slice(..left.min(SEA_BYTES));
            left -= piece.len();
            pieces.push(piece);
        }
        pieces.push(self.end(blob.id, blob.size).into());
        pieces
    }

    /// Whether `chunk` is what stands at `at` of an entry.
    pub(crate) fn is_right(&self, blob: &Blob, at: u64, mut chunk: &[u8]) -> bool {
        let Some(end) = at.checked_add(chunk.len() as u64) else {
            return false;
        };
        if end > blob.size {
            return false;
        }
        let (start, mut at) = (start_bytes(blob.size), at as usize);
        while at < start && !chunk.is_empty() {
            let offset = at % SEA_BYTES;
            let length = chunk.len().min(SEA_BYTES - offset).min(start - at);
            let (now, later) = chunk.split_at(length);
            if now != &self.sea[offset..offset + length] {
                return false;
            }
            (at, chunk) = (at + length, later);
        }
        chunk.is_empty() || self.end(blob.id, blob.size)[at - start..].starts_with(chunk)
    }

    fn end(&self, id: u64, size: u64) -> Vec<u8> {
        let mut random = Random::new(self.seed ^ mixed(id) ^ size.rotate_left(32));
        let mut end = Vec::with_capacity(END_BYTES);
        while end.len() < END_BYTES {
            end.extend_from_slice(&random.next().to_le_bytes());
        }
        end.truncate(size.min(END_BYTES as u64) as usize);
        end
    }

    fn hash_of_start(&self, size: u64) -> Context {
        let known = |hashes: &HashMap<u64, Context>| hashes.get(&size).cloned();
        let hashes = || self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = known(&hashes()) {
            return hash;
        }
        let mut hash = Context::new(&SHA256);
        let mut left = start_bytes(size);
        while left > 0 {
            let length = left.min(SEA_BYTES);
            hash.update(&self.sea[..length]);
            left -= length;
        }
        let mut hashes = hashes();
        if hashes.len() < HASHES_COUNT_MAX {
            hashes.insert(size, hash.clone());
        }
        hash
    }
}

/// How much of an entry is not its own.
fn start_bytes(size: u64) -> usize {
    (size as usize).saturating_sub(END_BYTES)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    text
}

/// SplitMix64: one number after the other from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }

    /// Below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The output function of SplitMix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 8] = [0, 1, 63, 64, 65, 4096, 1 << 20, (3 << 20) + 77];

    fn whole(content: &Content, blob: &Blob) -> Vec<u8> {
        content.pieces(blob).concat()
    }

    #[test]
    fn an_entry_is_right_however_it_is_cut() {
        let content = Content::new(7);
        for size in SIZES {
            let blob = content.numbered(1, size);
            let bytes = whole(&content, &blob);
            assert_eq!(bytes.len() as u64, size);
            for step in [1 << 20, 65_537, 4096, 1000] {
                for (number, chunk) in bytes.chunks(step).enumerate() {
                    assert!(content.is_right(&blob, (number * step) as u64, chunk));
                }
            }
        }
    }

    #[test]
    fn one_wrong_bit_or_one_byte_too_many_is_seen_wherever_it_is() {
        let content = Content::new(7);
        for size in [1, 64, 65, 4096, (1 << 20) + 100] {
            let blob = content.numbered(1, size);
            let mut bytes = whole(&content, &blob);
            for at in [0, size / 3, size / 2, size - 1] {
                bytes[at as usize] ^= 1;
                assert!(!content.is_right(&blob, 0, &bytes), "{at} of {size}");
                bytes[at as usize] ^= 1;
            }
            bytes.push(0);
            assert!(!content.is_right(&blob, 0, &bytes));
            assert!(!content.is_right(&blob, u64::MAX, &bytes));
        }
    }

    #[test]
    fn a_name_is_the_hash_of_the_bytes_and_of_no_others() {
        let content = Content::new(7);
        for size in SIZES {
            let (one, two) = (content.hashed(1, size), content.hashed(2, size));
            let hash = aws_lc_rs::digest::digest(&SHA256, &whole(&content, &one));
            assert_eq!(one.name, hex(hash.as_ref()));
            assert!(size < 2 || one.name != two.name);
            assert!(size < 2 || !content.is_right(&two, 0, &whole(&content, &one)));
        }
    }

    #[test]
    fn another_seed_is_another_run() {
        let (one, two) = (Content::new(1), Content::new(2));
        assert_ne!(one.numbered(1, 9).name, two.numbered(1, 9).name);
        assert_ne!(one.hashed(1, 4096).name, two.hashed(1, 4096).name);
        assert_eq!(one.hashed(1, 4096), Content::new(1).hashed(1, 4096));
    }
}
