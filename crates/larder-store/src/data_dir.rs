//! The data directory: one process at a time, one format.
//!
//! `LOCK` is locked with `flock` for as long as the process lives, so the lock cannot outlive it.
//! `FORMAT` says in text what the directory is and which format it has.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::format::FORMAT_VERSION;
use crate::pool::OpenError;

const FORMAT_TEXT: &str = "larder data directory, format ";

/// Exclusive ownership of a data directory, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: fs::File,
}

impl DataDir {
    /// Creates the directory if need be, locks it and checks its format.
    pub fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |context: &str, source: io::Error| OpenError::Io {
            context: format!("{context} {}", path.display()),
            source,
        };
        fs::create_dir_all(path).map_err(|error| failed("cannot create", error))?;
        let mut lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("LOCK"))
            .map_err(|error| failed("cannot open the lock file in", error))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who holds it is a help for people; not knowing is no error.
                let _ = lock.read_to_string(&mut holder);
                return Err(OpenError::InUse {
                    path: path.into(),
                    holder: holder.trim().into(),
                });
            }
            Err(error) => return Err(failed("cannot lock", error.into())),
        }
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "process {}", std::process::id()));
        noted.map_err(|error| failed("cannot write the lock file in", error))?;
        check_format(path)?;
        Ok(Self {
            path: path.into(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check_format(path: &Path) -> Result<(), OpenError> {
    let file = path.join("FORMAT");
    let failed = |context: &str, source: io::Error| OpenError::Io {
        context: format!("{context} {}", file.display()),
        source,
    };
    match fs::read_to_string(&file) {
        Ok(text) => {
            let found = text
                .strip_prefix(FORMAT_TEXT)
                .and_then(|version| version.trim().parse().ok())
                .ok_or_else(|| failed("cannot understand", io::ErrorKind::InvalidData.into()))?;
            if found == FORMAT_VERSION {
                return Ok(());
            }
            Err(OpenError::Format {
                path: path.into(),
                found,
                supported: FORMAT_VERSION,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::write(&file, format!("{FORMAT_TEXT}{FORMAT_VERSION}\n"))
                .map_err(|error| failed("cannot write", error))
        }
        Err(error) => Err(failed("cannot read", error)),
    }
}
