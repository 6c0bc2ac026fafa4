//! `ActionCache`: what is stored, what comes back, and when it does not.

use bytes::Bytes;
use larder_proto::reapi::{ActionResult, Digest, OutputDirectory, OutputFile, OutputSymlink};
use larder_proto::{Message, reapi};

use crate::house::{House, Pieces, bytes};
use crate::reapi::*;

fn action() -> Digest {
    digest(b"an action, which nobody uploads")
}

fn file(path: &str, blob: &[u8]) -> OutputFile {
    OutputFile {
        path: path.to_owned(),
        digest: Some(digest(blob)),
        ..OutputFile::default()
    }
}

/// A result with a file, an empty file, a tree with a file in a directory, and both streams.
struct Build {
    tree: Vec<u8>,
    result: ActionResult,
}

const FILE: &[u8] = b"a file";
const STDOUT: &[u8] = b"said on stdout";
const STDERR: &[u8] = b"said on stderr";
const DEEP: &[u8] = b"deep in the tree";

fn build() -> Build {
    let node = |name: &str, blob: &[u8]| reapi::FileNode {
        name: name.to_owned(),
        digest: Some(digest(blob)),
        ..Default::default()
    };
    let child = reapi::Directory {
        files: vec![node("deep", DEEP)],
        ..Default::default()
    };
    let root = reapi::Directory {
        files: vec![node("empty", b"")],
        directories: vec![reapi::DirectoryNode {
            name: "child".to_owned(),
            digest: Some(digest(&child.encode_to_vec())),
        }],
        ..Default::default()
    };
    let tree = reapi::Tree {
        root: Some(root),
        children: vec![child],
    };
    let tree = tree.encode_to_vec();
    let result = ActionResult {
        output_files: vec![file("out/a", FILE), file("out/empty", b"")],
        output_directories: vec![OutputDirectory {
            path: "out/dir".to_owned(),
            tree_digest: Some(digest(&tree)),
            ..Default::default()
        }],
        stdout_digest: Some(digest(STDOUT)),
        stderr_digest: Some(digest(STDERR)),
        ..Default::default()
    };
    Build { tree, result }
}

#[tokio::test]
async fn a_result_comes_back_as_it_was_sent() {
    let (house, build) = (house(), build());
    let client = Client::new(&house, "trunk");
    client
        .get_action(&action())
        .await
        .refused(NOT_FOUND, "no such action result");
    client
        .store(&[FILE, STDOUT, STDERR, DEEP, &build.tree])
        .await;
    let stored: ActionResult = client
        .update_action(&action(), &build.result)
        .await
        .message();
    assert_eq!(stored, build.result);
    let found: ActionResult = client.get_action(&action()).await.message();
    assert_eq!(found, build.result);
    // What nobody here knows is kept.
    let result = [&build.result.encode_to_vec()[..], b"\xda\x07\x03new"].concat();
    let mut request = reapi::UpdateActionResultRequest {
        instance_name: "main".to_owned(),
        action_digest: Some(action()),
        ..Default::default()
    }
    .encode_to_vec();
    request.extend_from_slice(&[
        3 << 3 | 2,
        (result.len() % 128 + 128) as u8,
        (result.len() / 128) as u8,
    ]);
    request.extend_from_slice(&result);
    let body = Pieces::whole(&larder_grpc::frame(&request));
    assert_eq!(
        client.send(UPDATE_ACTION_RESULT, body).await.messages,
        [Bytes::from(result.clone())]
    );
    assert_eq!(
        client.get_action(&action()).await.messages,
        [Bytes::from(result)]
    );
}

#[tokio::test]
async fn a_result_is_found_only_with_all_its_blobs() {
    let build = build();
    let all = [FILE, STDOUT, STDERR, DEEP, &build.tree];
    for missing in 0..all.len() {
        let house = house();
        let client = Client::new(&house, "trunk");
        let mut there = all.to_vec();
        there.remove(missing);
        client.store(&there).await;
        client
            .update_action(&action(), &build.result)
            .await
            .message::<ActionResult>();
        let reply = client.get_action(&action()).await;
        reply.refused(NOT_FOUND, "a blob that it needs is gone");
        client.store(&[all[missing]]).await;
        client.get_action(&action()).await.message::<ActionResult>();
    }
}

