//! Any bytes as an archive of task outputs, cut anywhere; and as a tar archive, next to the library that Nx unpacked with when it did
//! not look where entries go.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (sent, cuts) = input;
    fuzzing::archive(&sent, &cuts);
    let tar = sealed(sent, &cuts);
    if let Some(entries) = fuzzing::archive_entries(&tar) {
        assert_eq!(read_by_nx(&tar), entries);
    }
});

/// With checksums that fit in every block whose number in `odd` is so. Nobody guesses them.
fn sealed(mut tar: Vec<u8>, odd: &[u8]) -> Vec<u8> {
    for (block, odd) in tar.chunks_exact_mut(512).zip(odd) {
        if odd % 2 == 1 {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    tar
}

/// Each entry's name, kind, target, and the place and number of its bytes.
fn read_by_nx(tar: &[u8]) -> Vec<(Vec<u8>, u8, Vec<u8>, u64, u64)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a slice can be read");
    let entries = entries.map(|entry| {
        let mut entry = entry.expect("what is clean can be read");
        let kind = entry.header().entry_type().as_byte();
        let target = match kind {
            b'2' => entry.link_name_bytes().expect("it has one").into_owned(),
            _ => Vec::new(),
        };
        let size = match kind {
            // Of a sparse file it says how long it will be.
            b'S' => entry.header().entry_size().expect("it was read"),
            _ => entry.size(),
        };
        let (name, at) = (entry.path_bytes().into_owned(), entry.raw_file_position());
        if kind != b'S' {
            std::io::copy(&mut entry, &mut std::io::sink()).expect("its bytes are there");
        }
        let kind = if kind == 0 { b'0' } else { kind };
        (name, kind, target, at, size)
    });
    entries.collect()
}
