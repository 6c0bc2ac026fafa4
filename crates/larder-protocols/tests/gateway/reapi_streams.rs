//! `ByteStream`: reads and writes of single blobs.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use larder_auth::TokenGrant;
use larder_cache::CacheLimits;
use larder_model::Access;
use larder_proto::bytestream;
use larder_proto::bytestream::WriteRequest;

use crate::house::{End, House, Pieces, bytes};
use crate::reapi::*;

fn committed(reply: &Reply) -> i64 {
    reply.message::<bytestream::WriteResponse>().committed_size
}

#[tokio::test]
async fn a_blob_that_was_written_reads_back_in_every_form() {
    let house = house();
    let client = Client::new(&house, "trunk");
    for (size, compressed) in [
        (1, false),
        (70_000, false),
        (3 << 20, false),
        (70_000, true),
        (3 << 20, true),
    ] {
        let blob = bytes(size, compressed.into());
        let (write, _) = names(&blob, compressed);
        let sent = if compressed {
            zstd(&blob)
        } else {
            blob.clone()
        };
        assert_eq!(
            committed(&client.upload(&write, &sent).await),
            int(sent.len())
        );
        let plain = names(&blob, false).1;
        assert!(client.bytes(&plain, 0, 0).await == blob, "{size}");
        let encoded = client.bytes(&names(&blob, true).1, 0, 0).await;
        assert!(unzstd(&encoded, size) == blob, "{size}");
        if compressed {
            assert!(encoded == sent, "stored as it was received");
        }
        let half = size / 2;
        assert!(client.bytes(&plain, int(half), 0).await == blob[half..]);
        assert!(client.bytes(&plain, int(half), 5).await == blob[half..(half + 5).min(size)]);
        let encoded = client.bytes(&names(&blob, true).1, int(half), 0).await;
        assert!(unzstd(&encoded, size) == blob[half..]);
        assert_eq!(client.bytes(&plain, int(size), 0).await, b"");
        let encoded = client.bytes(&names(&blob, true).1, int(size), 0).await;
        assert_eq!(unzstd(&encoded, 0), b"");
    }
}

#[tokio::test]
async fn a_part_that_cannot_be_is_refused() {
    let house = house();
    let client = Client::new(&house, "trunk");
    client.store(&[b"blob"]).await;
    let (plain, compressed) = (names(b"blob", false).1, names(b"blob", true).1);
    client
        .read(&plain, -1, 0)
        .await
        .refused(INVALID_ARGUMENT, "read_offset is negative");
    client
        .read(&plain, 0, -1)
        .await
        .refused(INVALID_ARGUMENT, "read_limit is negative");
    client
        .read(&plain, 5, 0)
        .await
        .refused(OUT_OF_RANGE, "4 bytes");
    client
        .read(&compressed, 0, 1)
        .await
        .refused(INVALID_ARGUMENT, "without read_limit");
    client
        .read("main/blobs/x/1", 0, 0)
        .await
        .refused(INVALID_ARGUMENT, "hexadecimal");
    client
        .read("main", 0, 0)
        .await
        .refused(INVALID_ARGUMENT, "resource name");
    let absent = names(b"absent", false).1;
    client
        .read(&absent, 0, 0)
        .await
        .refused(NOT_FOUND, "no such blob");
    let wrong_size = plain.replace("/4", "/5");
    client
        .read(&wrong_size, 0, 0)
        .await
        .refused(NOT_FOUND, "no such blob");
}

#[tokio::test]
async fn the_empty_blob_is_everywhere_and_stored_nowhere() {
    let house = house();
    let client = Client::new(&house, "trunk");
    for name in [format!("blobs/{EMPTY}/0"), format!("/main/blobs/{EMPTY}/0")] {
        assert_eq!(client.read(&name, 0, 0).await.messages.len(), 0);
        assert_eq!(Client::new(&house, "").read(&name, 0, 0).await.code, OK);
    }
    let compressed = format!("main/compressed-blobs/zstd/{EMPTY}/0");
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
    assert_eq!(client.bytes(&compressed, 0, 0).await, frame);
    let (plain, _) = names(b"", false);
    assert_eq!(committed(&client.upload(&plain, b"").await), 0);
    let (compressed, _) = names(b"", true);
    assert_eq!(committed(&client.upload(&compressed, &frame).await), -1);
    assert_eq!(entries(&house), (0, 0));
}

/// Uploads in these messages; the code, and whether anything is stored.
async fn check_refused(messages: &[WriteRequest], text: &str) {
    let house = house();
    let reply = Client::new(&house, "trunk").write(messages).await;
    reply.refused(INVALID_ARGUMENT, text);
    assert_eq!(entries(&house), (0, 0), "{text}");
}

