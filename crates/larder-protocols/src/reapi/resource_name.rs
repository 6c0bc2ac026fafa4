//! Resource names of `google.bytestream.ByteStream`.
//!
//! ```text
//! {instance/}blobs/{function/}{hash}/{size}
//! {instance/}compressed-blobs/{compressor}/{function/}{hash}/{size}
//! {instance/}uploads/{uuid}/blobs/{function/}{hash}/{size}{/anything}
//! {instance/}uploads/{uuid}/compressed-blobs/{compressor}/{function/}{hash}/{size}{/anything}
//! ```
//!
//! Hash and size are those of the uncompressed blob. The function is said for BLAKE3 and tolerated for SHA-256. The UUID is
//! read over: clients share one among uploads of different blobs, so it names nothing.

use larder_cache::Encoding;
use larder_model::{BlobHash, Digest, DigestError, DigestFunction};

use crate::instance::{Instance, InstanceError};

/// The most bytes of a resource name: an instance name, the longest form, and room for the optional part behind it.
pub(super) const NAME_BYTES_MAX: usize = 2 << 10;

/// A blob and how its bytes travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResourceName {
    pub instance: Instance,
    pub digest: Digest,
    pub encoding: Encoding,
}

/// Why a text names no blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResourceNameError {
    #[error(
        "it has none of the forms that the Remote Execution API gives to reads: [INSTANCE/]blobs/HASH/SIZE"
    )]
    NoReadForm,
    #[error(
        "it has none of the forms that the Remote Execution API gives to writes: \
         [INSTANCE/]uploads/UUID/blobs/HASH/SIZE"
    )]
    NoWriteForm,
    #[error("a resource name has at most {NAME_BYTES_MAX} bytes")]
    TooLong,
    #[error("zstd is the only compressor here")]
    Compressor,
    #[error("blobs are named by SHA-256 or BLAKE3 here")]
    Function,
    #[error("{0}")]
    Digest(DigestError),
    #[error("{0}")]
    Instance(InstanceError),
}

impl ResourceName {
    /// Reads the name of a blob to read.
    pub(super) fn of_read(name: &str) -> Result<Self, ResourceNameError> {
        let no_form = ResourceNameError::NoReadForm;
        let blob = |segment: &str| matches!(segment, "blobs" | "compressed-blobs");
        let (instance, keyword, rest) = split_at(name, blob).ok_or(no_form)?;
        let (name, end) = read_blob(instance, keyword, rest, no_form)?;
        if end.is_some() {
            return Err(no_form);
        }
        Ok(name)
    }

    /// Reads the name of an upload.
    pub(super) fn of_write(name: &str) -> Result<Self, ResourceNameError> {
        let no_form = ResourceNameError::NoWriteForm;
        let (instance, _, rest) = split_at(name, |segment| segment == "uploads").ok_or(no_form)?;
        let (uuid, rest) = rest.split_once('/').ok_or(no_form)?;
        let (keyword, rest) = rest.split_once('/').ok_or(no_form)?;
        if uuid.is_empty() {
            return Err(no_form);
        }
        Ok(read_blob(instance, keyword, rest, no_form)?.0)
    }
}

/// Splits a name at its first segment of this kind, which no instance name may contain.
fn split_at(name: &str, keyword: impl Fn(&str) -> bool) -> Option<(&str, &str, &str)> {
    let mut start = 0;
    for segment in name.split('/') {
        let end = start + segment.len();
        if keyword(segment) {
            let rest = name.get(end + 1..)?;
            return Some((&name[..start], segment, rest));
        }
        start = end + 1;
    }
    None
}

/// Reads `{compressor/}{function/}{hash}/{size}`; the second of the pair is what stands behind.
fn read_blob<'n>(
    instance: &str,
    keyword: &str,
    rest: &'n str,
    no_form: ResourceNameError,
) -> Result<(ResourceName, Option<&'n str>), ResourceNameError> {
    if instance.len() + rest.len() > NAME_BYTES_MAX {
        return Err(ResourceNameError::TooLong);
    }
    let (encoding, rest) = match keyword {
        "blobs" => (Encoding::Identity, rest),
        "compressed-blobs" => match rest.split_once('/').ok_or(no_form)? {
            ("zstd", rest) => (Encoding::Zstd, rest),
            _ => return Err(ResourceNameError::Compressor),
        },
        _ => return Err(no_form),
    };
    let (first, behind) = rest.split_once('/').ok_or(no_form)?;
    let (function, rest) = match first {
        "sha256" => (DigestFunction::Sha256, behind),
        "blake3" => (DigestFunction::Blake3, behind),
        "sha256tree" | "gitsha1" | "sha1" | "md5" | "vso" | "sha384" | "sha512" | "murmur3" => {
            return Err(ResourceNameError::Function);
        }
        _ => (DigestFunction::Sha256, rest),
    };
    let (hash, rest) = rest.split_once('/').ok_or(no_form)?;
    let (size, end) = rest
        .split_once('/')
        .map_or((rest, None), |(size, end)| (size, Some(end)));
    let hash = BlobHash::from_hex(hash.as_bytes()).map_err(ResourceNameError::Digest)?;
    let size = decimal(size).ok_or(ResourceNameError::Digest(DigestError::Size))?;
    let name = ResourceName {
        instance: Instance::parse(instance.as_bytes()).map_err(ResourceNameError::Instance)?,
        digest: Digest::new(function, hash, size).map_err(ResourceNameError::Digest)?,
        encoding,
    };
    Ok((name, end))
}

