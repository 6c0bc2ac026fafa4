//! What one blob, or one writer, can take of the threads and of the memory that others need too.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use larder_cache::{BlobName, Encoding, PutRefusal, Stored};

use crate::blob_calls::{compress, digest_of, drain, without_size};
use crate::cold::cold_setup;
use crate::pools::{Setup, bytes, isolated, trusted};

const KIB: usize = 1 << 10;

/// Zstd of `blob` with so many frames of nothing before it that it has at least `sent_bytes`.
fn padded(blob: &[u8], sent_bytes: usize) -> Vec<u8> {
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let nothing = [&compress(b"")[..], &skipped].concat();
    let count = sent_bytes.div_ceil(nothing.len());
    [nothing.repeat(count), compress(blob)].concat()
}

#[tokio::test]
async fn a_blob_in_far_more_zstd_than_it_has_bytes_is_refused() {
    let setup = Setup::new();
    let pull_request = isolated("acme", "pr/7", 1);
    for size in [1, 100 * KIB, 1000 * KIB] {
        let blob = bytes(size, 1);
        let digest = digest_of(&blob);
        let name = BlobName::from(&digest);
        let limit = size + size / 128 + 64 * KIB;
        let refused = Err(PutRefusal::TooLarge {
            limit: limit as u64,
        });
        let sent = padded(&blob, limit);
        for body_bytes in [Some(sent.len() as u64), None] {
            let put = setup.send_blob(&pull_request, &name, Encoding::Zstd, body_bytes, &sent);
            assert_eq!(put.await, refused, "{size}");
        }
        let begun = setup.begin_blob(&pull_request, &name, Encoding::Zstd, Some(1 + limit as u64));
        assert_eq!(begun.await.err(), refused.err(), "{size}");
        let whole = setup.put_whole(&pull_request, &digest, Encoding::Zstd, sent.clone().into());
        assert_eq!(whole.await, refused, "{size}");
        let fits = padded(&blob, 60 * KIB);
        let put = setup.send_blob(&pull_request, &name, Encoding::Zstd, None, &fits);
        assert_eq!(put.await, Ok(Stored::New), "{size}");
        assert!(setup.read_blob(&pull_request, &name).await.unwrap() == blob);
        // Whoever does not say the size has it stored as it is uncompressed.
        let (other, name) = (bytes(size, 2), without_size(&digest_of(&bytes(size, 2))));
        let sent = padded(&other, 300 * KIB);
        let put = setup.send_blob(&pull_request, &name, Encoding::Zstd, None, &sent);
        assert_eq!(put.await, Ok(Stored::New), "{size}");
    }
}

#[test]
fn what_is_sent_as_more_than_64_kib_is_worked_on_off_the_async_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build();
    runtime.unwrap().block_on(check_off_the_async_threads());
}

/// Takes the one thread for blocking work, until the other end is dropped.
async fn take_the_thread() -> std::sync::mpsc::Sender<()> {
    let (free, freed) = std::sync::mpsc::channel();
    let (taken, is_taken) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _ = taken.send(());
        let _ = freed.recv();
    });
    is_taken.await.unwrap();
    free
}

async fn check_off_the_async_threads() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = vec![7; KIB];
    let digest = digest_of(&blob);
    let name = BlobName::from(&digest);
    let sent = padded(&blob, 64 * KIB);
    let grant = trunk.write();
    let mut put = pin!(
        setup
            .cache
            .put_whole_blob(&grant, &digest, Encoding::Zstd, sent.into())
    );
    let mut context = Context::from_waker(Waker::noop());
    let busy = take_the_thread().await;
    assert!(put.as_mut().poll(&mut context).is_pending(), "the put");
    drop(busy);
    assert_eq!(put.await, Ok(Stored::New));
    let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
    let mut body = hit.read(Encoding::Identity, 0);
    let busy = take_the_thread().await;
    assert!(body.poll_next(&mut context).is_pending(), "the read");
    drop(busy);
    assert!(drain(body).await.unwrap() == blob);
}

#[tokio::test]
async fn a_poll_of_a_small_body_is_one_step_however_little_comes_out() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let small = compress(b"x");
    let name = BlobName::from(&digest_of(b"x"));
    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &small);
    put.await.unwrap();
    let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
    let mut body = hit.read(Encoding::Identity, 0);
    let mut context = Context::from_waker(Waker::noop());
    let first = body.poll_next(&mut context);
    assert!(matches!(first, Poll::Ready(Some(Ok(piece))) if piece == "x"));
}