#[tokio::test]
async fn a_tree_that_is_none_is_a_miss() {
    let house = house();
    let client = Client::new(&house, "trunk");
    client.store(&[b"\xff no tree"]).await;
    let result = ActionResult {
        output_directories: vec![OutputDirectory {
            path: "d".to_owned(),
            tree_digest: Some(digest(b"\xff no tree")),
            ..Default::default()
        }],
        ..Default::default()
    };
    client
        .update_action(&action(), &result)
        .await
        .message::<ActionResult>();
    client.get_action(&action()).await.refused(NOT_FOUND, "");
}

/// A directory of about this many bytes that names no blob but the empty one.
fn long_directory(len: usize, seed: usize) -> reapi::Directory {
    let file = reapi::FileNode {
        name: format!("{seed}{}", "x".repeat(len)),
        digest: Some(digest(b"")),
        ..Default::default()
    };
    reapi::Directory {
        files: vec![file],
        ..Default::default()
    }
}

async fn found_with(client: &Client<'_>, output_directories: Vec<OutputDirectory>) -> bool {
    let result = ActionResult {
        output_directories,
        ..Default::default()
    };
    let stored = client.update_action(&action(), &result).await;
    stored.message::<ActionResult>();
    let reply = client.get_action(&action()).await;
    assert!(matches!(reply.code, OK | NOT_FOUND), "{reply:?}");
    reply.code == OK
}

/// A few kilobytes, compressed, must not make the server read for minutes.
#[tokio::test]
async fn trees_and_directories_of_one_result_are_read_up_to_one_limit_in_bytes() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let tree = |len| {
        let root = Some(long_directory(len, 0));
        let children = Vec::new();
        reapi::Tree { root, children }.encode_to_vec()
    };
    let trees = [tree(7 << 20), tree(9 << 20)];
    let directories: Vec<Vec<u8>> = (0..8)
        .map(|seed| long_directory(15 << 20, seed).encode_to_vec())
        .collect();
    for blob in directories.iter().chain(&trees) {
        let uploaded = client.upload(&names(blob, true).0, &zstd(blob)).await;
        assert_eq!(uploaded.code, OK, "{uploaded:?}");
    }
    let of_roots = directories.iter().map(|root| OutputDirectory {
        root_directory_digest: Some(digest(root)),
        ..Default::default()
    });
    for (tree, found) in trees.iter().zip([true, false]) {
        let of_tree = OutputDirectory {
            tree_digest: Some(digest(tree)),
            ..Default::default()
        };
        let all = of_roots.clone().chain([of_tree]).collect();
        assert_eq!(found_with(&client, all).await, found);
    }
}

#[tokio::test]
async fn directories_of_one_result_are_read_up_to_a_number() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let leaves: Vec<Vec<u8>> = (0..10_000)
        .map(|seed| long_directory(1, seed).encode_to_vec())
        .collect();
    for batch in leaves.chunks(2000) {
        let batch: Vec<&[u8]> = batch.iter().map(|leaf| &leaf[..]).collect();
        client.store(&batch).await;
    }
    // The root is one as well.
    for (count, found) in [(9_999, true), (10_000, false)] {
        let node = |leaf: &Vec<u8>| reapi::DirectoryNode {
            name: hash(leaf),
            digest: Some(digest(leaf)),
        };
        let root = reapi::Directory {
            directories: leaves[..count].iter().map(node).collect(),
            ..Default::default()
        };
        let root = root.encode_to_vec();
        client.store(&[&root]).await;
        let of_root = OutputDirectory {
            root_directory_digest: Some(digest(&root)),
            ..Default::default()
        };
        assert_eq!(found_with(&client, vec![of_root]).await, found, "{count}");
    }
}