/// Digits alone: `parse` would take a sign.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::NameError;
    use proptest::prelude::*;

    const HASH: &str = "b1582e1c1d1c1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(
        instance: &str,
        function: DigestFunction,
        size: i64,
        encoding: Encoding,
    ) -> ResourceName {
        let hash = BlobHash::from_hex(HASH.as_bytes()).unwrap();
        ResourceName {
            instance: Instance::parse(instance.as_bytes()).unwrap(),
            digest: Digest::new(function, hash, size).unwrap(),
            encoding,
        }
    }

    /// Checks a form as a read and, behind `uploads/UUID/`, as a write.
    fn check(instance: &str, form: &str, expected: &ResourceName) {
        let form = form.replace("HASH", HASH);
        for prefix in [instance.to_owned(), format!("/{instance}")] {
            let read = format!("{prefix}{form}");
            assert_eq!(
                ResourceName::of_read(&read).as_ref(),
                Ok(expected),
                "{read}"
            );
            for end in ["", "/", "/a/b.txt", "/blobs/x/1", "/uploads"] {
                let write = format!("{prefix}uploads/a-uuid/{form}{end}");
                assert_eq!(
                    ResourceName::of_write(&write).as_ref(),
                    Ok(expected),
                    "{write}"
                );
            }
        }
    }

    #[test]
    fn every_form_is_read() {
        use DigestFunction::{Blake3, Sha256};
        use Encoding::{Identity, Zstd};
        for instance in ["", "main/", "acme/web/", "w/acme/x/scope/pr/"] {
            let plain = |function, encoding| name(instance, function, 5, encoding);
            check(instance, "blobs/HASH/5", &plain(Sha256, Identity));
            check(instance, "blobs/sha256/HASH/5", &plain(Sha256, Identity));
            check(instance, "blobs/blake3/HASH/5", &plain(Blake3, Identity));
            check(
                instance,
                "compressed-blobs/zstd/HASH/5",
                &plain(Sha256, Zstd),
            );
            let blake3 = "compressed-blobs/zstd/blake3/HASH/5";
            check(instance, blake3, &plain(Blake3, Zstd));
        }
        let empty = format!("blobs/{EMPTY}/0");
        assert!(ResourceName::of_read(&empty).unwrap().digest.is_empty());
    }

    fn refused(name: &str, expected: ResourceNameError) {
        let name = name.replace("HASH", HASH);
        assert_eq!(ResourceName::of_read(&name), Err(expected), "{name}");
    }

    #[test]
    fn what_names_no_blob_says_why() {
        use ResourceNameError as E;
        for name in [
            "",
            "/",
            "blobs",
            "blobs/",
            "blobs/HASH",
            "main/HASH/5",
            "blobs/HASH/5/name",
            "compressed-blobs/zstd",
            "compressed-blobs/zstd/HASH",
            "Blobs/HASH/5",
        ] {
            refused(name, E::NoReadForm);
        }
        for compressor in ["identity", "deflate", "brotli", "ZSTD", "HASH"] {
            refused(
                &format!("compressed-blobs/{compressor}/HASH/5"),
                E::Compressor,
            );
        }
        for function in ["sha1", "md5", "sha256tree", "gitsha1", "sha512"] {
            refused(&format!("blobs/{function}/HASH/5"), E::Function);
        }
        for size in ["", "-5", "+5", "5x", "99999999999999999999", "0"] {
            refused(&format!("blobs/HASH/{size}"), E::Digest(DigestError::Size));
        }
        refused("blobs/HASHa/5", E::Digest(DigestError::Hash));
        refused("blobs//HASH/5", E::Digest(DigestError::Hash));
        refused(&format!("blobs/{EMPTY}/1"), E::Digest(DigestError::Size));
        refused("a/scope/blobs/HASH/5", E::Instance(InstanceError::Scope));
        refused(
            "w/X/blobs/HASH/5",
            E::Instance(InstanceError::Workspace(NameError::Character {
                allowed: "a-z, 0-9, '.', '_' and '-'",
            })),
        );
        refused(&format!("{}/blobs/HASH/5", "n".repeat(2048)), E::TooLong);
        for name in [
            "blobs/HASH/5",
            "uploads/u/HASH/5",
            "uploads//blobs/HASH/5",
            "uploads/u",
        ] {
            let name = name.replace("HASH", HASH);
            assert_eq!(ResourceName::of_write(&name), Err(E::NoWriteForm), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in "(/|w/|scope/|blobs/|compressed-blobs/|uploads/|zstd/|blake3/|[0-9a-f]{64}/|[0-9]|\\PC){0,12}",
        ) {
            let _ = ResourceName::of_read(&text);
            let _ = ResourceName::of_write(&text);
        }
    }
}
