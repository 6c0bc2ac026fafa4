//! Actions that do not always do the same: a result takes the place of one with other outputs.
//!
//! Clients store results again for many reasons, and most say the same. What is compared is what an action is for: paths,
//! digests, targets, the exit code, what it printed. How it was run, when and where is passed over, and so is the form in
//! which a client chose to send outputs: what only one of the two says, such as standard output in the message itself, is
//! no difference.
//!
//! It must cost an update next to nothing. Most results have no older one. Where there is one in memory, of at most
//! 64 KiB, most are the same bytes; else both are read once. Whatever cannot be read is no difference.

use larder_cache::Replaced;
use larder_ledger::Rewrite;
use larder_model::{BlobHash, WriteGrant};

use super::fields::{Fields, Malformed, Value};
use crate::gateway::Gateway;

/// Notes that `result`, which has been stored, took the place of one with other outputs, if it did.
pub(crate) fn note(
    gateway: &Gateway,
    grant: &WriteGrant,
    action: BlobHash,
    replaced: Option<Replaced>,
    result: &[u8],
) {
    let Some(replaced) = replaced.filter(|replaced| differ(&replaced.bytes, result)) else {
        return;
    };
    gateway.cache.metrics().nondeterministic_result();
    let (workspace, scope, writer) = (grant.workspace(), grant.scope(), grant.writer());
    tracing::debug!(%workspace, %scope, %writer, %action, "an action's result has other outputs than before");
    gateway.journal.note_rewritten(Rewrite {
        workspace: workspace.to_string(),
        scope: scope.to_string(),
        key: action.to_string(),
        at_ms: gateway.now_ms(),
        writer: writer.0,
        writer_before: Some(replaced.writer.0),
    });
}

/// Whether two results are of different outputs.
fn differ(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return false;
    }
    match (Outputs::of(one), Outputs::of(other)) {
        (Ok(one), Ok(other)) => one.differ(&other),
        (Err(Malformed), _) | (_, Err(Malformed)) => false,
    }
}

/// What an action made, as its result says. All of it borrowed from there.
#[derive(Debug, Default)]
struct Outputs<'m> {
    exit_code: u64,
    files: Vec<File<'m>>,
    directories: Vec<Directory<'m>>,
    /// Symlinks of all kinds: a client names one as what it points to, as a symlink, or as both.
    links: Vec<(&'m [u8], &'m [u8])>,
    /// Standard output and error: raw, and by digest.
    streams: [(&'m [u8], Option<Named<'m>>); 2],
}

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct File<'m> {
    path: &'m [u8],
    digest: Named<'m>,
    executable: bool,
}

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Directory<'m> {
    path: &'m [u8],
    tree: Option<Named<'m>>,
    root: Option<Named<'m>>,
}

/// The hash and the size in a `Digest`.
type Named<'m> = (&'m [u8], u64);

impl<'m> Outputs<'m> {
    fn of(message: &'m [u8]) -> Result<Self, Malformed> {
        let mut outputs = Self::default();
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(bytes)) => outputs.files.push(file(bytes)?),
                (3, Value::Bytes(bytes)) => outputs.directories.push(directory(bytes)?),
                (10..=12, Value::Bytes(bytes)) => outputs.links.push(link(bytes)?),
                (4, Value::Varint(code)) => outputs.exit_code = code,
                (5, Value::Bytes(raw)) => outputs.streams[0].0 = raw,
                (6, Value::Bytes(bytes)) => outputs.streams[0].1 = stream(bytes)?,
                (7, Value::Bytes(raw)) => outputs.streams[1].0 = raw,
                (8, Value::Bytes(bytes)) => outputs.streams[1].1 = stream(bytes)?,
                _ => {}
            }
        }
        outputs.files.sort_unstable();
        outputs.directories.sort_unstable();
        outputs.links.sort_unstable();
        outputs.links.dedup();
        Ok(outputs)
    }

    fn differ(&self, other: &Self) -> bool {
        let both = |one: Option<Named<'_>>, other: Option<Named<'_>>| matches!((one, other), (Some(one), Some(other)) if one != other);
        let directories = || {
            self.directories.len() != other.directories.len()
                || self
                    .directories
                    .iter()
                    .zip(&other.directories)
                    .any(|(one, other)| {
                        one.path != other.path
                            || both(one.tree, other.tree)
                            || both(one.root, other.root)
                    })
        };
        let streams = || {
            let pairs = self.streams.iter().zip(&other.streams);
            pairs.into_iter().any(|((raw, named), (raw2, named2))| {
                let raws = !raw.is_empty() && !raw2.is_empty() && raw != raw2;
                raws || both(*named, *named2)
            })
        };
        self.exit_code != other.exit_code
            || self.files != other.files
            || self.links != other.links
            || directories()
            || streams()
    }
}

