//! The queue on disk: an append-only file of offers and completions.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | magic `LARDQUEU` (8), version (4), zero (4) |
//! | | lines: length of the rest (2), CRC-32C of the rest (4), kind (1), sequence (8), and for an offer the item |
//!
//! Kinds: 1 offer, 2 completion. An item: trust (1), rule (1), bit 0: touch (1), body bytes (8), offered at in unix
//! milliseconds (8), length of the workspace's name (1), the name, the key. Little-endian. A torn end is cut. The file is
//! written again, with what is not complete, when it is opened, when most of it is, and after a write has failed: nothing
//! that comes behind a torn line would be read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use crate::realm::{Realm, Trust};
use crate::record::{KEY_BYTES_MAX, Rule, u16_at, u32_at, u64_at};

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"LARDQUEU";
const HEADER_BYTES: usize = 16;
const LINE_HEADER_BYTES: usize = 6;
const SEQUENCE_END: usize = 9;
/// After a write that failed the disk is left alone for this long.
const REST: Duration = Duration::from_secs(5);

/// An entry that is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) realm: Realm,
    pub(crate) key: Bytes,
    pub(crate) rule: Rule,
    /// It is in the bucket, and its pack is getting old.
    pub(crate) is_touch: bool,
    pub(crate) body_bytes: u64,
    pub(crate) offered_at_ms: u64,
}

fn append_line(into: &mut Vec<u8>, kind: u8, sequence: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend_from_slice(&[0; LINE_HEADER_BYTES]);
    into.push(kind);
    into.extend_from_slice(&sequence.to_le_bytes());
    fill(into);
    let rest = start + LINE_HEADER_BYTES;
    let (length, crc) = ((into.len() - rest) as u16, crc32c::crc32c(&into[rest..]));
    into[start..start + 2].copy_from_slice(&length.to_le_bytes());
    into[start + 2..rest].copy_from_slice(&crc.to_le_bytes());
}

/// Appends the line of an offer.
pub(crate) fn append_offer(into: &mut Vec<u8>, sequence: u64, offer: &Offer) {
    append_line(into, 1, sequence, |into| {
        let workspace = offer.realm.workspace().as_bytes();
        let touch = u8::from(offer.is_touch);
        into.extend_from_slice(&[offer.realm.trust().code(), offer.rule.code(), touch]);
        into.extend_from_slice(&offer.body_bytes.to_le_bytes());
        into.extend_from_slice(&offer.offered_at_ms.to_le_bytes());
        into.push(workspace.len() as u8);
        into.extend_from_slice(workspace);
        into.extend_from_slice(&offer.key);
    });
}

/// Appends the line of a completion.
pub(crate) fn append_completion(into: &mut Vec<u8>, sequence: u64) {
    append_line(into, 2, sequence, |_| {});
}

fn decode_offer(item: &[u8]) -> Option<Offer> {
    let fixed: &[u8; 20] = item.get(..20)?.try_into().ok()?;
    let (workspace, key) = item[20..].split_at_checked(usize::from(fixed[19]))?;
    let workspace = std::str::from_utf8(workspace).ok()?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX || fixed[2] > 1 {
        return None;
    }
    Some(Offer {
        realm: Realm::new(workspace, Trust::from_code(fixed[0])?).ok()?,
        key: Bytes::copy_from_slice(key),
        rule: Rule::from_code(fixed[1])?,
        is_touch: fixed[2] == 1,
        body_bytes: u64_at(fixed, 3),
        offered_at_ms: u64_at(fixed, 11),
    })
}

/// What is not complete, by sequence. Ends at the first line that does not read back.
fn read_lines(bytes: &[u8]) -> BTreeMap<u64, Offer> {
    let mut offers = BTreeMap::new();
    let Some(mut rest) = bytes.get(HEADER_BYTES..) else {
        return offers;
    };
    if bytes[..8] != MAGIC || u32_at(bytes, 8) != VERSION {
        return offers;
    }
    while rest.len() >= LINE_HEADER_BYTES {
        let (length, crc) = (usize::from(u16_at(rest, 0)), u32_at(rest, 2));
        let line = rest.get(LINE_HEADER_BYTES..LINE_HEADER_BYTES + length);
        let Some(line) =
            line.filter(|line| line.len() >= SEQUENCE_END && crc32c::crc32c(line) == crc)
        else {
            break;
        };
        let sequence = u64_at(line, 1);
        match (line[0], decode_offer(&line[SEQUENCE_END..])) {
            (1, Some(offer)) => {
                offers.insert(sequence, offer);
            }
            (2, _) => {
                offers.remove(&sequence);
            }
            _ => break,
        }
        rest = &rest[LINE_HEADER_BYTES + length..];
    }
    offers
}