#[tokio::test]
async fn the_rules_between_messages_are_kept() {
    let blob = bytes(100_000, 3);
    let name = &names(&blob, false).0;
    let (first, second) = blob.split_at(60_000);
    check_refused(&[], "without finish_write").await;
    check_refused(&[part("", 0, &blob, true)], "resource_name").await;
    check_refused(&[part(name, 0, &blob, false)], "without finish_write").await;
    check_refused(&[part(name, 1, &blob, true)], "begin again at 0").await;
    let late = [part(name, 0, first, false), part("", 59_999, second, true)];
    check_refused(&late, "60000 bytes have been written").await;
    let unsaid = [part(name, 0, first, false), part("", 0, second, true)];
    check_refused(&unsaid, "write_offset is 0").await;
    let other = names(&blob[1..], false).0;
    let renamed = [
        part(name, 0, first, false),
        part(&other, 60_000, second, true),
    ];
    check_refused(&renamed, "changed during").await;
    let more = [
        part(name, 0, &blob, true),
        part("", blob.len(), b"x", false),
    ];
    check_refused(&more, "after the one with finish_write").await;
    check_refused(&[part(name, 0, first, true)], "bytes arrived").await;
    let long = [&blob[..], b"x"].concat();
    check_refused(&[part(name, 0, &long, true)], "bytes arrived").await;
    let mut other = blob.clone();
    other[5] ^= 1;
    check_refused(&[part(name, 0, &other, true)], "hash").await;
    check_refused(
        &[part("main/uploads/u/blobs/x/1", 0, b"x", true)],
        "hexadecimal",
    )
    .await;
}

#[tokio::test]
async fn however_an_upload_is_cut_it_is_stored() {
    let blob = bytes(300_000, 4);
    for (name, repeated, step) in [
        (names(&blob, false).0, true, 8 << 10),
        (names(&blob, false).0, false, 100_000),
        (
            format!("/{}/trailing/name.txt", names(&blob, false).0),
            false,
            1 << 20,
        ),
        (names(&blob, true).0, true, 999),
    ] {
        let house = house();
        let client = Client::new(&house, "trunk");
        let sent = if name.contains("zstd") {
            zstd(&blob)
        } else {
            blob.clone()
        };
        let mut messages = Vec::new();
        for (index, data) in sent.chunks(step).enumerate() {
            let name = if index == 0 || repeated { &name } else { "" };
            messages.push(part(name, index * step, data, false));
        }
        // The end may come in a message without bytes.
        messages.push(part("", sent.len(), b"", true));
        assert_eq!(
            committed(&client.write(&messages).await),
            int(sent.len()),
            "{name}"
        );
        assert!(client.bytes(&names(&blob, false).1, 0, 0).await == blob);
    }
}

#[tokio::test]
async fn several_frames_of_zstd_are_one_blob() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(200_000, 5);
    let frames: Vec<u8> = blob.chunks(16 << 10).flat_map(zstd).collect();
    let (write, read) = names(&blob, true);
    assert_eq!(
        committed(&client.upload(&write, &frames).await),
        int(frames.len())
    );
    assert!(unzstd(&client.bytes(&read, 0, 0).await, blob.len()) == blob);
    for bad in [
        &frames[..frames.len() - 1],
        b"no zstd at all",
        &zstd(&blob[1..]),
    ] {
        let house = crate::reapi::house();
        let reply = Client::new(&house, "trunk").upload(&write, bad).await;
        assert_eq!(reply.code, INVALID_ARGUMENT, "{reply:?}");
        assert_eq!(entries(&house), (0, 0));
    }
}

#[tokio::test]
async fn a_blob_that_exists_is_answered_before_its_bytes_are_needed() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(1000, 6);
    client.store(&[&blob]).await;
    for (compressed, expected) in [(false, 1000), (true, -1)] {
        let name = names(&blob, compressed).0;
        let begun = larder_grpc::frame(&larder_proto::Message::encode_to_vec(&part(
            &name,
            0,
            &blob[..10],
            false,
        )));
        let (body, read) = Pieces::new(&[&begun], None, End::Never);
        assert_eq!(committed(&client.send(WRITE, body).await), expected);
        assert_eq!(read.load(Ordering::Relaxed), begun.len());
    }
    // Of two uploads at once both are fine.
    let other = bytes(300_000, 7);
    let (name, _) = names(&other, false);
    let (one, two) = tokio::join!(client.upload(&name, &other), client.upload(&name, &other));
    assert_eq!((committed(&one), committed(&two)), (300_000, 300_000));
}

#[tokio::test]
async fn a_blob_above_the_limit_is_refused_at_once() {
    let house = house();
    house.cache.set_limits(CacheLimits {
        entry_bytes_max: 1000,
        ..CacheLimits::default()
    });
    let client = Client::new(&house, "trunk");
    let blob = bytes(1001, 8);
    for compressed in [false, true] {
        let (name, _) = names(&blob, compressed);
        client
            .upload(&name, b"x")
            .await
            .refused(INVALID_ARGUMENT, "limited to 1000 bytes");
    }
}