fn file(message: &[u8]) -> Result<File<'_>, Malformed> {
    let mut file = File::default();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(path)) => file.path = path,
            (2, Value::Bytes(bytes)) => file.digest = named(bytes)?,
            (4, Value::Varint(executable)) => file.executable = executable != 0,
            _ => {}
        }
    }
    Ok(file)
}

fn directory(message: &[u8]) -> Result<Directory<'_>, Malformed> {
    let mut directory = Directory::default();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(path)) => directory.path = path,
            (3, Value::Bytes(bytes)) => directory.tree = Some(named(bytes)?),
            (5, Value::Bytes(bytes)) => directory.root = Some(named(bytes)?),
            _ => {}
        }
    }
    Ok(directory)
}

fn link(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut path, mut target) = (&b""[..], &b""[..]);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => path = bytes,
            (2, Value::Bytes(bytes)) => target = bytes,
            _ => {}
        }
    }
    Ok((path, target))
}

/// Some writers send an empty digest for "none".
fn stream(message: &[u8]) -> Result<Option<Named<'_>>, Malformed> {
    let named = named(message)?;
    Ok((named != (&b""[..], 0)).then_some(named))
}

fn named(message: &[u8]) -> Result<Named<'_>, Malformed> {
    let (mut hash, mut size) = (&b""[..], 0);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => hash = bytes,
            (2, Value::Varint(value)) => size = value,
            _ => {}
        }
    }
    Ok((hash, size))
}

#[cfg(test)]
mod tests {
    use larder_proto::Message as _;
    use larder_proto::reapi::{
        ActionResult, Digest, ExecutedActionMetadata, OutputDirectory, OutputFile, OutputSymlink,
    };

    use super::*;

    fn digest(of: &str) -> Digest {
        Digest {
            hash: of.repeat(64),
            size_bytes: 7,
        }
    }

    fn result() -> ActionResult {
        ActionResult {
            output_files: ["a", "b"]
                .map(|path| OutputFile {
                    path: path.to_owned(),
                    digest: Some(digest(path)),
                    ..OutputFile::default()
                })
                .into(),
            output_directories: vec![OutputDirectory {
                path: "d".to_owned(),
                tree_digest: Some(digest("d")),
                ..OutputDirectory::default()
            }],
            output_symlinks: vec![OutputSymlink {
                path: "l".to_owned(),
                target: "a".to_owned(),
                ..OutputSymlink::default()
            }],
            stdout_digest: Some(digest("e")),
            ..ActionResult::default()
        }
    }

    fn check(change: impl FnOnce(&mut ActionResult), expected: bool) {
        let mut changed = result();
        change(&mut changed);
        let (one, other) = (result().encode_to_vec(), changed.encode_to_vec());
        assert_eq!(differ(&one, &other), expected, "{changed:?}");
        assert_eq!(differ(&other, &one), expected, "{changed:?}");
    }

    #[test]
    fn what_an_action_made_is_compared_and_how_it_was_run_is_not() {
        check(|_| {}, false);
        check(|r| r.output_files.reverse(), false);
        check(
            |r| {
                r.execution_metadata = Some(ExecutedActionMetadata {
                    worker: "another".to_owned(),
                    ..ExecutedActionMetadata::default()
                });
            },
            false,
        );
        check(
            |r| r.output_files[0].contents = b"inlined".to_vec().into(),
            false,
        );
        check(|r| r.stdout_raw = b"only here".to_vec().into(), false);
        check(|r| r.stdout_digest = None, false);
        check(
            |r| r.output_file_symlinks = r.output_symlinks.clone(),
            false,
        );
        check(
            |r| r.output_directories[0].root_directory_digest = Some(digest("f")),
            false,
        );

        check(|r| r.exit_code = 1, true);
        check(|r| r.output_files[0].digest = Some(digest("c")), true);
        check(|r| r.output_files[0].path = "c".to_owned(), true);
        check(|r| r.output_files[0].is_executable = true, true);
        check(|r| drop(r.output_files.pop()), true);
        check(
            |r| r.output_directories[0].tree_digest = Some(digest("f")),
            true,
        );
        check(|r| r.output_symlinks[0].target = "b".to_owned(), true);
        check(|r| r.stdout_digest = Some(digest("f")), true);
    }

    #[test]
    fn what_cannot_be_read_is_no_difference() {
        let result = result().encode_to_vec();
        assert!(!differ(b"{\"json\": 1}", &result));
        assert!(!differ(&result, &result[..result.len() - 1]));
    }
}
