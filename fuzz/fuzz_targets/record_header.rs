//! Any bytes as the header of a record or of a segment.

#![no_main]

use larder_store::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use libfuzzer_sys::fuzz_target;

const SEGMENT: u32 = 7;
const SALT: [u8; 16] = [3; 16];

fuzz_target!(|input: (u16, u64, &[u8])| {
    let (flip, place, bytes) = input;
    check_segment_header(bytes);
    // Whatever is planted, it has no tags that fit.
    let offset = place % (1 << 32) * 16;
    assert_eq!(RecordHeader::found_in(bytes, SEGMENT, SALT, offset), None);
    if let Some(header) = RecordHeader::untagged(bytes) {
        check_record(header, bytes, offset, usize::from(flip));
    }
});

fn check_segment_header(bytes: &[u8]) {
    const BYTES: usize = SEGMENT_HEADER_BYTES as usize;
    let Some(bytes) = bytes.first_chunk::<BYTES>() else {
        return;
    };
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert_eq!(header.encode()[..40], bytes[..40]);
    }
    // Few inputs have a checksum that fits, so it is made to.
    let mut sealed = *bytes;
    sealed[..8].copy_from_slice(b"LARDSEG1");
    let crc = crc32c::crc32c(&sealed[..60]);
    sealed[60..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = SegmentHeader::decode(&sealed) {
        assert_eq!(header.encode()[..40], sealed[..40]);
    }
}

/// Tags what `bytes` say for a place, finds it there, and no longer after one bit has changed.
fn check_record(header: RecordHeader, bytes: &[u8], offset: u64, flip: usize) {
    assert!(header.record_bytes() >= header.body_start() + header.body_bytes);
    assert!(header.record_bytes().is_multiple_of(16));
    let Some(names) = bytes.get(RECORD_HEADER_BYTES..header.body_start() as usize) else {
        return;
    };
    let tagged = header.tagged(SEGMENT, SALT, offset, names);
    assert_eq!(tagged[..48], bytes[..48], "written back otherwise");
    let mut record = [&tagged, names].concat();
    let found = RecordHeader::found_in(&record, SEGMENT, SALT, offset);
    assert_eq!(found, Some((header, true)));
    assert_eq!(
        RecordHeader::found_in(&record, SEGMENT, SALT, offset + 16),
        None
    );
    assert_eq!(
        RecordHeader::found_in(&record, SEGMENT + 1, SALT, offset),
        None
    );
    let bit = flip % (record.len() * 8);
    record[bit / 8] ^= 1 << (bit % 8);
    let is_state = (56..60).contains(&(bit / 8));
    let expected = is_state.then_some((header, false));
    assert_eq!(
        RecordHeader::found_in(&record, SEGMENT, SALT, offset),
        expected
    );
}