/// Uploads with a token that is changed before the last piece.
async fn check_changed(change: fn(&mut TokenGrant), code: u8, text: &str) {
    let house: House = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(200_000, 9);
    let (name, _) = names(&blob, false);
    let message = larder_proto::Message::encode_to_vec(&part(&name, 0, &blob, true));
    let framed = larder_grpc::frame(&message);
    let (first, last) = framed.split_at(100_000);
    let body = Pieces::new(&[first, last], None, End::Clean).0;
    let body = body.before_last(house.change("trunk", change));
    client.send(WRITE, body).await.refused(code, text);
    assert_eq!(entries(&house), (0, 0));
}

#[tokio::test]
async fn a_credential_that_ends_before_its_upload_does_stores_nothing() {
    check_changed(|grant| grant.revoked = true, UNAUTHENTICATED, "revoked").await;
    check_changed(
        |grant| grant.access = Access::Reader,
        PERMISSION_DENIED,
        "changed during",
    )
    .await;
}

#[tokio::test]
async fn an_upload_is_all_there_or_begins_again() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(5000, 1);
    let (name, _) = names(&blob, false);
    let query = || async {
        let request = bytestream::QueryWriteStatusRequest {
            resource_name: name.clone(),
        };
        let reply = client.call(QUERY_WRITE_STATUS, &request).await;
        let status: bytestream::QueryWriteStatusResponse = reply.message();
        (status.committed_size, status.complete)
    };
    assert_eq!(query().await, (0, false));
    client.write(&[part(&name, 0, &blob[..4000], false)]).await;
    assert_eq!(query().await, (0, false));
    client.upload(&name, &blob).await;
    assert_eq!(query().await, (5000, true));
}

#[tokio::test]
async fn a_blob_of_blake3_has_a_key_space_of_its_own() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(5000, 2);
    let hash = blake3::hash(&blob).to_hex().to_string();
    let name = format!("main/uploads/u/blobs/blake3/{hash}/5000");
    assert_eq!(committed(&client.upload(&name, &blob).await), 5000);
    let read = format!("main/blobs/blake3/{hash}/5000");
    assert!(client.bytes(&read, 0, 0).await == blob);
    let as_sha256 = format!("main/blobs/{hash}/5000");
    client
        .read(&as_sha256, 0, 0)
        .await
        .refused(NOT_FOUND, "no such blob");
    let as_sha256 = format!("main/uploads/u/blobs/{hash}/5000");
    client
        .upload(&as_sha256, &blob)
        .await
        .refused(INVALID_ARGUMENT, "hash");
    client
        .read(&format!("main/blobs/sha1/{}/5", "a".repeat(40)), 0, 0)
        .await
        .refused(INVALID_ARGUMENT, "SHA-256 or BLAKE3");
}

#[tokio::test]
async fn what_rots_on_the_disk_breaks_the_call_off_and_then_is_not_there() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let mut blob = bytes(2 << 20, 3);
    blob[1_500_000..1_500_016].copy_from_slice(b"here is the rot!");
    let (write, read) = names(&blob, false);
    client.upload(&write, &blob).await;
    house.rot("trusted", b"here is the rot!");
    let reply = client.read(&read, 0, 0).await;
    assert_eq!(reply.code, 14, "{:?}", reply.text);
    client
        .read(&read, 0, 0)
        .await
        .refused(NOT_FOUND, "no such blob");
    assert_eq!(client.missing(&[digest(&blob)]).await, [digest(&blob)]);
    assert_eq!(
        committed(&client.upload(&write, &blob).await),
        int(blob.len())
    );
    assert!(client.bytes(&read, 0, 0).await == blob);
}

#[test]
fn a_panic_behind_the_head_of_an_answer_ends_that_answer_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let house = house();
    let blob = bytes(3_000_000, 1);
    let (upload, name) = (names(&blob, true).0, names(&blob, false).1);
    let mut body = runtime.block_on(async {
        let client = Client::new(&house, "trunk");
        client.upload(&upload, &zstd(&blob)).await;
        let request = bytestream::ReadRequest {
            resource_name: name,
            ..Default::default()
        };
        let message = larder_proto::Message::encode_to_vec(&request);
        let request = http::Request::post(READ)
            .header("content-type", "application/grpc")
            .header("authorization", house.bearer("trunk"))
            .body(Pieces::whole(&larder_grpc::frame(&message)))
            .unwrap();
        let answer = house.gateway.handle(request, crate::house::tcp());
        answer.await.into_body()
    });
    // Decoding takes a thread of the runtime, and panics where there is none.
    let mut context = Context::from_waker(Waker::noop());
    let polled = http_body::Body::poll_frame(Pin::new(&mut body), &mut context);
    let Poll::Ready(Some(Ok(last))) = polled else {
        panic!("a call ends with its status: {polled:?}");
    };
    let trailers = last.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "13");
    assert!(http_body::Body::is_end_stream(&body));
}
