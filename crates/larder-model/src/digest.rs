//! Digests: the names of content-addressed blobs.
//!
//! A [`Digest`] is made once, at the door, and cannot hold what could never be the digest of anything: a hash of the
//! wrong length or case, or size zero with a hash that is not the empty blob's. That the bytes behind it really have
//! this hash and size is the cache's business, which looks before an entry exists.
//!
//! The names and numbers of the functions are those of `DigestFunction.Value` of the Remote Execution API, version 2.

use std::fmt;

/// A hash function that blobs are named by. Each has a key space of its own: a SHA-256 and a BLAKE3 of the same length are not
/// the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// SHA-256, FIPS 180-4.
    Sha256,
    /// BLAKE3 with 32 bytes of output.
    Blake3,
}

impl DigestFunction {
    /// Every function, for capabilities and tables.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// The function's name in resource names, lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// The hash of no bytes.
    pub fn empty_hash(self) -> BlobHash {
        let hex = match self {
            Self::Sha256 => "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            Self::Blake3 => "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        };
        BlobHash::from_hex(hex.as_bytes()).expect("64 digits")
    }
}

/// Why bytes are no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The hash is not 64 lower-case hexadecimal digits.
    #[error("a hash has {} lower-case hexadecimal digits", 2 * BlobHash::BYTES)]
    Hash,
    /// The size is negative, or zero for a hash that is not the empty blob's, or the reverse.
    #[error("the size does not belong to the hash")]
    Size,
}

/// The 32 bytes of a hash, whatever function made them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobHash(pub [u8; Self::BYTES]);

impl BlobHash {
    /// The bytes of a hash.
    pub const BYTES: usize = 32;

    /// Reads 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Result<Self, DigestError> {
        let mut hash = [0; Self::BYTES];
        if text.len() != 2 * Self::BYTES {
            return Err(DigestError::Hash);
        }
        // Without a branch per digit: this runs ten thousand times per FindMissingBlobs.
        let mut wrong = 0;
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            let (high, low) = (HEX[usize::from(pair[0])], HEX[usize::from(pair[1])]);
            wrong |= high | low;
            *byte = high << 4 | (low & 0xf);
        }
        if wrong & 0xf0 == 0 {
            Ok(Self(hash))
        } else {
            Err(DigestError::Hash)
        }
    }

    /// The hash as 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> [u8; 2 * Self::BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 2 * Self::BYTES];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        text
    }
}

/// The value of each lower-case hexadecimal digit; 0xf0 for what is none.
const HEX: [u8; 256] = {
    let mut table = [0xf0; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("digits"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHash({self})")
    }
}

/// The name of a blob: the function, its hash and the number of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    function: DigestFunction,
    hash: BlobHash,
    size: u64,
}

impl Digest {
    /// The digest of the blob of `size` bytes that `function` gives this hash.
    pub fn new(function: DigestFunction, hash: BlobHash, size: i64) -> Result<Self, DigestError> {
        let size = u64::try_from(size).map_err(|_| DigestError::Size)?;
        if (size == 0) != (hash == function.empty_hash()) {
            return Err(DigestError::Size);
        }
        Ok(Self {
            function,
            hash,
            size,
        })
    }

    /// Whose hash it is.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The hash.
    pub fn hash(&self) -> BlobHash {
        self.hash
    }

    /// The bytes of the blob, uncompressed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether this is the blob of no bytes, which exists everywhere and is stored nowhere.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }
}

/// `HASH/SIZE`, as resource names have it.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_hash_reads_back_from_its_digits(bytes in any::<[u8; 32]>()) {
            let hash = BlobHash(bytes);
            let hex = hash.to_hex();
            prop_assert_eq!(BlobHash::from_hex(&hex), Ok(hash));
            prop_assert_eq!(hash.to_string().into_bytes(), &hex[..]);
        }

        #[test]
        fn one_byte_that_is_no_lower_case_digit_spoils_a_hash(
            bytes in any::<[u8; 32]>(),
            at in 0..64_usize,
            byte in any::<u8>(),
        ) {
            let mut hex = BlobHash(bytes).to_hex();
            hex[at] = byte;
            let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            prop_assert_eq!(BlobHash::from_hex(&hex).is_ok(), is_digit);
        }

        #[test]
        fn only_sixty_four_digits_are_a_hash(digits in "[0-9a-f]{0,130}") {
            let hash = BlobHash::from_hex(digits.as_bytes());
            prop_assert_eq!(hash.is_ok(), digits.len() == 64);
        }

        #[test]
        fn a_digest_says_what_it_was_made_of(
            bytes in any::<[u8; 32]>(),
            size in any::<i64>(),
            function in prop_oneof![Just(DigestFunction::Sha256), Just(DigestFunction::Blake3)],
        ) {
            let hash = BlobHash(bytes);
            let digest = Digest::new(function, hash, size);
            prop_assert_eq!(digest.is_ok(), size > 0);
            if let Ok(digest) = digest {
                let parts = (digest.function(), digest.hash(), digest.size());
                prop_assert_eq!(parts, (function, hash, size.unsigned_abs()));
                prop_assert_eq!(digest.to_string(), format!("{hash}/{size}"));
            }
        }
    }

    #[test]
    fn a_hash_has_sixty_four_lower_case_digits_and_reads_back() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hash = BlobHash::from_hex(hex.as_bytes()).unwrap();
        assert_eq!(hash.to_string(), hex);
        assert_eq!((hash.0[0], hash.0[31]), (0xe3, 0x55));
        for bad in [
            "",
            &hex[1..],
            &format!("{hex}0"),
            &hex.to_uppercase(),
            &hex.replace("e3", "g3"),
            &hex.replace("e3", "3/"),
        ] {
            assert_eq!(BlobHash::from_hex(bad.as_bytes()), Err(DigestError::Hash));
        }
    }

    #[test]
    fn size_zero_belongs_to_the_empty_blob_alone() {
        for function in DigestFunction::ALL {
            let (empty, other) = (function.empty_hash(), BlobHash([7; 32]));
            assert!(Digest::new(function, empty, 0).unwrap().is_empty());
            assert_eq!(Digest::new(function, empty, 1), Err(DigestError::Size));
            assert_eq!(Digest::new(function, other, 0), Err(DigestError::Size));
            assert_eq!(Digest::new(function, other, -1), Err(DigestError::Size));
            assert_eq!(Digest::new(function, other, 5).unwrap().size(), 5);
        }
    }
}