#[tokio::test]
async fn a_whole_blob_of_another_length_than_its_name_says_is_not_even_hashed() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let digest = digest_of(b"yz");
    let grant = trunk.write();
    let body = Bytes::from(vec![1; 4 << 20]);
    let put = setup
        .cache
        .put_whole_blob(&grant, &digest, Encoding::Identity, body);
    let mut put = pin!(put);
    let mut context = Context::from_waker(Waker::noop());
    let refused = PutRefusal::SizeMismatch {
        declared: 2,
        received: 4 << 20,
    };
    assert_eq!(put.as_mut().poll(&mut context), Poll::Ready(Err(refused)));
}

/// What usual compressors make of a blob of 3 MiB: a frame with a window of 2 MiB.
fn ordinary_blob(number: u32) -> Vec<u8> {
    let mut blob = vec![0; 3 << 20];
    blake3::Hasher::new()
        .finalize_xof()
        .fill(&mut blob[..100 * KIB]);
    blob[..4].copy_from_slice(&number.to_le_bytes());
    blob
}

#[tokio::test]
async fn ordinary_uploads_and_reads_of_one_workspace_go_on_at_once_by_the_hundred() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let mut uploads = Vec::new();
    // As many as so small a pool has room for.
    for number in 0..118 {
        let blob = ordinary_blob(number);
        let (name, sent) = (BlobName::from(&digest_of(&blob)), compress(&blob));
        let begun = setup.begin_blob(&trunk, &name, Encoding::Zstd, None);
        let mut upload = begun.await.unwrap().unwrap();
        // So many pieces that the decoder sees them.
        for piece in sent.chunks(1000).take(64) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        uploads.push(upload);
    }
    drop(uploads);
    let blob = ordinary_blob(0);
    let (name, sent) = (BlobName::from(&digest_of(&blob)), compress(&blob));
    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
    put.await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..200 {
        let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
        let mut body = hit.read(Encoding::Identity, 0);
        body.next().await.unwrap().unwrap();
        bodies.push(body);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_no_memory_for_a_window_waits_and_goes_on_where_it_was() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = ordinary_blob(0);
    let (name, sent) = (BlobName::from(&digest_of(&blob)), compress(&blob));
    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
    put.await.unwrap();
    let mut bodies = Vec::new();
    let starved = loop {
        let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
        let mut body = hit.read(Encoding::Identity, 0);
        let wait = std::time::Duration::from_secs(1);
        match tokio::time::timeout(wait, body.next()).await {
            Ok(piece) => assert!(blob.starts_with(&piece.unwrap().unwrap())),
            Err(_) => break body,
        }
        bodies.push(body);
    };
    assert!(bodies.len() > 200, "{}", bodies.len());
    let other = ordinary_blob(1);
    let (other, sent) = (BlobName::from(&digest_of(&other)), compress(&other));
    let upload = setup.send_blob(&trunk, &other, Encoding::Zstd, None, &sent);
    let (read, put, ()) = tokio::join!(drain(starved), upload, async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        bodies.clear();
    });
    assert!(read.unwrap() == blob);
    assert_eq!(put, Ok(Stored::New));
}

/// Sends a bomb of `plain_bytes`, and goes when the first trip has begun unless it is to be finished. Returns how many
/// bytes have been written.
fn bytes_written_of_a_bomb(plain_bytes: usize, is_finished: bool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (setup, disk) = cold_setup();
    runtime.block_on(async {
        let trunk = trusted("acme", 1);
        let blob = vec![0; plain_bytes];
        let (name, sent) = (without_size(&digest_of(&blob)), compress(&blob));
        let begun = setup.begin_blob(&trunk, &name, Encoding::Zstd, None);
        let mut upload = begun.await.unwrap().unwrap();
        upload.write(sent.into()).await.unwrap();
        let mut finish = pin!(upload.finish());
        let mut context = Context::from_waker(Waker::noop());
        assert!(finish.as_mut().poll(&mut context).is_pending());
        if is_finished {
            assert_eq!(finish.await, Ok(Stored::New));
        }
    });
    // Waits for the trip that has begun.
    drop(runtime);
    disk.writes().iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn of_a_bomb_no_more_than_a_trip_is_decoded_when_its_client_is_gone() {
    let plain_bytes = 60 << 20;
    let of_one_trip = bytes_written_of_a_bomb(plain_bytes, false);
    assert!(of_one_trip < 17 << 20, "{of_one_trip}");
    assert!(of_one_trip > 1 << 20, "{of_one_trip}");
    assert!(bytes_written_of_a_bomb(plain_bytes, true) >= plain_bytes);
}
