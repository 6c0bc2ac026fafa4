//! `ContentAddressableStorage`: blobs in batches, and trees.

use std::sync::Arc;

use larder_auth::TokenGrant;
use larder_cache::{PoolHandle, PoolPair};
use larder_model::Access;
use larder_proto::reapi::{BatchReadBlobsResponse, BatchUpdateBlobsResponse, Digest};
use larder_proto::{Message, reapi};
use larder_store::{Pool, PoolOptions, RealDisk};

use crate::house::{House, Pieces, bytes};
use crate::reapi::*;

fn with_size(blob: &[u8], size_bytes: i64) -> Digest {
    Digest {
        size_bytes,
        ..digest(blob)
    }
}

#[tokio::test]
async fn what_is_missing_is_told_exactly_and_once() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let large = bytes(70_000, 1);
    client.store(&[b"small", &large]).await;
    let asked = [
        digest(b"absent"),
        digest(b"small"),
        digest(b""),
        digest(b"absent"),
        digest(&large),
        with_size(b"small", 6),
        with_size(&large, 70_001),
        digest(b"other"),
    ];
    let expected = [0, 5, 6, 7].map(|index| asked[index].clone());
    assert_eq!(client.missing(&asked).await, sorted(expected.to_vec()));
    assert_eq!(client.missing(&[]).await, []);
    // Somebody else's instance name is no other place for blobs.
    assert_eq!(
        Client::new(&house, "trunk")
            .at("other/x")
            .missing(&[digest(b"small")])
            .await,
        []
    );
}

#[tokio::test]
async fn a_digest_that_is_none_is_named() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let bad = |hash: &str, size_bytes| Digest {
        hash: hash.to_owned(),
        size_bytes,
    };
    let upper = hash(b"x").to_uppercase();
    for digest in [
        bad("", 0),
        bad("abc", 3),
        bad(&upper, 3),
        bad(&hash(b"x"), -1),
        bad(&hash(b"x"), 0),
        bad(EMPTY, 1),
        bad(&"0".repeat(40), 1),
    ] {
        let named = format!("{}/{}", digest.hash, digest.size_bytes);
        let asked = [crate::reapi::digest(b"fine"), digest.clone()];
        client
            .find_missing(&asked, 0)
            .await
            .refused(INVALID_ARGUMENT, &named);
        client
            .batch_read(&asked, false)
            .await
            .refused(INVALID_ARGUMENT, &named);
        let items = [
            (digest, &b"x"[..], 0),
            (crate::reapi::digest(b"fine"), b"fine", 0),
        ];
        let update = client.batch_update(&items).await;
        if named == "/0" {
            update.refused(INVALID_ARGUMENT, "no digest");
            continue;
        }
        let update: BatchUpdateBlobsResponse = update.message();
        let codes = update
            .responses
            .iter()
            .map(|item| item.status.as_ref().unwrap().code);
        assert_eq!(codes.collect::<Vec<_>>(), [3, 0]);
    }
    client
        .find_missing(&[digest(b"x")], 2)
        .await
        .refused(INVALID_ARGUMENT, "SHA256 (1) and BLAKE3 (9)");
    assert_eq!(client.find_missing(&[digest(b"x")], BLAKE3).await.code, OK);
}

#[tokio::test]
async fn each_blob_of_a_batch_has_its_verdict() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let packed = bytes(5000, 1);
    let compressed = zstd(&packed);
    let items: [(Digest, &[u8], i32); 10] = [
        (digest(b"one"), b"one", 0),
        (digest(b"one"), b"one", 0),
        (digest(b"two"), b"three", 0),
        (digest(&packed), &compressed, ZSTD),
        (digest(b""), b"", 0),
        (digest(b"four"), b"four", 2),
        (digest(b"five"), b"no zstd", ZSTD),
        (with_size(b"six", 4), b"six", 0),
        (with_size(&packed, 4999), &compressed, ZSTD),
        (digest(b""), &zstd(b""), ZSTD),
    ];
    let response: BatchUpdateBlobsResponse = client.batch_update(&items).await.message();
    let codes = response
        .responses
        .iter()
        .map(|item| item.status.as_ref().unwrap().code);
    assert_eq!(codes.collect::<Vec<_>>(), [0, 0, 3, 0, 0, 3, 3, 3, 3, 0]);
    for (item, answer) in items.iter().zip(&response.responses) {
        assert_eq!(answer.digest.as_ref(), Some(&item.0));
    }
    assert_eq!(entries(&house), (2, 0));
    let asked = [
        digest(b"one"),
        digest(&packed),
        digest(b"two"),
        digest(b"four"),
    ];
    assert_eq!(client.missing(&asked).await, sorted(asked[2..].to_vec()));
}

