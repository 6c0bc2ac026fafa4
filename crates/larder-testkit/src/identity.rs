//! The files that a server or a client shows itself by.
//!
//! Apart from the module `tls`, which makes them, so that a server can be told of such files by those who need no TLS themselves.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, and nothing else.
    pub certificate: PathBuf,
    /// The key, readable by its owner.
    pub key: PathBuf,
    /// What its authority calls it; of no use to any other.
    #[cfg(feature = "tls")]
    pub(crate) serial: u64,
}

impl Identity {
    /// One of files that somebody else made.
    pub fn of_files(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            #[cfg(feature = "tls")]
            serial: 0,
        }
    }

    /// Puts this one in the place of `other`'s files, as a renewal does.
    pub fn replace(&self, other: &Self) -> Result<()> {
        for (from, to) in [
            (&self.certificate, &other.certificate),
            (&self.key, &other.key),
        ] {
            let beside = to.with_extension("new");
            fs::copy(from, &beside)?;
            fs::rename(beside, to)?;
        }
        Ok(())
    }
}
