//! Where a bucket is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder`.
//!
//! The address names a place and nothing else: no credentials, no options. It is taken as it is written, nothing is
//! percent-decoded; what could be read in two ways is refused with a sentence that says what to write.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longer prefixes leave too little of the 1,024 bytes that stores give a name.
const PREFIX_BYTES_MAX: usize = 256;

/// The place that objects are kept in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BucketUrl {
    /// Amazon S3, or what speaks its protocol.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What the names of all objects begin with, without `/` at either end; may be empty.
        prefix: String,
    },
    /// Google Cloud Storage.
    Gcs {
        /// The bucket's name.
        bucket: String,
        /// As for S3.
        prefix: String,
    },
    /// Azure Blob Storage. The account is an option.
    Azure {
        /// The container's name.
        container: String,
        /// As for S3.
        prefix: String,
    },
    /// A folder that all nodes share.
    Folder {
        /// Absolute.
        path: PathBuf,
    },
}

/// Why a text is not the address of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketUrlError {
    /// No `://` in it.
    #[error("must begin with s3://, gs://, az:// or file:///")]
    NoScheme,
    /// One that is not known.
    #[error("cannot use {scheme}://: write {}", instead(scheme))]
    UnknownScheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// Something with `@`: a user's name, maybe with a password, so it is not repeated.
    #[error(
        "must not have a user's name or an account before the bucket's; credentials come from the environment"
    )]
    UserName,
    /// Nothing where the bucket's name should be.
    #[error("names no bucket")]
    NoBucket,
    /// A name that no store takes.
    #[error(
        "{name:?} cannot be a bucket's name: 3 to 222 lower-case letters, digits, `-`, `.` and `_`"
    )]
    BucketName {
        /// The name.
        name: String,
    },
    /// `?` or `#`.
    #[error("must end with the bucket or the prefix: options have their own keys")]
    Options,
    /// A prefix that would not be the same name everywhere.
    #[error(
        "{prefix:?} cannot be a prefix: at most {PREFIX_BYTES_MAX} letters, digits, `-`, `_`, `.`, `=` and `/`, no empty part, no `.` or `..`"
    )]
    Prefix {
        /// What follows the bucket.
        prefix: String,
    },
    /// A folder that depends on where the program was started, or on another machine.
    #[error("must name an absolute path after three slashes, as in file:///mnt/share/larder")]
    RelativeFolder,
    /// `%` in the path of a folder.
    #[error("is taken as it is written: write characters as they are and not as %20 or alike")]
    PercentEncoded,
}

fn instead(scheme: &str) -> &'static str {
    match scheme {
        "s3a" | "s3n" => "s3://BUCKET/PREFIX",
        "gcs" => "gs://BUCKET/PREFIX",
        "azure" | "abfs" | "abfss" | "adl" | "wasb" | "wasbs" => {
            "az://CONTAINER/PREFIX, and the account as an option"
        }
        "http" | "https" => {
            "s3://, gs:// or az:// with the bucket's name, and this URL as the endpoint"
        }
        _ => "s3://, gs://, az:// or file:///",
    }
}

impl FromStr for BucketUrl {
    type Err = BucketUrlError;

    fn from_str(text: &str) -> Result<Self, BucketUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(BucketUrlError::NoScheme)?;
        if scheme == "file" {
            return folder(rest);
        }
        if !matches!(scheme, "s3" | "gs" | "az") {
            return Err(BucketUrlError::UnknownScheme {
                scheme: scheme.to_owned(),
            });
        }
        if rest.contains('@') {
            return Err(BucketUrlError::UserName);
        }
        if rest.contains(['?', '#']) {
            return Err(BucketUrlError::Options);
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let name = bucket_name(name)?;
        let prefix = prefix_of(prefix)?;
        Ok(match scheme {
            "s3" => Self::S3 {
                bucket: name,
                prefix,
            },
            "gs" => Self::Gcs {
                bucket: name,
                prefix,
            },
            _ => Self::Azure {
                container: name,
                prefix,
            },
        })
    }
}

