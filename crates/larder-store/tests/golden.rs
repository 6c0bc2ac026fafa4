//! The bytes on disk, pinned: a pool with one of each kind of record, dumped in hexadecimal.
//!
//! A change to this dump is a change of the format, and needs a new `FORMAT_VERSION` and a way to read the old one.
//! `LARDER_WRITE_GOLDEN=1 cargo test -p larder-store --test golden` rewrites it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use larder_store::sim::SimDisk;
use larder_store::{Begin, Clock, Disk, Lease, NewRecord, Pool, PoolOptions, Wait};

/// Sixteen bytes a line; runs of equal lines are cut to one and an asterisk, as `hexdump -C` does.
fn dump(disk: &SimDisk, path: &Path) -> String {
    let file = disk.open(path).expect("the file is there");
    let mut bytes = vec![0; file.bytes().expect("has a length") as usize];
    let count = file
        .read_at(&mut bytes, 0, Wait::Allowed)
        .expect("readable");
    assert_eq!(count, bytes.len());
    let mut text = format!("{}\n", path.display());
    let mut last: &[u8] = &[];
    let mut starred = false;
    for (number, line) in bytes.chunks(16).enumerate() {
        if line == last {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (last, starred) = (line, false);
        write!(text, "{:08x} ", number * 16).expect("fits");
        for byte in line {
            write!(text, " {byte:02x}").expect("fits");
        }
        let ascii: String = line
            .iter()
            .map(|byte| {
                if byte.is_ascii_graphic() {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        writeln!(text, "  |{ascii}|").expect("fits");
    }
    writeln!(text, "{:08x}", bytes.len()).expect("fits");
    text
}

/// The files of a pool with one of each kind of record, saved.
fn dump_of_a_pool() -> [String; 3] {
    let disk = SimDisk::new(1, 8 << 20);
    let options = PoolOptions {
        free_reserve_bytes: 0,
        clock: Clock::Manual(Arc::new(AtomicU64::new(1_700_000_000_000))),
        seed: Some(1),
        ..PoolOptions::new(1 << 20)
    };
    let pool = Pool::open(disk.clone(), Path::new("pool"), options).expect("opens");
    let record = |key| NewRecord {
        key,
        metadata: b"meta",
        check: 500,
        writer: 7,
        replace: false,
    };
    pool.put(&record(b"kept"), b"the body").expect("stored");
    pool.put(&record(b"removed"), b"gone").expect("stored");
    let Ok(Begin::Upload(upload)) = pool.begin(&record(b"given up"), Some(40)) else {
        panic!("an empty pool takes uploads");
    };
    drop(upload);
    // The second record of a replaceable key buries the first: dead in place, and a tombstone.
    let newer = NewRecord {
        check: 65_535,
        replace: true,
        ..record(b"removed")
    };
    pool.put(&newer, b"newer").expect("stored");
    assert!(pool.remove(b"removed").expect("removes"));
    // More than one block, hence a segment of its own with a table of checksums.
    pool.put(&record(b"large"), &vec![0x5a; 70_000])
        .expect("stored");
    assert_eq!(pool.lease(b"large", Lease::Yielding), Some(500));
    pool.close().expect("closes");

    ["00000001.seg", "00000002.seg", "index.ckpt"]
        .map(|name| dump(&disk, &Path::new("pool").join(name)))
}

#[test]
fn the_bytes_on_disk_are_those_of_format_version_1() {
    let found = dump_of_a_pool().join("\n");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    if std::env::var_os("LARDER_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).expect("writes the golden dump");
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden dump is there");
    assert!(found == expected, "the format has changed:\n{found}");
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    std::fs::read_to_string(page).expect("the page is there")
}

#[test]
fn the_worked_example_of_the_documentation_is_the_golden_dump() {
    let [first, ..] = dump_of_a_pool();
    let (_, first) = first.split_once('\n').expect("a name and a dump");
    let page = page();
    let (_, example) = page
        .split_once("## A worked example")
        .expect("has an example");
    let (_, example) = example.split_once("```text\n").expect("in a block");
    let (example, _) = example.split_once("\n```").expect("that ends");
    assert!(
        example == first.trim_end(),
        "docs/format.md shows:\n{example}"
    );
}

#[test]
fn the_tables_of_the_documentation_leave_no_byte_out_and_are_those_of_the_code() {
    let code = include_str!("../src/format.rs");
    let table = |text: &str| -> Vec<(usize, usize)> {
        let rows = text
            .lines()
            .map(|line| line.trim_start_matches("/// "))
            .skip_while(|line| !line.starts_with("| at |"))
            .take_while(|line| line.starts_with('|'));
        let row = |row: &str| {
            let mut cells = row.split('|').map(|cell| cell.trim().parse().ok());
            Some((cells.nth(1)??, cells.next()??))
        };
        rows.filter_map(row).collect()
    };
    let page = page();
    for (heading, item, bytes) in [
        ("\n## Segment\n", "pub struct SegmentHeader", 64),
        ("\n## Record\n", "pub struct RecordHeader", 64),
        ("\n## Checkpoint\n", "struct CheckpointHeader", 64),
        ("\nA slot has", "struct Slot", 32),
    ] {
        let (_, below) = page.split_once(heading).expect(heading);
        let documented = table(below);
        let (above, _) = code.split_once(item).expect(item);
        let commented = &above[above.rfind("| at |").expect("a table")..];
        assert_eq!(documented, table(commented), "{heading} and {item}");
        let end = documented.iter().fold(0, |end, (at, bytes)| {
            assert_eq!(end, *at, "a gap or an overlap in {heading}");
            end + bytes
        });
        assert_eq!(end, bytes, "{heading}");
    }
}
