//! The door to the disk: everything the engine does to files goes through [`Disk`] and [`File`].
//!
//! Two implementations exist: [`RealDisk`], and the simulated disk of the tests, which loses
//! unsynced writes, tears, flips bits and fills up on command. The contract is the weak one that
//! real disks keep: a write is durable only after [`File::sync`], a name only after
//! [`Disk::sync_dir`], and unsynced writes may survive a power cut in any order and in part.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// Whether a read may wait for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Only what is in the page cache; otherwise the read fails with [`io::ErrorKind::WouldBlock`].
    Never,
    /// Read from the device if need be.
    Allowed,
}

/// The most parts of one [`File::write_at`]: header, key, metadata, body, table and padding.
pub const WRITE_PARTS_MAX: usize = 6;

/// Where files live. Paths are absolute or relative to the process's directory.
pub trait Disk: Send + Sync {
    /// Creates a directory and its parents; fine if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist yet, open for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Removes a file; open handles keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, removals and renames in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process may still allocate on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. All methods may be called from many threads at once.
pub trait File: Send + Sync {
    /// Reads at `offset`; may return fewer bytes than asked for, 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize>;
    /// Writes all parts, at most [`WRITE_PARTS_MAX`], one behind the other, from `offset` on.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Allocates disk space up to `bytes`, extending the file with zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Where the next written bytes at or behind `offset` are, at the latest; `None` if only unwritten space follows.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Makes the bytes written so far durable.
    fn sync(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn bytes(&self) -> io::Result<u64>;
}

/// Fills `buffer` from `offset` on, or fails: with [`io::ErrorKind::UnexpectedEof`] where the file ends first.
pub(crate) fn read_exact_at(
    file: &dyn File,
    mut buffer: &mut [u8],
    mut offset: u64,
    wait: Wait,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset, wait)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?
            .filter_map(|entry| match entry {
                Ok(entry) => entry.file_name().into_string().ok().map(Ok),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize> {
        if wait == Wait::Never {
            let mut parts = [IoSliceMut::new(buffer)];
            match rustix::io::preadv2(&self.0, &mut parts, offset, ReadWriteFlags::NOWAIT) {
                // The file system cannot tell, so any read may have to wait.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                result => return Ok(result?),
            }
        }
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); WRITE_PARTS_MAX];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut rest = &mut slices[..parts.len()];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.0, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    IoSlice::advance_slices(&mut rest, count);
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // Without fallocate the space cannot be promised, but the file works.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(bytes),
            result => Ok(result?),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => Ok(None),
            // A file system without holes has data everywhere.
            Err(_) => Ok(Some(offset)),
            Ok(data) => Ok(Some(data)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