impl BucketUrl {
    /// What the names of all objects begin with in the store; empty or without `/` at either end.
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } | Self::Gcs { prefix, .. } | Self::Azure { prefix, .. } => {
                prefix
            }
            Self::Folder { .. } => "",
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, name) = match self {
            Self::S3 { bucket, .. } => ("s3", bucket),
            Self::Gcs { bucket, .. } => ("gs", bucket),
            Self::Azure { container, .. } => ("az", container),
            Self::Folder { path } => return write!(f, "file://{}", path.display()),
        };
        write!(f, "{scheme}://{name}")?;
        match self.prefix() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

fn bucket_name(name: &str) -> Result<String, BucketUrlError> {
    if name.is_empty() {
        return Err(BucketUrlError::NoBucket);
    }
    // 222: the longest that a store takes, a bucket of Google's whose name has dots.
    let fits = (3..=222).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte)
        })
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if fits {
        Ok(name.to_owned())
    } else {
        Err(BucketUrlError::BucketName {
            name: name.to_owned(),
        })
    }
}

fn prefix_of(text: &str) -> Result<String, BucketUrlError> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    if prefix.is_empty() && text.is_empty()
        || super::is_plain_name(prefix) && prefix.len() <= PREFIX_BYTES_MAX
    {
        return Ok(prefix.to_owned());
    }
    if text == "/" || text.is_empty() {
        return Ok(String::new());
    }
    Err(BucketUrlError::Prefix {
        prefix: text.to_owned(),
    })
}

fn folder(rest: &str) -> Result<BucketUrl, BucketUrlError> {
    let path = Path::new(rest);
    let climbs = path
        .components()
        .any(|part| matches!(part, std::path::Component::ParentDir));
    if !path.is_absolute() || climbs || rest.trim_matches('/').is_empty() {
        return Err(BucketUrlError::RelativeFolder);
    }
    if rest.contains('%') {
        return Err(BucketUrlError::PercentEncoded);
    }
    Ok(BucketUrl::Folder {
        path: path.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_back_as_it_was() {
        for text in [
            "s3://builds",
            "s3://builds/larder/eu-west.1",
            "gs://b_u.i-lds/a=b",
            "az://container/p",
            "file:///mnt/share/larder",
        ] {
            let url: BucketUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), text);
        }
        let url: BucketUrl = "s3://builds/larder/".parse().unwrap();
        assert_eq!(url.prefix(), "larder");
        assert_eq!("s3://builds/".parse::<BucketUrl>().unwrap().prefix(), "");
    }

    #[test]
    fn what_could_be_meant_in_two_ways_is_refused_with_its_reason() {
        let refused = |text: &str| text.parse::<BucketUrl>().expect_err(text).to_string();
        for (text, reason) in [
            ("builds", "must begin with"),
            ("s3:/builds", "must begin with"),
            ("s3a://builds", "write s3://BUCKET/PREFIX"),
            (
                "https://builds.s3.amazonaws.com",
                "this URL as the endpoint",
            ),
            ("abfss://c@account.dfs.core.windows.net", "az://CONTAINER"),
            ("S3://builds", "cannot use S3://"),
            ("s3://", "names no bucket"),
            ("s3:///larder", "names no bucket"),
            ("s3://Builds", "cannot be a bucket's name"),
            ("s3://key:secret@builds", "must not have a user's name"),
            ("s3://builds?region=x", "options have their own keys"),
            ("s3://builds//a", "cannot be a prefix"),
            ("s3://builds/a//b", "cannot be a prefix"),
            ("s3://builds/../other", "cannot be a prefix"),
            ("s3://builds/a%2Fb", "cannot be a prefix"),
            ("s3://builds/a b", "cannot be a prefix"),
            ("file://share/larder", "three slashes"),
            ("file://./larder", "three slashes"),
            ("file:///", "three slashes"),
            ("file:///mnt/../etc", "three slashes"),
            ("file:///mnt/my%20share", "as it is written"),
        ] {
            let said = refused(text);
            assert!(said.contains(reason), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
