//! What an action result refers to, and what is wrong with one.

#![expect(
    clippy::unnecessary_wraps,
    reason = "the fields of messages are options"
)]

use larder_proto::{Message as _, reapi as re};
use proptest::prelude::*;

use super::*;

const SHA256: DigestFunction = DigestFunction::Sha256;

fn hash(seed: u8) -> String {
    BlobHash([seed; 32]).to_string()
}

fn sent(seed: u8, size_bytes: i64) -> Option<re::Digest> {
    Some(re::Digest {
        hash: hash(seed),
        size_bytes,
    })
}

fn digest(seed: u8, size: i64) -> Digest {
    Digest::new(SHA256, BlobHash([seed; 32]), size).unwrap()
}

fn file(path: &str, digest: Option<re::Digest>) -> re::OutputFile {
    re::OutputFile {
        path: path.to_owned(),
        digest,
        ..Default::default()
    }
}

fn directory(tree: Option<re::Digest>, root: Option<re::Digest>) -> re::OutputDirectory {
    re::OutputDirectory {
        tree_digest: tree,
        root_directory_digest: root,
        ..Default::default()
    }
}

fn link(path: &str, target: &str) -> re::OutputSymlink {
    re::OutputSymlink {
        path: path.to_owned(),
        target: target.to_owned(),
        ..Default::default()
    }
}

fn references(result: &re::ActionResult) -> Result<References, Invalid> {
    References::of(SHA256, &result.encode_to_vec())
}

#[test]
fn every_blob_that_must_be_there_is_a_reference() {
    let inlined = re::OutputFile {
        contents: "inlined".into(),
        ..file("inlined", sent(2, 7))
    };
    let result = re::ActionResult {
        output_files: vec![file("a", sent(1, 10)), inlined, file("b", sent(3, 1 << 40))],
        output_directories: vec![
            directory(sent(4, 40), None),
            directory(sent(5, 50), sent(6, 60)),
            directory(None, sent(7, 70)),
        ],
        output_symlinks: vec![link("link", "/absolute/target")],
        stdout_digest: sent(8, 80),
        stderr_digest: sent(9, 90),
        exit_code: 1,
        ..Default::default()
    };
    let expected = References {
        blobs: vec![
            digest(1, 10),
            digest(3, 1 << 40),
            digest(4, 40),
            digest(5, 50),
            digest(6, 60),
            digest(7, 70),
            digest(8, 80),
            digest(9, 90),
        ],
        trees: vec![digest(4, 40), digest(5, 50)],
        roots: vec![digest(6, 60), digest(7, 70)],
        says_something: true,
    };
    assert_eq!(references(&result), Ok(expected));
}

#[test]
fn a_result_without_outputs_streams_and_metadata_says_nothing() {
    assert_eq!(References::of(SHA256, b""), Ok(References::default()));
    let mut result = re::ActionResult {
        exit_code: 3,
        stdout_raw: "hello".into(),
        ..Default::default()
    };
    result.stderr_digest = Some(re::Digest::default());
    result.execution_metadata = Some(re::ExecutedActionMetadata::default());
    assert_eq!(references(&result), Ok(References::default()));
    result.execution_metadata = Some(re::ExecutedActionMetadata {
        worker: "moon".to_owned(),
        ..Default::default()
    });
    assert!(references(&result).unwrap().says_something);
}

fn check_invalid(change: impl FnOnce(&mut re::ActionResult), expected: Invalid, text: &str) {
    let mut result = re::ActionResult {
        output_files: vec![file("first", sent(1, 1))],
        ..Default::default()
    };
    change(&mut result);
    assert_eq!(references(&result), Err(expected), "{result:?}");
    assert!(expected.to_string().contains(text), "{expected}");
}

