//! Action results and trees, as far as a cache looks into them: which blobs they refer to, and whether they are what
//! they should be.
//!
//! An action result is stored as it was received and handed out as it is stored. It is read in place, field by field,
//! twice in its life: when it is written, to refuse with the name of the field what no client could use, and each time it is
//! asked for, to find the blobs that must still be there. Both is [`References::of`]. Fields that are not known here,
//! of a newer version of the API, are passed over.
//!
//! Numbers are those of `ActionResult`, `OutputFile`, `OutputDirectory`, `OutputSymlink`, `Tree`, `Directory` and
//! `FileNode` of the Remote Execution API, version 2. As protobuf has it, a field that comes twice counts as its last, and
//! a message that comes twice as both merged: whoever decodes the message sees what is seen here.

use larder_model::{BlobHash, Digest, DigestFunction};

use super::fields::{Fields, Malformed, Value};
use crate::paths::{BadPath, BadTarget, check_path, check_target};

/// The most bytes of an action result: some ten thousand outputs. What is stored comes back in one message, and clients take 4 MiB,
/// the default limit of gRPC's libraries, with everything around it.
pub(crate) const ACTION_RESULT_BYTES_MAX: u64 = (4 << 20) - (64 << 10);

/// What is wrong with an action result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("it has more than {ACTION_RESULT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the action result is no protobuf message of its kind")]
    Malformed,
    #[error("{0}: the path is empty")]
    EmptyPath(&'static str),
    #[error("{0}: the path is absolute, and must be relative to the working directory")]
    AbsolutePath(&'static str),
    #[error("{0}: the path is no UTF-8 text")]
    UnreadablePath(&'static str),
    #[error("{0}: the symlink has no target")]
    NoTarget(&'static str),
    #[error("{0}: the digest is missing")]
    NoDigest(&'static str),
    #[error("{0}: the digest's hash is not 64 lower-case hexadecimal digits")]
    BadHash(&'static str),
    #[error("{0}: the digest's size does not belong to its hash")]
    BadSize(&'static str),
}

impl From<Malformed> for Invalid {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// Whether an action result is fit to be stored. [`Invalid`] says to its writer what is wrong with it.
pub(crate) fn check(function: DigestFunction, message: &[u8]) -> Result<(), Invalid> {
    if message.len() as u64 > ACTION_RESULT_BYTES_MAX {
        return Err(Invalid::TooLarge);
    }
    References::of(function, message).map(drop)
}

/// What of an action result no client should make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stray {
    #[error("{0}: the path {1}")]
    Path(&'static str, BadPath),
    #[error("{0}: the symlink {1}")]
    Link(&'static str, BadTarget),
}

impl Stray {
    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Path(_, BadPath::Empty) | Self::Link(_, BadTarget::Empty) => "empty_name",
            Self::Path(_, BadPath::Absolute) => "absolute_path",
            Self::Path(_, BadPath::Parent) => "parent_path",
            Self::Path(_, BadPath::Nul) | Self::Link(_, BadTarget::Nul) => "nul_in_name",
            Self::Link(_, BadTarget::Absolute | BadTarget::Outside) => "link_leaves_root",
        }
    }
}

/// Whether all that a valid action result has a client make stays below the working directory. What symlinks in its trees lead to is not
/// looked at here; names in trees are, whenever the result is asked for.
pub(crate) fn check_paths(message: &[u8]) -> Result<(), Stray> {
    // What is malformed has been found before, or is kept as something that is no action result.
    for field in Fields::of(message).map_while(Result::ok) {
        let (name, is_link, output) = match field {
            (2, Value::Bytes(it)) => ("output_files", false, it),
            (3, Value::Bytes(it)) => ("output_directories", false, it),
            (10, Value::Bytes(it)) => ("output_file_symlinks", true, it),
            (11, Value::Bytes(it)) => ("output_directory_symlinks", true, it),
            (12, Value::Bytes(it)) => ("output_symlinks", true, it),
            _ => continue,
        };
        let (mut path, mut target) = (&b""[..], &b""[..]);
        for field in Fields::of(output).map_while(Result::ok) {
            match field {
                (1, Value::Bytes(bytes)) => path = bytes,
                (2, Value::Bytes(bytes)) => target = bytes,
                _ => {}
            }
        }
        // An output directory can be the working directory itself.
        match check_path(path) {
            Ok(()) | Err(BadPath::Empty) => {}
            Err(why) => return Err(Stray::Path(name, why)),
        }
        if is_link {
            check_target(path, target).map_err(|why| Stray::Link(name, why))?;
        }
    }
    Ok(())
}

/// The blobs that an action result refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// All that it names itself: files whose bytes are not in it, standard output and error, trees and root directories.
    pub(crate) blobs: Vec<Digest>,
    /// Those of them that are trees, and name blobs in turn.
    pub(crate) trees: Vec<Digest>,
    /// Those of them that are root directories. One that has a tree as well is followed like the others: who asks for it
    /// takes the directories below it for granted, and a tree of the same files has none of them.
    pub(crate) roots: Vec<Digest>,
    /// Whether it says anything: an output, a stream or how it was made. An empty message does not.
    pub(crate) says_something: bool,
}

impl References {
    /// The references of a valid action result whose digests are of this function.
    pub(crate) fn of(function: DigestFunction, message: &[u8]) -> Result<Self, Invalid> {
        let mut references = Self::default();
        let (mut stdout, mut stderr) = (SeenDigest::default(), SeenDigest::default());
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(file)) => references.file(function, file)?,
                (3, Value::Bytes(directory)) => references.directory(function, directory)?,
                (10, Value::Bytes(link)) => symlink("output_file_symlinks", link)?,
                (11, Value::Bytes(link)) => symlink("output_directory_symlinks", link)?,
                (12, Value::Bytes(link)) => symlink("output_symlinks", link)?,
                (6, Value::Bytes(digest)) => {
                    stdout.merge(digest)?;
                    continue;
                }
                (8, Value::Bytes(digest)) => {
                    stderr.merge(digest)?;
                    continue;
                }
                (9, Value::Bytes(how)) if !how.is_empty() => {}
                (4 | 5 | 7, _) | (9, Value::Bytes(_)) => continue,
                (2 | 3 | 6 | 8..=12, _) => return Err(Invalid::Malformed),
                _ => continue,
            }
            references.says_something = true;
        }
        for (stream, name) in [(stdout, "stdout_digest"), (stderr, "stderr_digest")] {
            // Some writers send an empty digest for "none".
            if stream.present && stream != SeenDigest::present_but_empty() {
                references.blobs.extend(stream.digest(function, name)?);
                references.says_something = true;
            }
        }
        Ok(references)
    }

    fn file(&mut self, function: DigestFunction, message: &[u8]) -> Result<(), Invalid> {
        const NAME: &str = "output_files";
        let (mut path, mut digest, mut inlined) = (&b""[..], SeenDigest::default(), false);
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(bytes)) => path = bytes,
                (2, Value::Bytes(bytes)) => digest.merge(bytes)?,
                (5, Value::Bytes(contents)) => inlined = !contents.is_empty(),
                (1 | 2 | 5, _) => return Err(Invalid::Malformed),
                _ => {}
            }
        }
        relative(NAME, path)?;
        if path.is_empty() {
            return Err(Invalid::EmptyPath(NAME));
        }
        match digest.digest(function, NAME)? {
            Some(digest) if !inlined => self.blobs.push(digest),
            None if !inlined => return Err(Invalid::NoDigest(NAME)),
            Some(_) | None => {}
        }
        Ok(())
    }

    /// A directory's path can be empty: then it is the working directory.
    fn directory(&mut self, function: DigestFunction, message: &[u8]) -> Result<(), Invalid> {
        const NAME: &str = "output_directories";
        let (mut tree, mut root) = (SeenDigest::default(), SeenDigest::default());
        let mut path = &b""[..];
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(bytes)) => path = bytes,
                (3, Value::Bytes(digest)) => tree.merge(digest)?,
                (5, Value::Bytes(digest)) => root.merge(digest)?,
                (1 | 3 | 5, _) => return Err(Invalid::Malformed),
                _ => {}
            }
        }
        relative(NAME, path)?;
        let tree = tree.digest(function, "output_directories.tree_digest")?;
        let root = root.digest(function, "output_directories.root_directory_digest")?;
        self.blobs.extend(tree.into_iter().chain(root));
        if tree.is_none() && root.is_none() {
            return Err(Invalid::NoDigest(NAME));
        }
        self.trees.extend(tree);
        self.roots.extend(root);
        Ok(())
    }
}

