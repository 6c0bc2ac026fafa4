//! Walks through a segment from record to record, as recovery and reclaim do.
//!
//! Where a header is torn, rotten or was never written, the walk goes on at the next place that
//! bears a record with the right tag. What lies between is skipped: it was never visible.

use std::io;

use crate::disk::Wait;
use crate::format::{
    ALIGN_BYTES, KEY_BYTES_MAX, METADATA_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, State,
};
use crate::segment::Segment;

/// Read ahead by this much: several records of the usual sizes, little beside a large one.
const WINDOW_BYTES: usize = 16 * 1024;
/// A window can hold any header with its names.
const _: () = assert!(WINDOW_BYTES >= RECORD_HEADER_BYTES);

/// A record that bears the right tag.
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) header: RecordHeader,
    pub(crate) state: State,
}

pub(crate) struct Walk<'a> {
    segment: &'a Segment,
    next: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
    names: std::ops::Range<usize>,
    skipped: bool,
}

impl<'a> Walk<'a> {
    /// Walks the records that start in `start..end`.
    pub(crate) fn new(segment: &'a Segment, start: u64, end: u64) -> Self {
        let next = start.next_multiple_of(ALIGN_BYTES);
        Self {
            segment,
            next,
            end,
            window: Vec::new(),
            window_start: 0,
            names: 0..0,
            skipped: false,
        }
    }

    /// Whether there was anything between the records so far.
    pub(crate) fn has_skipped(&self) -> bool {
        self.skipped
    }

    /// Key and metadata of the record found last.
    pub(crate) fn names(&self) -> &[u8] {
        &self.window[self.names.clone()]
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut lost = false;
        while self.next + RECORD_HEADER_BYTES as u64 <= self.end {
            if let Some(found) = self.record_at(self.next)? {
                self.next = found.offset + found.header.record_bytes();
                return Ok(Some(found));
            }
            // Skip what was never written: once at the start of a gap, then once a window.
            if !lost || self.next.is_multiple_of(WINDOW_BYTES as u64) {
                lost = true;
                self.skipped = true;
                match self.segment.file.next_data(self.next)? {
                    Some(data) if data >= self.next + ALIGN_BYTES => {
                        self.next = data / ALIGN_BYTES * ALIGN_BYTES;
                        continue;
                    }
                    Some(_) => {}
                    None => return Ok(None),
                }
            }
            self.next += ALIGN_BYTES;
        }
        Ok(None)
    }

    fn record_at(&mut self, offset: u64) -> io::Result<Option<Found>> {
        let Some(at) = self.load(offset, RECORD_HEADER_BYTES)? else {
            return Ok(None);
        };
        let Some(untagged) = RecordHeader::decode(&self.window[at..]) else {
            return Ok(None);
        };
        let header = untagged.header;
        if !RecordHeader::header_tag_fits(&self.window[at..], &self.segment.tag_key, offset) {
            return Ok(None);
        }
        if offset + header.record_bytes() > self.end {
            return Ok(None);
        }
        let names_bytes = header.names_bytes() as usize;
        let Some(at) = self.load(offset, RECORD_HEADER_BYTES + names_bytes)? else {
            return Ok(None);
        };
        let names = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + names_bytes;
        let tag_key = &self.segment.tag_key;
        if !header.tag_fits(
            &self.window[at..],
            tag_key,
            offset,
            &self.window[names.clone()],
        ) {
            return Ok(None);
        }
        self.names = names;
        Ok(Some(Found {
            offset,
            header,
            state: untagged.state,
        }))
    }

    /// Makes `bytes` from `offset` on available in the window and says where; `None` if the file ends first.
    fn load(&mut self, offset: u64, bytes: usize) -> io::Result<Option<usize>> {
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + bytes as u64 > window_end {
            let wanted = bytes
                .max(WINDOW_BYTES)
                .min(self.end.saturating_sub(offset) as usize);
            self.window.resize(wanted, 0);
            self.window_start = offset;
            let mut filled = 0;
            while filled < wanted {
                let buffer = &mut self.window[filled..];
                match self
                    .segment
                    .file
                    .read_at(buffer, offset + filled as u64, Wait::Allowed)?
                {
                    0 => break,
                    count => filled += count,
                }
            }
            self.window.truncate(filled);
            if filled < bytes {
                return Ok(None);
            }
        }
        Ok(Some((offset - self.window_start) as usize))
    }
}

const _: () = assert!(
    KEY_BYTES_MAX + METADATA_BYTES_MAX < 1 << 20,
    "names fit in memory"
);