#[tokio::test]
async fn a_result_that_its_clients_could_not_receive_is_refused() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let limit = (4 << 20) - (64 << 10);
    for (len, is_taken) in [(limit, true), (limit + 1, false)] {
        // The field's number and length are five bytes.
        let result = ActionResult {
            stdout_raw: vec![b'x'; len - 5].into(),
            ..Default::default()
        };
        assert_eq!(result.encoded_len(), len);
        let reply = client.update_action(&action(), &result).await;
        if is_taken {
            assert_eq!(reply.message::<ActionResult>(), result);
            let found: ActionResult = client.get_action(&action()).await.message();
            assert_eq!(found, result);
        } else {
            reply.refused(INVALID_ARGUMENT, "more than 4128768 bytes");
        }
    }
}

#[tokio::test]
async fn a_result_without_any_field_is_a_result() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let stored: ActionResult = client
        .update_action(&action(), &ActionResult::default())
        .await
        .message();
    assert_eq!(stored, ActionResult::default());
    let found: ActionResult = client.get_action(&action()).await.message();
    assert_eq!(found, ActionResult::default());
    // Over HTTP no bytes are no action result, so it has some.
    let path = format!("/main/ac/{}", action().hash);
    let answer = house.get("trunk", &path).await;
    let body = answer.body.expect("a whole body");
    assert_eq!((answer.status.as_u16(), body.is_empty()), (200, false));
    assert_eq!(ActionResult::decode(body), Ok(ActionResult::default()));
}

#[tokio::test]
async fn the_last_result_counts() {
    let house = house();
    let client = Client::new(&house, "trunk");
    for exit_code in [1, 2, 0] {
        let result = ActionResult {
            exit_code,
            ..Default::default()
        };
        client
            .update_action(&action(), &result)
            .await
            .message::<ActionResult>();
        let found: ActionResult = client.get_action(&action()).await.message();
        assert_eq!(found.exit_code, exit_code);
    }
    assert_eq!(entries(&house), (1, 0));
}

#[tokio::test]
async fn streams_and_files_are_put_in_on_request_as_far_as_there_is_room() {
    let (house, mut build) = (house(), build());
    let client = Client::new(&house, "trunk");
    client
        .store(&[FILE, STDOUT, STDERR, DEEP, &build.tree])
        .await;
    client
        .update_action(&action(), &build.result)
        .await
        .message::<ActionResult>();
    let found: ActionResult = client
        .get_inlined(&action(), true, &["out/a", "other"])
        .await
        .message();
    assert_eq!(
        (&found.stdout_raw[..], &found.stderr_raw[..]),
        (STDOUT, STDERR)
    );
    assert_eq!(found.output_files[0].contents, FILE);
    assert_eq!(found.output_files[1].contents, b""[..]);
    let mut without = found.clone();
    (without.stdout_raw, without.stderr_raw) = (Bytes::new(), Bytes::new());
    without.output_files[0].contents = Bytes::new();
    assert_eq!(without, build.result, "and nothing else changes");
    // What the result says itself stays, as old moon sends it.
    build.result.stdout_raw = Bytes::from_static(b"raw");
    client
        .update_action(&action(), &build.result)
        .await
        .message::<ActionResult>();
    let found: ActionResult = client.get_inlined(&action(), true, &[]).await.message();
    assert_eq!(
        (&found.stdout_raw[..], &found.stderr_raw[..]),
        (&b"raw"[..], STDERR)
    );
    let plain: ActionResult = client.get_action(&action()).await.message();
    assert_eq!(plain, build.result);
}

