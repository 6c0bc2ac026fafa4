use super::listing::listed_here;
use super::oracle::listed_by_tar;
use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

pub(super) const A_LITTLE: Budget = Budget {
    bytes: 1000,
    time: Duration::MAX,
};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The verdict on bytes that come in pieces of `cut`, a little unpacked at a time.
pub(super) fn inspect(limits: Limits, sent: &[u8], cut: usize) -> Verdict {
    let mut inspector = Inspector::new(limits);
    for mut piece in sent.chunks(cut) {
        while inspector.push(&mut piece, A_LITTLE) == Progress::Enough {}
        assert!(piece.is_empty());
    }
    inspector.finish()
}

/// The verdict, which must not depend on how the bytes are cut.
#[track_caller]
fn verdict(tar: &[u8]) -> Verdict {
    let sent = gzip(tar);
    let whole = inspect(Limits::default(), &sent, sent.len());
    for cut in [1, 511, 4096] {
        assert_eq!(inspect(Limits::default(), &sent, cut), whole);
    }
    whole
}

/// An archive as its writer means it, headers and all.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// Adds a header with these bytes as its name, whatever they are, and its contents.
    fn entry(mut self, kind: u8, name: &str, target: &str, contents: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        self.raw(header, contents);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(b'0', name, "", b"contents")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"")
    }

    fn raw(&mut self, mut header: Header, contents: &[u8]) {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// With what Nx puts at the end.
    fn end(self) -> Vec<u8> {
        let ended = self.entry(b'0', "terminalOutput", "", b"> built");
        let mut bytes = ended.entry(b'0', "code", "", &[0; 4]).0;
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

#[track_caller]
fn hostile(archive: Archive, fault: Fault, entry: &str) {
    let entry = entry.as_bytes().to_vec();
    let expected = Verdict::Hostile(Finding { fault, entry });
    assert_eq!(verdict(&archive.end()), expected);
}

#[test]
fn what_clients_send_is_clean() {
    let archive = Archive::default()
        .entry(b'5', "packages/app/dist/", "", b"")
        .file("packages/app/dist/main.js")
        .entry(b'5', "packages/app/node_modules/.bin", "", b"")
        .link(
            "packages/app/node_modules/.bin/tsc",
            "../typescript/bin/tsc",
        )
        .link("packages/app/dist/lib", "../../lib/dist")
        .entry(b'5', "code", "", b"")
        .file("code/code")
        .file("packages/c:d/a\\b");
    assert_eq!(verdict(&archive.end()), Verdict::Clean);
    // Some writers leave out the zeros at the end, and some begin at the directory itself.
    let short = Archive::default().entry(b'5', "./", "", b"").file("./a");
    assert_eq!(verdict(&short.0), Verdict::Clean);
    assert_eq!(verdict(&[0; 1024]), Verdict::Clean);
    // As libraries of Node write it.
    let records = b"27 ctime=1700000000.123456\n12 path=a/b\n9 size=8\n20 SCHILY.ino=12345\n";
    let archive = Archive::default().entry(b'x', "PaxHeader/b", "", records);
    assert_eq!(verdict(&archive.file("b").end()), Verdict::Clean);
    let names = [b"././@LongLink", &[b'x'; 300][..]].map(<[u8]>::to_vec);
    let long = String::from_utf8(names[1].clone()).unwrap();
    let archive = Archive::default()
        .entry(b'L', "././@LongLink", "", format!("{long}\0").as_bytes())
        .file("short");
    assert_eq!(verdict(&archive.end()), Verdict::Clean);
}

#[test]
fn what_would_land_elsewhere_is_hostile() {
    for (name, fault) in [
        ("/etc/cron.d/x", Fault::AbsolutePath),
        ("../../x", Fault::ParentPath),
        ("packages/../../x", Fault::ParentPath),
        ("packages\\..\\..\\x", Fault::ParentPath),
        ("C:\\x", Fault::AbsolutePath),
        ("", Fault::EmptyName),
        (".", Fault::EmptyName),
    ] {
        hostile(Archive::default().file("a").file(name), fault, name);
        // The same through a long name and through a record.
        let long = Archive::default().entry(b'L', "x", "", format!("{name}\0").as_bytes());
        hostile(long.file("harmless"), fault, name);
        let line = format!(" path={name}\n");
        let length = line.len() + if line.len() + 1 < 10 { 1 } else { 2 };
        let record = format!("{length}{line}");
        let records = Archive::default().entry(b'x', "x", "", record.as_bytes());
        hostile(records.file("harmless"), fault, name);
    }
    let long = Archive::default().entry(b'L', "x", "", b"a\0/../b\0");
    hostile(long.file("harmless"), Fault::NulInName, "a\0/../b");
    for target in ["/etc", "../../../x", "..\\..\\..\\x", "C:\\x"] {
        let archive = Archive::default().link("packages/app/link", target);
        hostile(archive, Fault::LinkLeavesRoot, "packages/app/link");
        let long = Archive::default().entry(b'K', "x", "", target.as_bytes());
        let archive = long.link("packages/app/link", "harmless");
        hostile(archive, Fault::LinkLeavesRoot, "packages/app/link");
    }
    let through = Archive::default().link("a", "b").file("a/x");
    hostile(through, Fault::ThroughLink, "a/x");
    let onto = Archive::default().link("a", "b").file("a");
    hostile(onto, Fault::ThroughLink, "a");
    for (kind, fault) in [
        (b'1', Fault::HardLink),
        (b'3', Fault::Device),
        (b'4', Fault::Device),
        (b'6', Fault::Device),
        (b'X', Fault::UnknownKind),
        (b'V', Fault::UnknownKind),
    ] {
        let archive = Archive::default().entry(kind, "a", "b", b"");
        let entry = if fault == Fault::UnknownKind { "" } else { "a" };
        hostile(archive, fault, entry);
    }
    hostile(Archive::default().file("code"), Fault::Duplicate, "code");
    let twice = Archive::default().file("./terminalOutput");
    hostile(twice, Fault::Duplicate, "terminalOutput");
}

#[test]
fn what_clients_would_not_agree_on_is_hostile() {
    let ambiguous = |archive: Archive, entry| hostile(archive, Fault::Ambiguous, entry);
    let records = |text: &str| Archive::default().entry(b'x', "x", "", text.as_bytes());
    // Who goes by the header finds one next header, who goes by the record another one.
    ambiguous(records("12 size=512\n").file("a"), "a");
    ambiguous(records("11 path=b\n").file("a"), "");
    let twice = records("9 path=b\n").entry(b'x', "x", "", b"9 path=c\n");
    ambiguous(twice.file("a"), "");
    let both = records("9 path=b\n").entry(b'L', "x", "", b"c\0");
    ambiguous(both.file("a"), "");
    let global = Archive::default().entry(b'g', "x", "", b"9 path=b\n");
    ambiguous(global.file("a"), "");
    let global = Archive::default().entry(b'g', "x", "", b"13 comment=x\n");
    ambiguous(global.file("a"), "");
    ambiguous(Archive::default().file("a/"), "a/");
    ambiguous(Archive::default().entry(b'5', "a", "", b"contents"), "");
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[263..265].copy_from_slice(b"  ");
    header.set_size(0);
    let mut archive = Archive::default();
    archive.raw(header, b"");
    ambiguous(archive, "");
}

#[test]
fn what_is_damaged_cut_off_or_followed_is_hostile_and_what_is_no_archive_is_foreign() {
    let fault = |found: Verdict| match found {
        Verdict::Hostile(finding) => Some(finding.fault),
        Verdict::Clean | Verdict::Foreign => None,
    };
    let whole = Archive::default().file("a").file("b").end();
    let mut damaged = whole.clone();
    damaged[1024] ^= 1;
    assert_eq!(fault(verdict(&damaged)), Some(Fault::Checksum));
    for end in [513, 600, 1025, 1500] {
        assert_eq!(fault(verdict(&whole[..end])), Some(Fault::Truncated));
    }
    let sent = gzip(&whole);
    for end in [sent.len() - 1, sent.len() - 8, sent.len() - 20] {
        let found = inspect(Limits::default(), &sent[..end], 100);
        assert_eq!(fault(found), Some(Fault::Truncated), "{end}");
    }
    let dangling = Archive::default().entry(b'L', "x", "", b"a\0").0;
    assert_eq!(fault(verdict(&dangling)), Some(Fault::Truncated));
    let followed = [&whole[..], &Archive::default().file("../x").0].concat();
    assert_eq!(fault(verdict(&followed)), Some(Fault::Trailing));
    let followed = [&sent[..], b"garbage"].concat();
    let found = inspect(Limits::default(), &followed, 100);
    assert_eq!(fault(found), Some(Fault::Trailing));
    for foreign in [&b"PK\x03\x04"[..], b"", b"\x28\xb5\x2f\xfd", b"\x1f"] {
        let found = inspect(Limits::default(), foreign, 100);
        assert_eq!(found, Verdict::Foreign);
    }
    // Not what clients send, but some readers would take it.
    let found = inspect(Limits::default(), &whole, 100);
    assert_eq!(fault(found), Some(Fault::Ambiguous));
    assert_eq!(verdict(b"some text"), Verdict::Foreign);
    assert_eq!(verdict(&[b'x'; 2000]), Verdict::Foreign);
}

#[test]
fn what_is_too_much_is_hostile_before_it_is_unpacked() {
    let limits = Limits {
        unpacked_bytes_max: 4 << 20,
        bomb_bytes_min: 1 << 20,
        ratio_max: 200,
        entry_count_max: 10,
        link_count_max: 3,
    };
    let fault = |tar: &[u8]| match inspect(limits, &gzip(tar), 100) {
        Verdict::Hostile(finding) => finding.fault,
        other => panic!("{other:?}"),
    };
    let zeros = |len| Archive::default().entry(b'0', "a", "", &vec![0; len]);
    let found = inspect(limits, &gzip(&zeros(1 << 19).end()), 100);
    assert_eq!(found, Verdict::Clean);
    assert_eq!(fault(&zeros(3 << 20).end()), Fault::Bomb);
    let noise: Vec<u8> = (0..6_u32 << 20)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect();
    let large = Archive::default().entry(b'0', "a", "", &noise);
    assert_eq!(fault(&large.end()), Fault::TooLarge);
    let many = (0..10).fold(Archive::default(), |it, n| it.file(&n.to_string()));
    assert_eq!(fault(&many.end()), Fault::TooManyEntries);
    let links = (0..4).fold(Archive::default(), |it, n| it.link(&n.to_string(), "x"));
    assert_eq!(fault(&links.end()), Fault::TooManyLinks);
    let long = Archive::default().entry(b'L', "x", "", &[b'x'; 5000]);
    assert_eq!(fault(&long.end()), Fault::LongName);
    let large = Archive::default().entry(b'x', "x", "", &b"x".repeat(20_000));
    assert_eq!(fault(&large.end()), Fault::LargeRecords);
    // A file of holes is small packed, and is written out by who unpacks it.
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[0] = b'a';
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(3 << 40);
    gnu.sparse[0].set_offset(3 << 40);
    gnu.sparse[0].set_length(0);
    let mut archive = Archive::default();
    archive.raw(header, b"");
    assert_eq!(fault(&archive.end()), Fault::TooLarge);
}

/// What a random archive is made of.
#[derive(Debug, Clone)]
pub(super) enum Made {
    File(String, Vec<u8>),
    Directory(String),
    Link(String, String),
}

pub(super) fn made() -> impl Strategy<Value = Vec<Made>> {
    // Long ones need GNU's extensions; the first component keeps links and files apart.
    let name = "[a-zé]{1,40}(/[a-z .]{0,3}[a-z]{1,60}){0,5}";
    let one = prop_oneof![
        (name, vec(any::<u8>(), 0..2000)).prop_map(|(at, it)| Made::File(format!("f/{at}"), it)),
        name.prop_map(|at| Made::Directory(format!("f/{at}"))),
        ("[a-z]{1,120}", name).prop_map(|(at, to)| Made::Link(format!("l/{at}"), to)),
    ];
    vec(one, 0..20)
}

pub(super) fn build(made: &[Made]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut links = std::collections::HashSet::new();
    for one in made {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        match one {
            Made::File(path, contents) => {
                // As it is for every file that is there.
                header.set_entry_type(EntryType::Regular);
                header.set_size(contents.len() as u64);
                builder
                    .append_data(&mut header, path, &contents[..])
                    .unwrap();
            }
            Made::Directory(path) => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, path, &b""[..]).unwrap();
            }
            Made::Link(path, target) if links.insert(path) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Made::Link(..) => {}
        }
    }
    builder.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_archive_that_nx_could_have_made_is_clean_and_read_as_its_library_reads_it(made in made()) {
        let tar = build(&made);
        prop_assert_eq!(inspect(Limits::default(), &gzip(&tar), 1000), Verdict::Clean);
        prop_assert_eq!(listed_here(&tar).unwrap(), listed_by_tar(&tar));
    }

    #[test]
    fn any_bytes_have_a_verdict_and_need_little_memory(bytes in vec(any::<u8>(), 0..4000), cut in 1..500_usize) {
        let sent = gzip(&bytes);
        let whole = inspect(Limits::default(), &sent, sent.len());
        prop_assert_eq!(inspect(Limits::default(), &sent, cut), whole);
        inspect(Limits::default(), &bytes, cut);
    }
}