#[tokio::test]
async fn a_batch_reads_back_with_an_explicit_status_for_each() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let (packed, large) = (bytes(5000, 1), bytes(1 << 20, 2));
    let compressed = zstd(&packed);
    client.store(&[b"one", &large]).await;
    client
        .batch_update(&[(digest(&packed), &compressed, ZSTD)])
        .await;
    let asked = [
        digest(b"one"),
        digest(b"absent"),
        digest(&packed),
        digest(b""),
        digest(&large),
        digest(b"one"),
        with_size(b"one", 4),
    ];
    for zstd in [false, true] {
        let reply: BatchReadBlobsResponse = client.batch_read(&asked, zstd).await.message();
        let packed_as = if zstd {
            (&compressed, ZSTD)
        } else {
            (&packed, 0)
        };
        let expected: [(i32, &[u8], i32); 7] = [
            (0, b"one", 0),
            (5, b"", 0),
            (0, packed_as.0, packed_as.1),
            (0, b"", 0),
            (0, &large, 0),
            (0, b"one", 0),
            (5, b"", 0),
        ];
        assert_eq!(reply.responses.len(), asked.len());
        for ((answer, asked), expected) in reply.responses.iter().zip(&asked).zip(expected) {
            assert_eq!(answer.digest.as_ref(), Some(asked));
            let code = answer.status.as_ref().expect("an explicit status").code;
            assert!(
                (code, &answer.data[..], answer.compressor) == expected,
                "{asked:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_batch_above_the_limit_is_refused_as_a_whole() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let most = (4 << 20) - (64 << 10);
    let (half, more) = (bytes(most / 2, 1), bytes(most / 2 + 1, 2));
    let items = [(digest(&half), &half[..], 0), (digest(&more), &more[..], 0)];
    client
        .batch_update(&items)
        .await
        .refused(INVALID_ARGUMENT, "use ByteStream");
    let asked = [digest(&half), digest(&more)];
    client
        .batch_read(&asked, false)
        .await
        .refused(INVALID_ARGUMENT, "use ByteStream");
    let other = bytes(most / 2, 3);
    client.store(&[&half, &other]).await;
    let asked = [digest(&half), digest(&other)];
    let reply: BatchReadBlobsResponse = client.batch_read(&asked, false).await.message();
    assert!(reply.responses[1].data == other);
    // Zeros that decode to much more than they are.
    let bomb = vec![0; 33 << 20];
    let items = [(digest(&bomb), &zstd(&bomb)[..], ZSTD)];
    client
        .batch_update(&items)
        .await
        .refused(INVALID_ARGUMENT, "use ByteStream");
}

#[tokio::test]
async fn the_answer_to_a_batch_of_small_blobs_is_no_longer_than_its_client_takes() {
    let house = house();
    let blob = bytes(100, 1);
    let mut client = Client::new(&house, "trunk");
    client.store(&[&blob]).await;
    let asked = vec![digest(&blob); 30_000];
    let found = |reply: &Reply| {
        let response = reply.message::<BatchReadBlobsResponse>();
        assert_eq!(response.responses.len(), asked.len());
        let codes = response.responses.iter().map(|answer| {
            let code = answer.status.as_ref().unwrap().code;
            assert_eq!(code == 0, answer.data == blob, "{answer:?}");
            code
        });
        codes.collect::<Vec<_>>()
    };
    let reply = client.batch_read(&asked, false).await;
    let (bytes, codes) = (reply.messages[0].len(), found(&reply));
    assert!(bytes > (4 << 20) - 200 && bytes <= 4 << 20, "{bytes}");
    let full = codes.partition_point(|code| *code == 0);
    assert!(full > 10_000, "what comes first has room first: {full}");
    assert!(codes[full..].iter().all(|code| *code == 8), "{codes:?}");
    let many = vec![digest(&blob); 40_000];
    client
        .batch_read(&many, false)
        .await
        .refused(INVALID_ARGUMENT, "fewer blobs at once");
    // It takes twice the limit, and fails for what it does not get.
    let agent = http::HeaderValue::from_static("buck2");
    client.headers.insert("user-agent", agent);
    let codes = found(&client.batch_read(&asked, false).await);
    assert_eq!(codes.iter().sum::<i32>(), 0);
}

const RESOURCE_EXHAUSTED: u8 = 8;

#[tokio::test]
async fn a_batch_of_more_blobs_than_any_client_sends_is_refused_as_a_whole() {
    let house = house();
    let client = Client::new(&house, "trunk");
    // The least that could be an item, as often as fits.
    let mut nothing = Vec::new();
    for _ in 0..2_000_000 {
        nothing.extend_from_slice(b"\x12\x00");
    }
    let body = Pieces::whole(&larder_grpc::frame(&nothing));
    let reply = client.send(BATCH_UPDATE_BLOBS, body).await;
    reply.refused(INVALID_ARGUMENT, "no digest");
    let fine = (digest(b"fine"), &b""[..], 0);
    let reply = client.batch_update(&vec![fine.clone(); 50_001]).await;
    reply.refused(INVALID_ARGUMENT, "at most 50000 blobs");
    let reply = client.batch_read(&vec![fine.0; 50_001], false).await;
    reply.refused(INVALID_ARGUMENT, "at most 50000 blobs");
    assert_eq!(entries(&house), (0, 0));
}

#[tokio::test]
async fn what_is_wrong_with_fifty_thousand_blobs_is_told_within_the_limit() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let wrong = |size_bytes| (with_size(b"right", size_bytes), &b"x"[..], 0);
    let mut items = vec![wrong(-1); 40_000];
    let count = items.len();
    items.extend([wrong(1), (digest(b"right"), b"right", 0)]);
    let reply = client.batch_update(&items).await;
    assert!(reply.messages[0].len() <= 4 << 20);
    let response: BatchUpdateBlobsResponse = reply.message();
    let status = |index: usize| response.responses[index].status.clone().unwrap();
    assert_eq!(response.responses.len(), items.len());
    assert!((0..=count).all(|index| status(index).code == 3));
    assert!(status(0).message.contains("cannot be used"));
    assert_eq!(status(count).message, "", "there is no room for more text");
    assert_eq!(status(count + 1).code, 0);
    assert_eq!(client.missing(&[digest(b"right")]).await, []);
    // A digest that is none is not repeated at length, and too many of them are too much.
    let long = Digest {
        hash: "x".repeat(100_000),
        size_bytes: 1,
    };
    let reply = client.batch_update(&vec![(long, &b""[..], 0); 50]).await;
    reply.refused(INVALID_ARGUMENT, "fewer blobs at once");
}

/// Stores a batch, for which it must wait, and changes the token meanwhile.
async fn check_changed(change: fn(&mut TokenGrant), code: u8, text: &str) {
    let pair = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let mut house = House::over(pair.clone());
    house.token("trunk", "acme", Access::Trusted);
    let client = Client::new(&house, "trunk");
    let blobs: Vec<Vec<u8>> = (0..100).map(|seed| bytes(100, seed)).collect();
    let items: Vec<_> = blobs.iter().map(|it| (digest(it), &it[..], 0)).collect();
    let changing = async {
        house.change("trunk", change)();
        let dir = tempfile::TempDir::new().unwrap();
        let options = PoolOptions {
            free_reserve_bytes: 0,
            ..PoolOptions::new(16 << 20)
        };
        let open = || Pool::open(Arc::new(RealDisk), dir.path(), options);
        pair.trusted.load(open);
        dir
    };
    // The batch comes first as far as it can.
    let (reply, _dir) = tokio::join!(biased; client.batch_update(&items), changing);
    reply.refused(code, text);
    assert_eq!(pair.trusted.pool().unwrap().usage().entries, 0);
}

#[tokio::test]
async fn a_credential_that_ends_before_its_batch_is_stored_stores_nothing() {
    check_changed(|grant| grant.revoked = true, UNAUTHENTICATED, "revoked").await;
    check_changed(
        |grant| grant.access = Access::Reader,
        PERMISSION_DENIED,
        "changed during",
    )
    .await;
}

fn directory(files: &[&str], children: &[&reapi::Directory]) -> reapi::Directory {
    let file = |name: &&str| reapi::FileNode {
        name: (*name).to_owned(),
        digest: Some(digest(name.as_bytes())),
        ..Default::default()
    };
    let child = |(index, child): (usize, &&reapi::Directory)| reapi::DirectoryNode {
        name: index.to_string(),
        digest: Some(digest(&child.encode_to_vec())),
    };
    reapi::Directory {
        files: files.iter().map(file).collect(),
        directories: children.iter().enumerate().map(child).collect(),
        ..Default::default()
    }
}

async fn tree(client: &Client<'_>, root: &reapi::Directory, size: i32, token: &str) -> Reply {
    let request = reapi::GetTreeRequest {
        instance_name: "main".to_owned(),
        root_digest: Some(digest(&root.encode_to_vec())),
        page_size: size,
        page_token: token.to_owned(),
        ..Default::default()
    };
    client.call(GET_TREE, &request).await
}

#[tokio::test]
async fn a_tree_comes_in_pages_each_directory_once_and_without_what_is_missing() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let leaf = directory(&["leaf"], &[]);
    let lost = directory(&["lost"], &[]);
    let middle = directory(&["middle"], &[&leaf]);
    let root = directory(&["root"], &[&middle, &lost, &leaf, &directory(&[], &[])]);
    let stored: Vec<Vec<u8>> = [&leaf, &middle, &root].map(Message::encode_to_vec).into();
    let stored: Vec<&[u8]> = stored.iter().map(|bytes| &bytes[..]).collect();
    client.store(&stored[..2]).await;
    tree(&client, &root, 0, "")
        .await
        .refused(NOT_FOUND, "no such blob");
    client.store(&stored).await;
    // The directory without anything in it is the empty blob.
    let all = [root.clone(), middle, leaf, directory(&[], &[])];
    let pages: Vec<reapi::GetTreeResponse> = tree(&client, &root, 0, "").await.stream();
    assert_eq!((pages.len(), &pages[0].directories[..]), (1, &all[..]));
    assert_eq!(pages[0].next_page_token, "");
    let pages: Vec<reapi::GetTreeResponse> = tree(&client, &root, 1, "").await.stream();
    let directories = pages.iter().flat_map(|page| page.directories.clone());
    assert_eq!(directories.collect::<Vec<_>>(), all);
    let token = &pages[1].next_page_token;
    let rest: Vec<reapi::GetTreeResponse> = tree(&client, &root, 0, token).await.stream();
    assert_eq!(rest[0].directories, all[2..]);
    for token in ["x", "-1", "5", "99999999999"] {
        tree(&client, &root, 0, token)
            .await
            .refused(INVALID_ARGUMENT, "page_token");
    }
}

