//! What the library of Nx makes of an archive, in the version that is linked here and in the one of the versions of Nx with the defect.

use super::listing::{Listed, listed_here, one};
use super::tests::{Made, build, gzip, inspect, made};
use super::*;
use crate::paths::check_path;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The entries as the linked version sees them, up to the first that it cannot read.
pub(super) fn read_by_tar(tar: &[u8]) -> (Vec<Listed>, std::io::Result<()>) {
    let (mut archive, mut listed) = (tar::Archive::new(tar), Vec::new());
    let end = archive.entries().unwrap().try_for_each(|entry| {
        let mut entry = entry?;
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let kind = entry.header().entry_type().as_byte();
        let size = match kind {
            // Of a sparse file it says how long it will be.
            b'S' => entry.header().entry_size()?,
            _ => entry.size(),
        };
        let offset = entry.raw_file_position();
        listed.push(one(&entry.path_bytes(), kind, &target, offset, size));
        std::io::copy(&mut entry, &mut std::io::sink()).map(drop)
    });
    (listed, end)
}

pub(super) fn listed_by_tar(tar: &[u8]) -> Vec<Listed> {
    let (listed, end) = read_by_tar(tar);
    end.unwrap();
    listed
}

/// Up to 0.4.45 a size in records is that of the next header of whatever kind, if that one says zero. Says where the headers are.
fn headers_by_older_tar(tar: &[u8]) -> Vec<u64> {
    let (mut at, mut records, mut headers) = (0_usize, None, Vec::new());
    while let Some(block) = tar
        .get(at..at + 512)
        .filter(|it| it.iter().any(|byte| *byte != 0))
    {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let Ok(mut size) = header.entry_size() else {
            break;
        };
        if size == 0 {
            size = records.take().unwrap_or(0);
        }
        headers.push(at as u64);
        at += 512;
        let kind = header.entry_type();
        let contents = tar.get(at..at.saturating_add(size as usize)).unwrap_or(b"");
        if kind.is_pax_local_extensions() {
            let found = tar::PaxExtensions::new(contents)
                .flatten()
                .find(|it| it.key() == Ok("size"));
            records = found.and_then(|it| it.value().ok()?.parse().ok());
        } else if !kind.is_gnu_longname() && !kind.is_gnu_longlink() {
            records = None;
        }
        let mut goes_on =
            kind.is_gnu_sparse() && header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while goes_on {
            goes_on = tar.get(at + 504) == Some(&1);
            at += 512;
        }
        at = at.saturating_add((size as usize).next_multiple_of(512));
    }
    headers
}

/// What is clean is read by the library of Nx in the same way, and leads nowhere else; and what it reads anything of is not foreign.
pub(super) fn agree(tar: &[u8]) -> Result<(), TestCaseError> {
    let (listed, end) = read_by_tar(tar);
    match inspect(Limits::default(), &gzip(tar), 1000) {
        Verdict::Clean => {
            prop_assert!(end.is_ok(), "{:?}", end);
            let older = headers_by_older_tar(tar);
            for (name, _, _, offset, _) in &listed {
                prop_assert!(check_path(name).is_ok(), "{:?}", listed);
                prop_assert!(older.contains(&(offset - 512)), "{:?} {:?}", older, listed);
            }
            let described = tar.chunks(512).enumerate().filter(|(at, block)| {
                older.contains(&(*at as u64 * 512)) && matches!(block[156], b'x' | b'L' | b'K')
            });
            prop_assert_eq!(older.len(), listed.len() + described.count());
            prop_assert_eq!(listed_here(tar).unwrap(), listed);
        }
        Verdict::Foreign => prop_assert!(listed.is_empty(), "{:?}", listed),
        Verdict::Hostile(_) => {}
    }
    Ok(())
}

