//! Archives of a few headers in any order, each odd in one place, where readers are known to part ways: descriptions of
//! descriptions, maps that go on, sizes that are said twice, checksums that only some can read, headers hidden in contents.
//!
//! Each shape that once passed is likely here, and so is what is near it. The oracle is the library of Nx, as in `oracle`.

use super::bypasses::{GNU, OLD, USTAR, ended, header, sealed};
use super::oracle::{agree, read_by_tar};
use super::tests::{gzip, inspect};
use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;

/// A header and what stands behind it.
#[derive(Debug, Clone)]
struct Piece {
    kind: u8,
    magic: [u8; 8],
    name: &'static str,
    /// What the header says, if that is not what follows.
    said: Option<usize>,
    /// What the checksum's digits come after.
    lax: &'static str,
    /// Of a sparse file's map.
    goes_on: u8,
    contents: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    Text(&'static str),
    /// Blocks of nothing in particular, a map's next part, or headers.
    Blocks(Vec<Block>),
}

#[derive(Debug, Clone, Copy)]
enum Block {
    Plain,
    Map,
    Header,
}

const RECORDS: [&str; 7] = [
    "11 path=ok\n",
    "16 path=../evil\n",
    "12 size=512\n",
    "13 size=1024\n",
    "13 comment=x\n",
    "15 linkpath=ok\n",
    "17 linkpath=/etc\n",
];
const NAMES: [&str; 3] = ["ok\0", "../evil\0", ""];

/// The first of them mostly.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    others: Vec<T>,
) -> impl Strategy<Value = T> {
    prop_oneof![3 => Just(usual), 1 => select(others)]
}

fn blocks() -> impl Strategy<Value = Contents> {
    let one = prop_oneof![Just(Block::Plain), Just(Block::Map), Just(Block::Header)];
    vec(one, 0..3).prop_map(Contents::Blocks)
}

/// A piece of one of these kinds.
fn piece(
    kinds: &'static [u8],
    contents: impl Strategy<Value = Contents> + 'static,
) -> impl Strategy<Value = Piece> {
    let said = mostly(None, vec![Some(0), Some(512), Some(1024)]);
    let odd = (
        said,
        mostly("", vec!["+", "\u{b}", "0"]),
        mostly(0, vec![1, 2, b'1']),
    );
    let magic = select(vec![GNU, USTAR, OLD]);
    let name = mostly("ok", vec!["../evil", "dir/", "a"]);
    (select(kinds), magic, name, odd, contents).prop_map(
        |(kind, magic, name, (said, lax, goes_on), contents)| Piece {
            kind,
            magic,
            name,
            said,
            lax,
            goes_on,
            contents,
        },
    )
}

fn entry() -> impl Strategy<Value = Piece> {
    prop_oneof![
        3 => piece(b"0S\0", blocks()),
        1 => piece(b"25", Just(Contents::Text(""))),
    ]
}

fn description() -> impl Strategy<Value = Piece> {
    prop_oneof![
        piece(b"xg", select(&RECORDS[..]).prop_map(Contents::Text)),
        piece(b"LK", select(&NAMES[..]).prop_map(Contents::Text)),
    ]
}

/// An entry, what is said about it, and something between the two.
fn described() -> impl Strategy<Value = Vec<Piece>> {
    let ahead = (
        option::of(description()),
        option::weighted(0.3, description()),
    );
    (ahead, entry()).prop_map(|((first, second), last)| {
        [first, second, Some(last)].into_iter().flatten().collect()
    })
}

impl Piece {
    fn write(&self, tar: &mut Vec<u8>) {
        let contents = match &self.contents {
            Contents::Text(text) => text.as_bytes().to_vec(),
            Contents::Blocks(blocks) => blocks.iter().flat_map(|it| it.bytes()).collect(),
        };
        // The part of a map that stands behind the header is not counted.
        let counted = match &self.contents {
            Contents::Blocks(blocks) if self.goes_on != 0 && self.kind == b'S' => {
                contents.len()
                    - if matches!(blocks[..], [Block::Map, ..]) {
                        512
                    } else {
                        0
                    }
            }
            Contents::Blocks(_) | Contents::Text(_) => contents.len(),
        };
        let size = self.said.unwrap_or(counted);
        let mut block = header(self.name, self.kind, size, self.magic);
        if self.kind == b'2' {
            block[157..159].copy_from_slice(b"ok");
        }
        if self.kind == b'S' {
            let number = |number: usize| format!("{number:011o}");
            for (piece, len) in [(0, 0), (1, 0), (2, 0), (3, size)] {
                let at = 386 + 24 * piece;
                block[at..at + 11].copy_from_slice(number(0).as_bytes());
                block[at + 12..at + 23].copy_from_slice(number(len).as_bytes());
            }
            block[482] = self.goes_on;
            block[483..494].copy_from_slice(number(size).as_bytes());
        }
        let mut block = sealed(block);
        if !self.lax.is_empty() {
            block.copy_within(148..154, 149);
            block[148..149].copy_from_slice(self.lax.as_bytes());
        }
        tar.extend(block);
        tar.extend(contents);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
}

impl Block {
    fn bytes(self) -> [u8; 512] {
        match self {
            Self::Plain => [b'a'; 512],
            Self::Header => sealed(header("../evil", b'0', 0, GNU)),
            // A piece of nothing at the end of what there is, wherever that is.
            Self::Map => {
                let mut block = [0; 512];
                block[..11].copy_from_slice(b"00000001000");
                block[12..23].copy_from_slice(b"00000000000");
                block
            }
        }
    }
}

fn sequence() -> impl Strategy<Value = Vec<u8>> {
    vec(described(), 1..4).prop_map(|pieces| {
        let mut tar = Vec::new();
        pieces.iter().flatten().for_each(|it| it.write(&mut tar));
        ended(tar)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_of_any_few_headers_is_read_as_the_library_of_nx_reads_it(tar in sequence()) {
        agree(&tar)?;
    }
}

/// Without all three the property above would say nothing.
#[test]
fn few_headers_come_to_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut clean, mut foreign, mut read) = (0, 0, 0);
    for _ in 0..2000 {
        let tar = sequence().new_tree(&mut runner).unwrap().current();
        match inspect(Limits::default(), &gzip(&tar), 1000) {
            Verdict::Clean => clean += 1,
            Verdict::Foreign => foreign += 1,
            Verdict::Hostile(_) => read += usize::from(!read_by_tar(&tar).0.is_empty()),
        }
    }
    assert!(clean >= 100 && read >= 500, "{clean} {foreign} {read}");
}