/// The file.
#[derive(Debug)]
pub(crate) struct QueueFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// When a write failed, if it has not been made good.
    torn_at: Option<Instant>,
}

impl QueueFile {
    /// Opens the queue in a directory, and returns what is in it.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, BTreeMap<u64, Offer>)> {
        let path = dir.join("queue");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let offers = read_lines(&bytes);
        let mut lines = Vec::new();
        for (sequence, offer) in &offers {
            append_offer(&mut lines, *sequence, offer);
        }
        let (file, bytes) = write_anew(&path, &lines)?;
        let file = Self {
            path,
            file,
            bytes,
            torn_at: None,
        };
        Ok((file, offers))
    }

    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.torn_at = Some(Instant::now());
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        self.torn_at = None;
        Ok(())
    }

    /// Replaces all lines.
    pub(crate) fn rewrite(&mut self, lines: &[u8]) -> io::Result<()> {
        self.torn_at = Some(Instant::now());
        (self.file, self.bytes) = write_anew(&self.path, lines)?;
        self.torn_at = None;
        Ok(())
    }

    /// Whether the file is not what it should be, so that it is to be written again before anything is appended.
    pub(crate) fn is_torn(&self) -> bool {
        self.torn_at.is_some()
    }

    /// Whether a write has just failed.
    pub(crate) fn rests(&self) -> bool {
        self.torn_at.is_some_and(|torn_at| torn_at.elapsed() < REST)
    }

    /// A disk that is full from now on, until the file is written anew.
    #[cfg(test)]
    pub(crate) fn fill_disk(&mut self) {
        self.file = File::options().write(true).open("/dev/full").unwrap();
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn write_anew(path: &Path, lines: &[u8]) -> io::Result<(File, u64)> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    file.write_all(&header)?;
    file.write_all(lines)?;
    // Else a power cut may leave an empty file under the name.
    file.sync_data()?;
    fs::rename(&unfinished, path)?;
    Ok((file, (HEADER_BYTES + lines.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(number: u64) -> Offer {
        Offer {
            realm: Realm::new("acme", Trust::Untrusted).unwrap(),
            key: Bytes::from(format!("key {number}")),
            rule: Rule::First,
            is_touch: number.is_multiple_of(2),
            body_bytes: number << 30,
            offered_at_ms: number,
        }
    }

    #[test]
    fn what_is_not_complete_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, offers) = QueueFile::open(dir.path()).unwrap();
        assert!(offers.is_empty());
        let mut lines = Vec::new();
        for number in 1..=3 {
            append_offer(&mut lines, number, &offer(number));
        }
        append_completion(&mut lines, 2);
        file.append(&lines).unwrap();
        for _ in 0..2 {
            let (_, offers) = QueueFile::open(dir.path()).unwrap();
            assert_eq!(offers, BTreeMap::from([(1, offer(1)), (3, offer(3))]));
        }
    }

    proptest! {
        #[test]
        fn a_torn_end_costs_only_itself(cut in 0_usize..60) {
            let dir = tempfile::tempdir().unwrap();
            let mut lines = Vec::new();
            append_offer(&mut lines, 1, &offer(1));
            let whole = lines.len();
            append_offer(&mut lines, 2, &offer(2));
            let cut = cut.min(lines.len() - whole);
            let (mut file, _) = QueueFile::open(dir.path()).unwrap();
            file.append(&lines[..lines.len() - cut]).unwrap();
            let (_, offers) = QueueFile::open(dir.path()).unwrap();
            prop_assert_eq!(offers.get(&1), Some(&offer(1)));
            prop_assert_eq!(offers.contains_key(&2), cut == 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&VERSION.to_le_bytes());
            file.extend_from_slice(&[0; 4]);
            file.extend_from_slice(&bytes);
            read_lines(&bytes);
            read_lines(&file);
            decode_offer(&bytes);
        }
    }
}