/// Changes that keep an archive an archive, which random bytes seldom do.
#[derive(Debug, Clone)]
enum Change {
    /// Of the header at this place, which gets a checksum that fits.
    Byte(Index, Index, u8),
    Kind(Index, u8),
    Size(Index, u64),
    Name(Index, &'static str),
    Number(Index, &'static [u8]),
    Checksum(Index, &'static [u8]),
    Insert(Index, u8, &'static [u8]),
    Swap(Index, Index),
    Copy(Index, Index),
    Raw(Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let kinds = || select(b"\x000123567xgLKSDV".to_vec());
    let contents = select(vec![
        &b""[..],
        b"11 path=ok\n",
        b"15 path=../evil\n",
        b"12 size=512\n",
        b"13 size=1024\n",
        b"9 size=8\n",
        b"13 comment=x\n",
        b"15 linkpath=abc\n",
        b"ok\0",
        b"../evil\0",
        b"ok",
    ]);
    prop_oneof![
        (at(), at(), any::<u8>()).prop_map(|(at, byte, to)| Change::Byte(at, byte, to)),
        (at(), kinds()).prop_map(|(at, to)| Change::Kind(at, to)),
        (at(), select(vec![0, 1, 511, 512, 513, 1024, 8 << 30]))
            .prop_map(|(at, to)| Change::Size(at, to)),
        (at(), select(vec!["../evil", "a/", "l/a", "", "/x"]))
            .prop_map(|(at, to)| Change::Name(at, to)),
        (
            at(),
            select(vec![
                &b"+0000000512"[..],
                b"\x0b0000001000",
                b"00000001000x",
                b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
                b" 1000 \0 00 1"
            ])
        )
            .prop_map(|(at, to)| Change::Number(at, to)),
        (at(), select(vec![&b"+"[..], b"\x0b", b" ", b"0"]))
            .prop_map(|(at, to)| Change::Checksum(at, to)),
        (at(), kinds(), contents).prop_map(|(at, kind, it)| Change::Insert(at, kind, it)),
        (at(), at()).prop_map(|(one, other)| Change::Swap(one, other)),
        (at(), at()).prop_map(|(one, other)| Change::Copy(one, other)),
        (at(), any::<u8>()).prop_map(|(at, to)| Change::Raw(at, to)),
    ]
}

/// The pieces of an archive: each header with its contents.
fn pieces(tar: &[u8]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = headers_by_older_tar(tar)
        .iter()
        .map(|at| *at as usize)
        .collect();
    let end = tar.len().saturating_sub(1024);
    places.push(end.max(places.last().map_or(0, |at| at + 512)));
    places
        .windows(2)
        .map(|it| tar[it[0]..it[1]].to_vec())
        .collect()
}

fn changed(made: &[Made], changes: Vec<Change>) -> Vec<u8> {
    let mut pieces = pieces(&build(made));
    for change in changes {
        if pieces.is_empty() {
            break;
        }
        let count = pieces.len();
        match change {
            Change::Byte(at, byte, to) => {
                reseal(&mut pieces[at.index(count)], |it| it[byte.index(512)] = to);
            }
            Change::Kind(at, to) => reseal(&mut pieces[at.index(count)], |it| it[156] = to),
            Change::Size(at, to) => reseal(&mut pieces[at.index(count)], |it| {
                let mut header = tar::Header::new_old();
                header.set_size(to);
                it[124..136].copy_from_slice(&header.as_bytes()[124..136]);
            }),
            Change::Name(at, to) => reseal(&mut pieces[at.index(count)], |it| {
                it[..100].fill(0);
                it[..to.len()].copy_from_slice(to.as_bytes());
            }),
            Change::Number(at, to) => reseal(&mut pieces[at.index(count)], |it| {
                it[124..136].fill(0);
                it[124..124 + to.len()].copy_from_slice(to);
            }),
            Change::Checksum(at, to) => {
                let piece = &mut pieces[at.index(count)];
                reseal(piece, |_| ());
                piece.copy_within(148..=155 - to.len(), 148 + to.len());
                piece[148..148 + to.len()].copy_from_slice(to);
            }
            Change::Insert(at, kind, contents) => {
                let mut header = tar::Header::new_gnu();
                header.set_path("x").unwrap();
                header.set_size(contents.len() as u64);
                let mut piece = header.as_bytes().to_vec();
                piece.extend(contents);
                piece.resize(piece.len().next_multiple_of(512), 0);
                reseal(&mut piece, |it| it[156] = kind);
                pieces.insert(at.index(count + 1), piece);
            }
            Change::Swap(one, other) => pieces.swap(one.index(count), other.index(count)),
            Change::Copy(one, other) => {
                let piece = pieces[one.index(count)].clone();
                pieces[other.index(count)].extend(piece);
            }
            Change::Raw(at, to) => {
                let piece = &mut pieces[at.index(count)];
                let at = at.index(piece.len());
                piece[at] = to;
            }
        }
    }
    pieces.push(vec![0; 1024]);
    pieces.concat()
}

fn reseal(piece: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(&mut piece[..512]);
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&piece[..512]);
    header.set_cksum();
    piece[..512].copy_from_slice(header.as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_archive_that_passes_is_read_as_the_library_of_nx_reads_it(
        made in made(),
        changes in vec(change(), 1..5),
    ) {
        agree(&changed(&made, changes))?;
    }
}
