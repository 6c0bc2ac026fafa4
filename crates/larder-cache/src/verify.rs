//! Whether bytes are the blob that their name says.
//!
//! A blob's bytes are hashed, and decoded if they are sent as zstd, once: while they are written, by the thread
//! that writes them. Nothing is visible before [`Verification::finish`] has agreed.

use std::time::Duration;

use aws_lc_rs::digest;
use larder_model::{BlobHash, DigestFunction};

use crate::encoding::{DecodeError, Decoder, Encoding};
use crate::trips::{Pause, TRIP_BYTES_MAX, Trip};
use crate::upload::{COLLECTED_BYTES_MAX, PutRefusal};
use crate::windows::WindowMemory;

/// What comes out of a decoder at once, to be hashed while it is in the processor's cache.
const PLAIN_BYTES: usize = 128 << 10;

enum Hasher {
    Sha256(digest::Context),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    fn new(function: DigestFunction) -> Self {
        match function {
            DigestFunction::Sha256 => Self::Sha256(digest::Context::new(&digest::SHA256)),
            DigestFunction::Blake3 => Self::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(context) => context.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    fn finish(self) -> BlobHash {
        let mut hash = [0; BlobHash::BYTES];
        match self {
            Self::Sha256(context) => hash.copy_from_slice(context.finish().as_ref()),
            Self::Blake3(hasher) => hash = *hasher.finalize().as_bytes(),
        }
        BlobHash(hash)
    }
}

/// A blob that is being looked at as it comes in.
pub(crate) struct Verification {
    hasher: Hasher,
    expected: BlobHash,
    /// The blob's size, if its name says it.
    size: Option<u64>,
    /// The most bytes of a blob, where its size is not known.
    limit: u64,
    seen: u64,
    decoder: Option<Box<Decoder>>,
}

impl Verification {
    pub(crate) fn new(
        function: DigestFunction,
        expected: BlobHash,
        size: Option<u64>,
        limit: u64,
        encoding: Encoding,
        windows: impl FnOnce() -> WindowMemory,
    ) -> Self {
        let decoder = match encoding {
            Encoding::Identity => None,
            Encoding::Zstd => {
                let most = size.unwrap_or(limit);
                Some(Box::new(Decoder::new(most, windows())))
            }
        };
        Self {
            hasher: Hasher::new(function),
            expected,
            size,
            limit,
            seen: 0,
            decoder,
        }
    }

    /// Looks at the next bytes as they were sent, and shows the caller what they are uncompressed. What has been
    /// looked at is taken off the front; after a pause the rest comes again, even if it is empty.
    pub(crate) fn add(
        &mut self,
        sent: &mut &[u8],
        trip: &mut Trip,
        mut show: impl FnMut(&[u8]) -> Result<(), PutRefusal>,
    ) -> Result<Pause, PutRefusal> {
        let (size, limit) = (self.size, self.limit);
        let Some(decoder) = &mut self.decoder else {
            let bytes = std::mem::take(sent);
            self.seen += bytes.len() as u64;
            trip.produced += bytes.len();
            self.hasher.update(bytes);
            return show(bytes).map(|()| Pause::Done);
        };
        let plain = &mut trip.plain;
        if plain.capacity() == 0 {
            // A byte more than is allowed shows that there are more.
            let most = decoder.most().saturating_add(1);
            plain.reserve_exact(most.min(PLAIN_BYTES as u64) as usize);
        }
        while !sent.is_empty() || decoder.has_more() {
            if trip.produced >= TRIP_BYTES_MAX {
                return Ok(Pause::Enough);
            }
            plain.clear();
            match (decoder.step(sent, plain), size) {
                (Ok(()), _) => {}
                (Err(DecodeError::NoMemory), _) => return Ok(Pause::Memory),
                (Err(DecodeError::Undecodable), _) => return Err(PutRefusal::Undecodable),
                (Err(DecodeError::TooLong), None) => return Err(PutRefusal::TooLarge { limit }),
                (Err(DecodeError::TooLong), Some(declared)) => {
                    return Err(PutRefusal::SizeMismatch {
                        declared,
                        received: declared.saturating_add(1),
                    });
                }
            }
            trip.produced += plain.len();
            self.seen = decoder.produced();
            self.hasher.update(plain);
            show(plain)?;
        }
        Ok(Pause::Done)
    }

    /// After [`Pause::Memory`]: waits at most `wait_max` for what was missing. False: there was none.
    pub(crate) async fn wait_for_memory(&mut self, wait_max: Duration) -> bool {
        match &mut self.decoder {
            Some(decoder) => decoder.wait_for_memory(wait_max).await,
            None => true,
        }
    }

    /// The blob's size, if its name says it.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether this is too much work for an async thread.
    pub(crate) fn is_heavy(&self) -> bool {
        self.size.is_none_or(|size| size > COLLECTED_BYTES_MAX)
    }

    /// How many bytes of the blob have been seen, uncompressed.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// The blob's size, if the bytes that were seen are the blob.
    pub(crate) fn finish(self) -> Result<u64, PutRefusal> {
        if self.decoder.is_some_and(|decoder| !decoder.is_complete()) {
            return Err(PutRefusal::Undecodable);
        }
        let received = self.seen;
        if let Some(declared) = self.size.filter(|size| *size != received) {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        let (expected, found) = (self.expected, self.hasher.finish());
        if found == expected {
            Ok(received)
        } else {
            Err(PutRefusal::DigestMismatch { expected, found })
        }
    }
}