#[test]
fn what_no_client_could_use_is_refused_with_the_name_of_its_field() {
    let of_file = |file: re::OutputFile, expected, text| {
        check_invalid(|result| result.output_files.push(file), expected, text);
    };
    const FILES: &str = "output_files";
    of_file(file("", sent(1, 1)), Invalid::EmptyPath(FILES), FILES);
    of_file(
        file("/a", sent(1, 1)),
        Invalid::AbsolutePath(FILES),
        "relative",
    );
    of_file(file("a", None), Invalid::NoDigest(FILES), "missing");
    of_file(file("a", sent(1, -1)), Invalid::BadSize(FILES), "size");
    of_file(file("a", sent(1, 0)), Invalid::BadSize(FILES), "size");
    let digest = Some(re::Digest::default());
    of_file(file("a", digest), Invalid::BadHash(FILES), "64");
    let upper = Some(re::Digest {
        hash: "A".repeat(64),
        size_bytes: 1,
    });
    of_file(file("a", upper), Invalid::BadHash(FILES), "lower-case");
    let of_directory = |directory, expected, text| {
        check_invalid(
            |result| result.output_directories.push(directory),
            expected,
            text,
        );
    };
    let tree = "output_directories.tree_digest";
    let root = "output_directories.root_directory_digest";
    of_directory(
        directory(None, None),
        Invalid::NoDigest("output_directories"),
        "",
    );
    of_directory(directory(sent(1, -1), None), Invalid::BadSize(tree), tree);
    of_directory(
        directory(sent(1, 1), sent(1, -1)),
        Invalid::BadSize(root),
        root,
    );
    let absolute = re::OutputDirectory {
        path: "/".to_owned(),
        ..directory(sent(1, 1), None)
    };
    of_directory(absolute, Invalid::AbsolutePath("output_directories"), "");
    let links = "output_symlinks";
    check_invalid(
        |result| result.output_symlinks.push(link("a", "")),
        Invalid::NoTarget(links),
        links,
    );
    check_invalid(
        |result| result.output_symlinks.push(link("", "a")),
        Invalid::EmptyPath(links),
        links,
    );
    check_invalid(
        |result| result.stdout_digest = sent(1, -1),
        Invalid::BadSize("stdout_digest"),
        "stdout",
    );
    check_invalid(
        |result| {
            result.stderr_digest = Some(re::Digest {
                hash: "x".to_owned(),
                size_bytes: 0,
            });
        },
        Invalid::BadHash("stderr_digest"),
        "stderr",
    );
    for bytes in [&b"\xff"[..], b"\x12\x05a", b"\x10\x01", b"\x32\x02\x08\x01"] {
        assert_eq!(check(SHA256, bytes), Err(Invalid::Malformed), "{bytes:?}");
    }
    let not_utf8 = b"\x12\x03\x0a\x01\xff";
    assert_eq!(check(SHA256, not_utf8), Err(Invalid::UnreadablePath(FILES)));
}

#[test]
fn what_clients_really_send_is_not_refused() {
    let empty_path = directory(sent(1, 1), None);
    let inlined = re::OutputFile {
        contents: "inlined".into(),
        ..file("a", None)
    };
    let result = re::ActionResult {
        output_files: vec![inlined],
        output_directories: vec![empty_path],
        stdout_digest: Some(re::Digest::default()),
        stdout_raw: "as moon 2.4.3 does".into(),
        ..Default::default()
    };
    let mut message = result.encode_to_vec();
    message.extend(b"\xf2\x7f\x03new\x88\x7d\x01");
    assert_eq!(check(SHA256, &message), Ok(()));
}

#[test]
fn a_digest_in_two_parts_is_the_one_that_a_decoder_sees() {
    let (first, second) = (sent(1, 10), sent(2, 20));
    let one = re::ActionResult {
        output_files: vec![file("a", first)],
        ..Default::default()
    };
    let mut nested = one.output_files[0].encode_to_vec();
    nested.extend(file("", second).encode_to_vec());
    let mut message = Vec::new();
    super::super::fields::put_block(2, &nested, &mut message);
    let decoded = re::ActionResult::decode(&message[..]).unwrap();
    assert_eq!(decoded.output_files[0].digest, sent(2, 20));
    let references = References::of(SHA256, &message).unwrap();
    assert_eq!(references.blobs, [digest(2, 20)]);
}