#[tokio::test]
async fn no_page_of_a_large_tree_is_too_large_for_a_client() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let names: Vec<String> = (0..8000).map(|index| format!("{index:060}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &name[..]).collect();
    let children: Vec<reapi::Directory> = (0..8)
        .map(|index| directory(&names[index * 900..], &[]))
        .collect();
    let root = directory(&[], &children.iter().collect::<Vec<_>>());
    for child in children.iter().chain([&root]) {
        client.store(&[&child.encode_to_vec()]).await;
    }
    let reply = tree(&client, &root, 0, "").await;
    assert!(reply.messages.len() > 1);
    assert!(reply.messages.iter().all(|page| page.len() < 2_200_000));
    let pages: Vec<reapi::GetTreeResponse> = reply.stream();
    let found = pages.into_iter().flat_map(|page| page.directories);
    let all: Vec<_> = [root].into_iter().chain(children).collect();
    assert!(found.collect::<Vec<_>>() == all);
}

/// Stores a directory of about this many bytes.
async fn stored_long(client: &Client<'_>, len: usize) -> reapi::Directory {
    let long = directory(&[&"x".repeat(len)], &[]);
    let bytes = long.encode_to_vec();
    let uploaded = client.upload(&names(&bytes, true).0, &zstd(&bytes)).await;
    assert_eq!(uploaded.code, OK, "{uploaded:?}");
    long
}

#[tokio::test]
async fn a_large_directory_is_a_page_of_its_own() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let limit = (4 << 20) - (64 << 10);
    let long = stored_long(&client, limit - 200).await;
    let small = directory(&["small"], &[]);
    let root = directory(&[], &[&small, &long, &directory(&["small", "too"], &[])]);
    let stored = [small.encode_to_vec(), root.encode_to_vec()];
    client.store(&[&stored[0], &stored[1]]).await;
    let reply = tree(&client, &root, 0, "").await;
    assert!(reply.messages.iter().all(|page| page.len() < limit + 1000));
    let pages: Vec<reapi::GetTreeResponse> = reply.stream();
    let pages: Vec<_> = pages.into_iter().map(|page| page.directories).collect();
    assert!(pages == [vec![root, small], vec![long.clone()]]);
    let pages: Vec<reapi::GetTreeResponse> = tree(&client, &long, 0, "").await.stream();
    assert!(pages.len() == 1 && pages[0].directories == [long]);
}