fn symlink(name: &'static str, message: &[u8]) -> Result<(), Invalid> {
    let (mut path, mut target) = (&b""[..], &b""[..]);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => path = bytes,
            (2, Value::Bytes(bytes)) => target = bytes,
            (1 | 2, _) => return Err(Invalid::Malformed),
            _ => {}
        }
    }
    relative(name, path)?;
    if path.is_empty() {
        return Err(Invalid::EmptyPath(name));
    }
    if target.is_empty() {
        return Err(Invalid::NoTarget(name));
    }
    Ok(())
}

fn relative(name: &'static str, path: &[u8]) -> Result<(), Invalid> {
    if path.starts_with(b"/") {
        return Err(Invalid::AbsolutePath(name));
    }
    std::str::from_utf8(path).map_err(|_| Invalid::UnreadablePath(name))?;
    Ok(())
}

/// A digest as it stands in a message, perhaps in several parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SeenDigest<'a> {
    present: bool,
    hash: &'a [u8],
    size: i64,
}

impl<'a> SeenDigest<'a> {
    fn present_but_empty() -> Self {
        Self {
            present: true,
            ..Self::default()
        }
    }

    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        self.present = true;
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(hash)) => self.hash = hash,
                (2, Value::Varint(size)) => self.size = size.cast_signed(),
                (1 | 2, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(())
    }

    fn digest(
        self,
        function: DigestFunction,
        name: &'static str,
    ) -> Result<Option<Digest>, Invalid> {
        if !self.present {
            return Ok(None);
        }
        let hash = BlobHash::from_hex(self.hash).map_err(|_| Invalid::BadHash(name))?;
        let digest = Digest::new(function, hash, self.size).map_err(|_| Invalid::BadSize(name))?;
        Ok(Some(digest))
    }
}

