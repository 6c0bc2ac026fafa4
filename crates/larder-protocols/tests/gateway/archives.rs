//! Archives that Nx uploads, and the paths of action results: what of them is refused, to whom, and what that looks like.

use flate2::Compression;
use flate2::write::GzEncoder;
use larder_model::Access;
use larder_proto::Message as _;
use larder_proto::reapi::{
    ActionResult, Directory, FileNode, OutputDirectory, OutputSymlink, SymlinkNode, Tree,
    UpdateActionResultRequest,
};
use larder_protocols::InspectedWriters;
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

use crate::house::{End, House, Pieces, bytes};
use crate::log;
use crate::reapi::{self, Client};

const ENTRY: &str = "/v1/cache/10452039173495807818";

fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.isolated("pr", "acme", "pr/7");
    house
}

/// An archive like Nx's, with an entry of this name in front, written past the library's own checks.
fn archive(name: &str, kind: EntryType, target: &str, contents: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_size(contents.len() as u64);
    header.set_cksum();
    builder.append(&header, contents).unwrap();
    for (name, contents) in [("terminalOutput", &b"> built"[..]), ("code", &[0; 4])] {
        let mut header = Header::new_old();
        header.set_size(contents.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, name, contents).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn good(len: usize) -> Vec<u8> {
    archive(
        "packages/app/dist/a",
        EntryType::Regular,
        "",
        &bytes(len, 1),
    )
}

fn inspected(house: &House, verdict: &str, fault: &str, writer: &str) -> bool {
    let line = format!(
        r#"larder_inspected_total{{dialect="nx",verdict="{verdict}",fault="{fault}",writer="{writer}"}} 1"#
    );
    house.metrics().contains(&line)
}

#[tokio::test]
async fn a_pull_requests_hostile_archive_is_refused_once_it_is_read_and_trunks_is_stored_and_flagged()
 {
    for (name, kind, target, fault) in [
        ("../../x\u{1b}[2J", EntryType::Regular, "", "parent_path"),
        ("/etc/x", EntryType::Regular, "", "absolute_path"),
        ("a", EntryType::Symlink, "../x", "link_leaves_root"),
        ("a", EntryType::Link, "x", "hard_link"),
        ("a", EntryType::Fifo, "", "device"),
        ("code", EntryType::Regular, "", "duplicate"),
    ] {
        let house = house();
        let hostile = archive(name, kind, target, b"");
        log::keep();
        // The rest of a large body is read all the same: a client that is answered while it sends sees a broken connection.
        let rest = bytes(300_000, 2);
        let pieces: &[&[u8]] = &[&hostile, &rest];
        let declared = (hostile.len() + rest.len()) as u64;
        let (body, read) = Pieces::new(pieces, Some(declared), End::Clean);
        let answer = house.send("PUT", ENTRY, &[house.bearer("pr")], body).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert!(answer.text().contains("archive"), "{answer:?}");
        assert_eq!(
            read.load(std::sync::atomic::Ordering::Relaxed) as u64,
            declared
        );
        assert_eq!(house.get("pr", ENTRY).await.status, 404);
        assert!(
            inspected(&house, "hostile", fault, "untrusted"),
            "{}",
            house.metrics()
        );
        let denied =
            r#"larder_denied_total{dialect="nx",action="write",reason="hostile_archive"} 1"#;
        assert!(house.metrics().contains(denied), "{}", house.metrics());
        let lines = log::kept();
        let line = lines
            .iter()
            .find(|(_, line)| line.contains("hostile_archive"));
        let (_, line) = line.unwrap_or_else(|| panic!("{lines:#?}"));
        assert!(line.contains(fault) && line.contains("writer"), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");

        log::keep();
        assert_eq!(house.put("trunk", ENTRY, &hostile).await.status, 200);
        assert_eq!(house.get("pr", ENTRY).await.brief(), (200, &hostile[..]));
        assert!(
            inspected(&house, "hostile", fault, "trusted"),
            "{}",
            house.metrics()
        );
        let flagged = log::kept();
        let flagged = flagged
            .iter()
            .find(|(_, line)| line.contains("trusted writer"));
        let (level, line) = flagged.expect("a line for the operator");
        assert_eq!(*level, tracing::Level::WARN);
        assert!(line.contains(fault), "{line}");
    }
}

#[tokio::test]
async fn whose_archives_are_looked_into_can_be_chosen_and_untrusted_ones_always_are() {
    let house = house();
    let hostile = archive("../x", EntryType::Regular, "", b"");
    let only_untrusted = InspectedWriters::Untrusted;
    house.gateway.set_inspected_writers(only_untrusted);
    log::keep();
    assert_eq!(house.put("trunk", ENTRY, &hostile).await.status, 200);
    assert!(inspected(&house, "not_examined", "", "trusted"));
    let lines = log::kept();
    let flagged = lines.iter().any(|(_, line)| line.contains("hostile"));
    assert!(!flagged, "{lines:#?}");
    let other = "/v1/cache/2";
    assert_eq!(house.put("pr", other, &hostile).await.status, 403);
    assert!(inspected(&house, "hostile", "parent_path", "untrusted"));
    // It holds for what begins from now on.
    house.gateway.set_inspected_writers(InspectedWriters::All);
    assert_eq!(house.put("trunk", other, &hostile).await.status, 200);
    assert!(inspected(&house, "hostile", "parent_path", "trusted"));
}

#[tokio::test]
async fn what_nx_sends_and_what_is_no_archive_is_stored_for_everybody() {
    for size in [10, 70_000, 3_000_000] {
        for (body, verdict) in [(good(size), "clean"), (bytes(size, 3), "unknown_format")] {
            let house = house();
            let body: Vec<&[u8]> = body.chunks(100_000).collect();
            let whole = body.concat();
            let (pieces, _) = Pieces::new(&body, Some(whole.len() as u64), End::Clean);
            let answer = house
                .send("PUT", ENTRY, &[house.bearer("pr")], pieces)
                .await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(house.get("pr", ENTRY).await.brief(), (200, &whole[..]));
            assert!(
                inspected(&house, verdict, "", "untrusted"),
                "{}",
                house.metrics()
            );
        }
    }
}

#[tokio::test]
async fn a_fault_far_behind_is_found_in_a_large_archive() {
    let house = house();
    let mut sent = good(3_000_000);
    let end = sent.len();
    sent[end - 5] ^= 1;
    let pieces: Vec<&[u8]> = sent.chunks(70_000).collect();
    let (body, _) = Pieces::new(&pieces, None, End::Clean);
    let answer = house.send("PUT", ENTRY, &[house.bearer("pr")], body).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(
        inspected(&house, "hostile", "checksum", "untrusted"),
        "{}",
        house.metrics()
    );
    // Nor is one that unpacks to far more than any build makes.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::default());
    let mut header = Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_size(40 << 30);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..1100).for_each(|_| bomb.write_all(&zeros).unwrap());
    let answer = house.put("pr", ENTRY, &bomb.finish().unwrap()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(
        inspected(&house, "hostile", "bomb", "untrusted"),
        "{}",
        house.metrics()
    );
}

/// A result whose only output is this symlink.
fn result(path: &str, target: &str) -> ActionResult {
    ActionResult {
        output_symlinks: vec![OutputSymlink {
            path: path.to_owned(),
            target: target.to_owned(),
            ..OutputSymlink::default()
        }],
        ..ActionResult::default()
    }
}

#[tokio::test]
async fn an_action_result_that_reaches_outside_is_refused_to_a_pull_request_and_flagged_of_trunk() {
    for (path, target, is_stray) in [
        ("out/link", "other", false),
        ("out/a/link", "../../x", false),
        ("../x", "y", true),
        ("out\\..\\..\\x", "y", true),
        ("out/link", "/etc/passwd", true),
        ("link", "../x", true),
    ] {
        let house = house();
        let result = result(path, target);
        let sent = result.encode_to_vec();
        let update = UpdateActionResultRequest {
            action_digest: Some(reapi::digest(b"an action")),
            action_result: Some(result),
            ..UpdateActionResultRequest::default()
        };
        let http = format!("/ac/{}", reapi::hash(b"an action"));
        for (token, is_trusted) in [("pr", false), ("trunk", true)] {
            let is_stored = is_trusted || !is_stray;
            let reply = Client::new(&house, token)
                .call(reapi::UPDATE_ACTION_RESULT, &update)
                .await;
            let code = reply.code;
            assert_eq!(code == 0, is_stored, "{path} -> {target}: {reply:?}");
            assert!(code == 0 || code == 3, "{reply:?}");
            let answer = house.put(token, &http, &sent).await;
            let status = if is_stored { 200 } else { 403 };
            assert_eq!(answer.status, status, "{path} -> {target}: {answer:?}");
        }
        let flagged = house.metrics().contains(r#"writer="trusted"} 2"#);
        assert!(flagged, "{}", house.metrics());
    }
}

/// A tree's names are looked at when its result is asked for: the blob of it may come later than the result.
#[tokio::test]
async fn a_result_whose_tree_has_names_that_are_paths_on_some_system_is_found_only_if_trunk_stored_it()
 {
    let file = |name: &str| Directory {
        files: vec![FileNode {
            name: name.to_owned(),
            digest: Some(reapi::digest(b"contents")),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    let link = |name: &str| Directory {
        symlinks: vec![SymlinkNode {
            name: name.to_owned(),
            target: "x".to_owned(),
            ..SymlinkNode::default()
        }],
        ..Directory::default()
    };
    for (name, is_name) in [
        ("a", true),
        ("a b.é", true),
        ("..\\..\\x", false),
        ("a\\b", false),
        ("C:x", false),
        (".. ", false),
    ] {
        for root in [file(name), link(name)] {
            let house = house();
            let tree = Tree {
                root: Some(root),
                ..Tree::default()
            };
            let tree = tree.encode_to_vec();
            let result = ActionResult {
                output_directories: vec![OutputDirectory {
                    path: "out".to_owned(),
                    tree_digest: Some(reapi::digest(&tree)),
                    ..OutputDirectory::default()
                }],
                ..ActionResult::default()
            };
            let action = reapi::digest(b"an action");
            for (token, is_found) in [("pr", is_name), ("trunk", true)] {
                let client = Client::new(&house, token);
                client.store(&[b"contents", &tree]).await;
                let stored: ActionResult = client.update_action(&action, &result).await.message();
                assert_eq!(stored, result);
                let code = client.get_action(&action).await.code;
                assert_eq!(code, if is_found { 0 } else { 5 }, "{token}: {name:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_valid_result_but_reads_as_one_does_not_pass_as_something_else() {
    let house = house();
    let result = ActionResult {
        output_files: vec![larder_proto::reapi::OutputFile {
            path: "/etc/x".to_owned(),
            contents: b"x".to_vec().into(),
            ..Default::default()
        }],
        ..ActionResult::default()
    };
    let http = format!("/ac/{}", reapi::hash(b"an action"));
    let answer = house.put("pr", &http, &result.encode_to_vec()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    // Other tools keep what they like.
    assert_eq!(house.put("pr", &http, b"an opaque text").await.status, 200);
}