fn node(seed: u8) -> re::FileNode {
    re::FileNode {
        name: format!("file {seed}"),
        digest: sent(seed, i64::from(seed) + 1),
        ..Default::default()
    }
}

fn scan(tree: &[u8], pieces: &[usize]) -> Result<Vec<Digest>, Malformed> {
    let (mut scan, mut listing) = (TreeScan::new(SHA256), Listing::default());
    let mut rest = tree;
    for piece in pieces {
        let (piece, after) = rest.split_at((*piece).min(rest.len()));
        scan.push(piece, &mut listing)?;
        rest = after;
    }
    scan.push(rest, &mut listing)?;
    scan.finish()?;
    Ok(listing.files)
}

#[test]
fn a_tree_with_a_path_for_a_name_is_malformed() {
    let with = |name: &str| {
        let file = re::FileNode {
            name: name.to_owned(),
            digest: sent(1, 1),
            ..Default::default()
        };
        let child = re::DirectoryNode {
            name: name.to_owned(),
            digest: sent(1, 1),
        };
        let link = re::SymlinkNode {
            name: name.to_owned(),
            target: "anything".to_owned(),
            ..Default::default()
        };
        let (mut files, mut directories, mut links) =
            <(re::Directory, re::Directory, re::Directory)>::default();
        files.files.push(file);
        directories.directories.push(child);
        links.symlinks.push(link);
        [files, directories, links].map(|root| {
            let root = Some(root);
            let tree = re::Tree {
                root,
                ..Default::default()
            };
            scan(&tree.encode_to_vec(), &[]).is_ok()
        })
    };
    for name in ["a", "...", "a..", "a\\b", ""] {
        assert_eq!(with(name), [true; 3], "{name:?}");
    }
    for path in ["a/b", "/a", "..", ".", "../a", "a\0b"] {
        assert_eq!(with(path), [false; 3], "{path:?}");
    }
}

#[test]
fn a_tree_that_is_none_is_malformed_at_its_end_at_the_latest() {
    let no_digest = re::FileNode::default().encode_to_vec();
    let mut with_bad_file = Vec::new();
    super::super::fields::put_block(1, &no_digest, &mut with_bad_file);
    let mut tree = Vec::new();
    super::super::fields::put_block(1, &with_bad_file, &mut tree);
    for bytes in [
        &b"\xff"[..],
        b"\x0a\x05a",
        b"\x08\x01",
        b"\x0a\x01\xff",
        &tree,
    ] {
        assert_eq!(scan(bytes, &[]), Err(Malformed), "{bytes:?}");
    }
    let mut endless = TreeScan::new(SHA256);
    let begin = b"\x0a\xff\xff\xff\xff\x0f";
    assert!(endless.push(begin, &mut Listing::default()).is_ok());
    let piece = vec![0; TreeScan::DIRECTORY_BYTES_MAX];
    let pushed = endless.push(&piece, &mut Listing::default());
    assert_eq!(pushed, Err(Malformed));
}

proptest! {
    #[test]
    fn a_tree_names_the_same_files_however_it_is_cut(
        directories in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 1..6),
        pieces in proptest::collection::vec(0..200_usize, 0..12),
    ) {
        let of = |seeds: &Vec<u8>| re::Directory {
            files: seeds.iter().map(|seed| node(*seed)).collect(),
            ..Default::default()
        };
        let tree = re::Tree {
            root: Some(of(&directories[0])),
            children: directories[1..].iter().map(of).collect(),
        };
        let seeds = directories.iter().flatten();
        let expected: Vec<Digest> = seeds.map(|seed| digest(*seed, i64::from(*seed) + 1)).collect();
        prop_assert_eq!(scan(&tree.encode_to_vec(), &pieces), Ok(expected));
    }

    #[test]
    fn no_bytes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        pieces in proptest::collection::vec(0..9_usize, 0..9),
    ) {
        let _ = (check(SHA256, &bytes), scan(&bytes, &pieces));
    }
}
