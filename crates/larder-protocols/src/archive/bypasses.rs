//! Archives that one reader takes for something else than another does, each with an entry outside the root in it. None may pass.

use super::examination::ON_THE_SPOT;
use super::tests::{gzip, inspect};
use super::*;
use std::time::{Duration, Instant};

pub(super) const USTAR: [u8; 8] = *b"ustar\x0000";
pub(super) const GNU: [u8; 8] = *b"ustar  \0";
pub(super) const OLD: [u8; 8] = [0; 8];

/// A header, to be changed before it is sealed.
pub(super) fn header(name: &str, kind: u8, size: usize, magic: [u8; 8]) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(&magic);
    block
}

pub(super) fn sealed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, magic: [u8; 8], contents: &[u8]) {
    tar.extend(sealed(header(name, kind, contents.len(), magic)));
    tar.extend(contents);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

pub(super) fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.extend([0; 1024]);
    tar
}

#[track_caller]
fn refused(tar: &[u8]) {
    let found = inspect(Limits::default(), &gzip(tar), 1000);
    assert!(matches!(found, Verdict::Hostile(_)), "{found:?}");
}

#[test]
fn a_first_header_whose_checksum_only_lax_readers_can_read_is_not_foreign() {
    let block = sealed(header("../evil", b'0', 3, OLD));
    let digits = &block[148..154];
    for checksum in [
        [b"+", digits, b"\0"].concat(),
        [b"\x0b", digits, b" "].concat(),
        [b"\xc2\x85", digits].concat(),
        [digits, b"_\0"].concat(),
        [b"0o", digits].concat(),
    ] {
        let mut block = block;
        block[148..156].copy_from_slice(&checksum);
        refused(&ended([&block[..], b"pwn", &[0; 509]].concat()));
    }
    // Nor is it if it sums up the bytes as numbers with a sign.
    let mut block = header("../evilé", b'0', 3, OLD);
    block[148..156].fill(b' ');
    let sum: i32 = block.iter().map(|byte| i32::from(byte.cast_signed())).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    refused(&ended([&block[..], b"pwn", &[0; 509]].concat()));
    // Some readers go on behind a block that is no header.
    let mut tar = vec![b'x'; 1024];
    entry(&mut tar, "../evil", b'0', USTAR, b"pwn");
    refused(&ended(tar.clone()));
    // And some unpack what is not packed.
    for sent in [&tar[..], &tar[1024..]] {
        let found = inspect(Limits::default(), sent, 1000);
        assert!(matches!(found, Verdict::Hostile(_)), "{found:?}");
    }
}

#[test]
fn between_a_description_and_its_entry_nothing_comes() {
    for (kind, contents) in [
        (b'x', &b"11 path=ok\n"[..]),
        (b'L', b"ok\0"),
        (b'K', b"ok\0"),
    ] {
        for (between, about) in [(b'g', &b"13 comment=x\n"[..]), (b'x', b"13 comment=x\n")] {
            let mut tar = Vec::new();
            entry(&mut tar, "x", kind, GNU, contents);
            entry(&mut tar, "g", between, USTAR, about);
            let (name, kind) = if kind == b'K' {
                ("k", b'2')
            } else {
                ("fine", b'0')
            };
            entry(&mut tar, name, kind, USTAR, b"");
            let at = tar.len() - 512;
            let mut block: [u8; 512] = tar[at..].try_into().unwrap();
            block[157..161].copy_from_slice(b"fine");
            tar[at..].copy_from_slice(&sealed(block));
            refused(&ended(tar));
        }
    }
    // The name that other readers take is looked at, too.
    let mut tar = Vec::new();
    entry(&mut tar, "x", b'x', USTAR, b"11 path=ok\n");
    entry(&mut tar, "../evil", b'0', USTAR, b"pwn");
    refused(&ended(tar));
}

/// A sparse file of one block with no holes, whose map goes on by this flag.
fn sparse(goes_on: u8) -> [u8; 512] {
    let mut block = header("ok", b'S', 512, GNU);
    block[386..397].copy_from_slice(b"00000000000");
    block[398..409].copy_from_slice(b"00000001000");
    block[483..494].copy_from_slice(b"00000001000");
    block[482] = goes_on;
    sealed(block)
}

#[test]
fn whether_a_map_goes_on_is_beyond_doubt() {
    for goes_on in [1, 2, b'0', b'1', 255] {
        let mut tar = sparse(goes_on).to_vec();
        tar.extend([0; 512]);
        tar.extend(sealed(header("../evil", b'0', 512, GNU)));
        entry(&mut tar, "fine", b'0', GNU, b"");
        refused(&ended(tar));
    }
    let mut tar = sparse(0).to_vec();
    tar.extend([b'a'; 512]);
    let found = inspect(Limits::default(), &gzip(&ended(tar)), 1000);
    assert_eq!(found, Verdict::Clean);
}