#[tokio::test]
async fn what_is_put_in_has_a_limit_in_all() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blobs: Vec<Vec<u8>> = (0..80).map(|seed| bytes(60_000, seed)).collect();
    let result = ActionResult {
        output_files: blobs.iter().map(|blob| file(&hash(blob), blob)).collect(),
        ..Default::default()
    };
    for blobs in blobs.chunks(40) {
        let blobs: Vec<&[u8]> = blobs.iter().map(|blob| &blob[..]).collect();
        client.store(&blobs).await;
    }
    client
        .update_action(&action(), &result)
        .await
        .message::<ActionResult>();
    let paths: Vec<&str> = result
        .output_files
        .iter()
        .map(|file| &file.path[..])
        .collect();
    let reply = client.get_inlined(&action(), false, &paths).await;
    assert!(reply.messages[0].len() < 4 << 20);
    let found: ActionResult = reply.message();
    let inlined = found
        .output_files
        .iter()
        .filter(|file| !file.contents.is_empty());
    assert_eq!(inlined.count(), (3 << 20) / 60_000);
}

#[tokio::test]
async fn what_is_no_result_is_refused_and_says_why() {
    let house: House = house();
    let client = Client::new(&house, "trunk");
    let with_file = |file| ActionResult {
        output_files: vec![file],
        ..Default::default()
    };
    let negative = Digest {
        size_bytes: -1,
        ..digest(b"x")
    };
    let cases = [
        with_file(file("", b"x")),
        with_file(file("/etc/passwd", b"x")),
        with_file(OutputFile {
            path: "a".to_owned(),
            ..Default::default()
        }),
        with_file(OutputFile {
            path: "a".to_owned(),
            digest: Some(negative.clone()),
            ..Default::default()
        }),
        ActionResult {
            stdout_digest: Some(negative.clone()),
            ..Default::default()
        },
        ActionResult {
            output_symlinks: vec![OutputSymlink {
                path: "a".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        },
    ];
    for result in cases {
        let reply = client.update_action(&action(), &result).await;
        reply.refused(INVALID_ARGUMENT, "the action result cannot be stored");
    }
    assert_eq!(entries(&house), (0, 0));
    let nonsense = Digest {
        hash: "x".repeat(64),
        size_bytes: 1,
    };
    for bad in [negative, nonsense, Digest::default()] {
        let reply = client.update_action(&bad, &ActionResult::default()).await;
        reply.refused(INVALID_ARGUMENT, "digest");
        client
            .get_action(&bad)
            .await
            .refused(INVALID_ARGUMENT, "digest");
    }
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(action()),
        ..Default::default()
    };
    let reply = client.call(UPDATE_ACTION_RESULT, &request).await;
    reply.refused(INVALID_ARGUMENT, "UpdateActionResultRequest");
    assert_eq!(entries(&house), (0, 0));
}

#[tokio::test]
async fn results_are_apart_by_instance_name_and_by_function() {
    let house = house();
    let result = ActionResult {
        exit_code: 7,
        ..Default::default()
    };
    let stored = Client::new(&house, "trunk").at("a/b");
    stored
        .update_action(&action(), &result)
        .await
        .message::<ActionResult>();
    for (instance, expected) in [
        ("a/b", OK),
        ("/a//b/", OK),
        ("w/acme/a/b", OK),
        ("a", NOT_FOUND),
        ("", NOT_FOUND),
        ("a/B", NOT_FOUND),
    ] {
        let client = Client::new(&house, "trunk").at(instance);
        assert_eq!(
            client.get_action(&action()).await.code,
            expected,
            "{instance}"
        );
    }
    let get = async |function| {
        let request = reapi::GetActionResultRequest {
            instance_name: "a/b".to_owned(),
            action_digest: Some(action()),
            digest_function: function,
            ..Default::default()
        };
        stored.call(GET_ACTION_RESULT, &request).await
    };
    assert_eq!(get(1).await.code, OK);
    get(BLAKE3).await.refused(NOT_FOUND, "");
    get(2)
        .await
        .refused(INVALID_ARGUMENT, "SHA256 (1) and BLAKE3 (9)");
    // The empty name is a name like any other.
    let empty = Client::new(&house, "trunk").at("");
    empty
        .update_action(&action(), &result)
        .await
        .message::<ActionResult>();
    assert_eq!(empty.at("/").get_action(&action()).await.code, OK);
}