/// What the names in trees may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// What systems with `/` between names take for one: there a file may be called `a\b`.
    #[default]
    Posix,
    /// What every system takes for one.
    Anywhere,
}

/// The blobs that a `Directory` names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) names: Names,
    pub(crate) files: Vec<Digest>,
    pub(crate) directories: Vec<Digest>,
}

impl Listing {
    /// Adds the files and directories of one `Directory` message.
    pub(crate) fn add(
        &mut self,
        function: DigestFunction,
        directory: &[u8],
    ) -> Result<(), Malformed> {
        for field in Fields::of(directory) {
            match field? {
                (1, Value::Bytes(file)) => self.files.push(node(function, file, self.names)?),
                (2, Value::Bytes(child)) => {
                    self.directories.push(node(function, child, self.names)?);
                }
                (3, Value::Bytes(link)) => plain_name(link, self.names)?,
                (1..=3, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The digest of a `FileNode` or `DirectoryNode`: both have it in the same place.
fn node(function: DigestFunction, message: &[u8], names: Names) -> Result<Digest, Malformed> {
    plain_name(message, names)?;
    let mut digest = SeenDigest::default();
    for field in Fields::of(message) {
        match field? {
            (2, Value::Bytes(bytes)) => digest.merge(bytes)?,
            (2, _) => return Err(Malformed),
            _ => {}
        }
    }
    let digest = digest.digest(function, "node").map_err(|_| Malformed)?;
    digest.ok_or(Malformed)
}

/// Whether the name of a node, whatever its kind, is one of a directory's entries and not a path.
fn plain_name(node: &[u8], names: Names) -> Result<(), Malformed> {
    let mut name = &b""[..];
    for field in Fields::of(node) {
        match field? {
            (1, Value::Bytes(bytes)) => name = bytes,
            (1, _) => return Err(Malformed),
            _ => {}
        }
    }
    let is_path = matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/'));
    let is_elsewhere = || {
        let stays = matches!(check_path(name), Ok(()) | Err(BadPath::Empty));
        !stays || name.contains(&b'\\')
    };
    if is_path || (names == Names::Anywhere && is_elsewhere()) {
        Err(Malformed)
    } else {
        Ok(())
    }
}

/// Reads a `Tree` as its bytes come, holding at most one of its directories.
pub(crate) struct TreeScan {
    function: DigestFunction,
    /// The beginning of a field whose end has not come.
    pending: Vec<u8>,
}

impl TreeScan {
    /// The most bytes of one directory in a tree: with a hundred bytes for a file, more files than a file system bears.
    pub(crate) const DIRECTORY_BYTES_MAX: usize = 16 << 20;

    pub(crate) fn new(function: DigestFunction) -> Self {
        Self {
            function,
            pending: Vec::new(),
        }
    }

    /// Adds what `piece` completes to `listing`.
    pub(crate) fn push(&mut self, piece: &[u8], listing: &mut Listing) -> Result<(), Malformed> {
        if self.pending.is_empty() {
            let rest = self.whole_fields(piece, listing)?;
            self.pending.extend_from_slice(rest);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(piece);
            let rest = self.whole_fields(&pending, listing)?.len();
            pending.drain(..pending.len() - rest);
            self.pending = pending;
        }
        if self.pending.len() > Self::DIRECTORY_BYTES_MAX {
            return Err(Malformed);
        }
        Ok(())
    }

    /// The tree's end: nothing may be left over.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.pending.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Reads as many fields as are whole. What is malformed looks like a field that goes on, and is found out at the end.
    fn whole_fields<'a>(
        &self,
        bytes: &'a [u8],
        listing: &mut Listing,
    ) -> Result<&'a [u8], Malformed> {
        let mut fields = Fields::of(bytes);
        loop {
            let rest = fields.rest();
            match fields.next() {
                None | Some(Err(Malformed)) => return Ok(rest),
                Some(Ok((1 | 2, Value::Bytes(directory)))) => {
                    listing.add(self.function, directory)?;
                }
                Some(Ok((1 | 2, _))) => return Err(Malformed),
                Some(Ok(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
