//! What must hold of any bytes as an archive; the fuzzer calls it.

use super::listing::{Listed, listed_here};
use super::walk::Walk;
use super::{Budget, Inspector, Limits, Progress, Verdict};
use std::time::Duration;

/// More than any input of the fuzzer unpacks to, without which it would only look for bombs.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

const A_LITTLE: Budget = Budget {
    bytes: 4096,
    time: Duration::MAX,
};

/// The verdict does not depend on how the bytes are cut, and little is remembered.
pub fn archive(sent: &[u8], cuts: &[u8]) {
    let limits = Limits {
        unpacked_bytes_max: UNPACKED_BYTES_MAX,
        ..Limits::default()
    };
    assert_eq!(verdict(limits, sent, cuts), verdict(limits, sent, &[]));
    // Without the compression the fuzzer gets further.
    let mut whole = Walk::new(limits);
    let by_itself = whole.push(sent).and_then(|()| whole.finish());
    let mut cut = Walk::new(limits);
    let pushed = pieces(sent, cuts).try_for_each(|piece| cut.push(piece));
    assert_eq!(pushed.and_then(|()| cut.finish()), by_itself);
    assert!(whole.bytes() <= 16 * limits.link_count_max as u64 * 2);
}

/// The entries of a tar archive that is clean, for comparison with what others read.
pub fn archive_entries(tar: &[u8]) -> Option<Vec<Listed>> {
    listed_here(tar).ok()
}

fn verdict(limits: Limits, sent: &[u8], cuts: &[u8]) -> Verdict {
    let mut inspector = Inspector::new(limits);
    for mut piece in pieces(sent, cuts) {
        while inspector.push(&mut piece, A_LITTLE) == Progress::Enough {}
        assert!(piece.is_empty(), "all of it was looked at");
    }
    inspector.finish()
}

/// The bytes in pieces of these lengths, and what is left.
fn pieces<'s>(sent: &'s [u8], cuts: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
    let mut rest = sent;
    let mut cuts = cuts.iter();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = cuts.next().map_or(rest.len(), |cut| usize::from(*cut));
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        Some(piece)
    })
}