#[test]
fn a_size_is_about_the_very_next_header() {
    for between in [b'K', b'L', b'x', b'g'] {
        let mut tar = Vec::new();
        entry(&mut tar, "x", b'x', USTAR, b"13 size=1024\n");
        entry(&mut tar, "k", between, GNU, b"");
        let mut contents = vec![b'a'; 512];
        contents.extend(sealed(header("../evil", b'0', 0, GNU)));
        entry(&mut tar, "ok", b'0', GNU, &contents);
        refused(&ended(tar));
    }
    // With nothing before it, an empty description is no better.
    for kind in [b'K', b'L', b'x'] {
        let mut tar = Vec::new();
        entry(&mut tar, "k", kind, GNU, b"");
        entry(&mut tar, "ok", b'0', GNU, b"");
        refused(&ended(tar));
    }
}

/// Deflate's smallest blocks that say nothing, 10 bits each.
fn empty_blocks(len: usize) -> Vec<u8> {
    let mut sent = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u32, 0);
    while sent.len() < len {
        (bits, count) = (bits | 0b10 << count, count + 10);
        while count >= 8 {
            sent.push(bits as u8);
            (bits, count) = (bits >> 8, count - 8);
        }
    }
    sent
}

#[test]
fn one_push_takes_about_its_time_whatever_comes() {
    let member = gzip(b"");
    let members = member.repeat((64 << 10) / member.len());
    for sent in [empty_blocks(64 << 10), members, gzip(&vec![0; 60 << 20])] {
        // Of several runs the best one, as this machine has other work, too.
        let best = (0..20).map(|_| {
            let mut inspector = Inspector::new(Limits::default());
            let start = Instant::now();
            inspector.push(&mut &sent[..], ON_THE_SPOT);
            start.elapsed()
        });
        let best = best.min().unwrap();
        assert!(best < Duration::from_millis(8), "{best:?}");
    }
    // And what no compressor makes is refused before long.
    let found = inspect(Limits::default(), &empty_blocks(200 << 10), 1000);
    assert!(matches!(found, Verdict::Hostile(_)), "{found:?}");
}

#[test]
fn what_is_damaged_early_is_not_foreign() {
    let mut tar = Vec::new();
    entry(&mut tar, "../evil", b'0', USTAR, b"pwn");
    let len = (tar.len() as u16).to_le_bytes();
    let stored = [0, len[0], len[1], !len[0], !len[1]];
    let magic = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let sent = [&magic[..], &stored, &tar, &[0xff; 20]].concat();
    for sent in [&sent[..], &[&magic[..], &[0xff; 20]].concat()] {
        for cut in [1, 1000] {
            let found = inspect(Limits::default(), sent, cut);
            assert!(matches!(found, Verdict::Hostile(_)), "{found:?}");
        }
    }
    // Flags that some readers do not look at.
    for flag in [1 << 1, 1 << 5] {
        let mut sent = gzip(&ended(tar.clone()));
        sent[3] = flag;
        let found = inspect(Limits::default(), &sent, 1000);
        assert!(matches!(found, Verdict::Hostile(_)), "{found:?}");
    }
}

#[test]
fn links_are_found_in_every_spelling_that_a_file_system_takes_for_theirs() {
    let link = |tar: &mut Vec<u8>, name: &str, target: &str| {
        let mut block = header(name, b'2', 0, USTAR);
        block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        tar.extend(sealed(block));
    };
    for spelling in ["ſ", "S", "s.", "s ", "s:x", "s\u{200d}", "ｓ"] {
        let mut tar = Vec::new();
        link(&mut tar, "p/q/s", "../..");
        link(&mut tar, "out", &format!("p/q/{spelling}/../.."));
        refused(&ended(tar));
        let mut tar = Vec::new();
        link(&mut tar, "p/s", "..");
        entry(&mut tar, &format!("p/{spelling}/x"), b'0', USTAR, b"");
        refused(&ended(tar));
    }
    // Two forms of one letter.
    let mut tar = Vec::new();
    link(&mut tar, "p/e\u{301}", "..");
    entry(&mut tar, "p/é/x", b'0', USTAR, b"");
    refused(&ended(tar));
    // What cannot be the name of a link is in order.
    let mut tar = Vec::new();
    link(&mut tar, "p/s", "..");
    for name in ["p/é", "größe/日本語", "straße", "emoji/🎉"] {
        entry(&mut tar, name, b'0', USTAR, b"");
    }
    let found = inspect(Limits::default(), &gzip(&ended(tar)), 1000);
    assert_eq!(found, Verdict::Clean);
}