/// The call ends so, behind so many pages.
async fn ends(client: &Client<'_>, root: &reapi::Directory, pages: usize, code: u8, text: &str) {
    let reply = tree(client, root, 0, "").await;
    assert_eq!(
        (reply.code, reply.messages.len()),
        (code, pages),
        "{}",
        reply.text
    );
    assert!(reply.text.contains(text), "{}", reply.text);
}

#[tokio::test]
async fn a_tree_that_cannot_be_told_whole_is_no_success() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let long = stored_long(&client, (4 << 20) - (64 << 10)).await;
    let with_long = directory(&[], &[&directory(&["a"], &[]), &long]);
    client.store(&[&with_long.encode_to_vec()]).await;
    ends(&client, &long, 0, RESOURCE_EXHAUSTED, "4128768 bytes").await;
    ends(&client, &with_long, 1, RESOURCE_EXHAUSTED, "4128768 bytes").await;
    // A file is named as if it were a directory.
    let mut with_file = directory(&[], &[&long]);
    with_file.directories[0].digest = Some(digest(b"\xff no directory"));
    client
        .store(&[&with_file.encode_to_vec(), b"\xff no directory"])
        .await;
    ends(&client, &with_file, 1, INVALID_ARGUMENT, "is none").await;
}

#[tokio::test]
async fn a_tree_of_too_many_directories_is_no_success() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let half = |from: usize| reapi::Directory {
        directories: (from..from + 50_000)
            .map(|index| reapi::DirectoryNode {
                name: String::new(),
                digest: Some(reapi::Digest {
                    hash: format!("{index:064x}"),
                    size_bytes: 1,
                }),
            })
            .collect(),
        ..Default::default()
    };
    let halves = [half(0), half(50_000)];
    let root = directory(&[], &[&halves[0], &halves[1]]);
    for stored in [&root, &halves[0], &halves[1]] {
        let bytes = stored.encode_to_vec();
        let uploaded = client.upload(&names(&bytes, true).0, &zstd(&bytes)).await;
        assert_eq!(uploaded.code, OK, "{uploaded:?}");
    }
    let pages: Vec<reapi::GetTreeResponse> = tree(&client, &halves[0], 0, "").await.stream();
    assert_eq!(pages.len(), 1, "what is missing is left out");
    ends(&client, &root, 2, RESOURCE_EXHAUSTED, "100000 directories").await;
}
