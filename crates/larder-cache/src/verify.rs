//! Whether bytes are the blob that their name says.
//!
//! A blob's bytes are hashed, and decoded if they are sent as zstd, once: while they are written, by the thread
//! that writes them. Nothing is visible before [`Verification::finish`] has agreed.

use aws_lc_rs::digest;
use larder_model::{BlobHash, DigestFunction};

use crate::encoding::{DecodeError, Decoder, Encoding, WindowMemory};
use crate::upload::{COLLECTED_BYTES_MAX, PutRefusal};

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

    /// Looks at the next bytes as they were sent, and shows the caller what they are uncompressed.
    pub(crate) fn add(
        &mut self,
        mut sent: &[u8],
        mut show: impl FnMut(&[u8]) -> Result<(), PutRefusal>,
    ) -> Result<(), PutRefusal> {
        let (size, limit) = (self.size, self.limit);
        let Some(decoder) = &mut self.decoder else {
            self.seen += sent.len() as u64;
            self.hasher.update(sent);
            return show(sent);
        };
        let mut plain = Vec::with_capacity(PLAIN_BYTES);
        while !sent.is_empty() || decoder.has_more() {
            plain.clear();
            decoder
                .step(&mut sent, &mut plain)
                .map_err(|error| match (error, size) {
                    (DecodeError::Undecodable, _) => PutRefusal::Undecodable,
                    (DecodeError::NoMemory, _) => PutRefusal::Busy,
                    (DecodeError::TooLong, None) => PutRefusal::TooLarge { limit },
                    (DecodeError::TooLong, Some(declared)) => PutRefusal::SizeMismatch {
                        declared,
                        received: declared.saturating_add(1),
                    },
                })?;
            self.hasher.update(&plain);
            show(&plain)?;
        }
        self.seen = decoder.produced();
        Ok(())
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
