//! Blobs: nothing exists that is not what its name says, whoever sends it and however.

use std::thread;

use bytes::Bytes;
use larder_cache::{BlobName, CacheLimits, Encoding, PutRefusal, Stored};
use larder_model::{BlobHash, Digest, DigestFunction};
use larder_store::Durability;

use crate::blob_calls::{
    compress, compress_in_frames, digest_by, digest_of, drain, encoded, resized, without_size,
};
use crate::cold::cold_setup;
use crate::pools::{Setup, bytes, isolated, reader, trusted};

const SIZES: [usize; 4] = [1, 1000, (64 << 10) + 1, 700_000];
const ENCODINGS: [Encoding; 2] = [Encoding::Identity, Encoding::Zstd];

#[tokio::test]
async fn a_blob_comes_back_as_it_was_sent_however_it_was_sent() {
    let trunk = trusted("acme", 7);
    for (size, function, encoding) in SIZES
        .into_iter()
        .flat_map(|size| DigestFunction::ALL.map(|function| (size, function)))
        .flat_map(|(size, function)| ENCODINGS.map(|encoding| (size, function, encoding)))
    {
        let blob = bytes(size, 5);
        let digest = digest_by(function, &blob);
        let sent = encoded(&blob, encoding);
        let whole = Some(sent.len() as u64);
        for (name, body_bytes) in [
            (BlobName::from(&digest), whole),
            (BlobName::from(&digest), None),
            (without_size(&digest), whole),
            (without_size(&digest), None),
        ] {
            let case = format!("{size} {function:?} {encoding:?} {name:?} {body_bytes:?}");
            let setup = Setup::new();
            let put = setup.send_blob(&trunk, &name, encoding, body_bytes, &sent);
            assert_eq!(put.await, Ok(Stored::New), "{case}");
            for name in [BlobName::from(&digest), without_size(&digest)] {
                let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
                assert_eq!((hit.size, hit.writer.0), (size as u64, 7), "{case}");
                let read = drain(hit.read(Encoding::Identity, 0)).await.unwrap();
                assert!(read == blob, "{case}");
            }
            assert_eq!(setup.missing(&trunk, &[digest]).await, [false], "{case}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_not_the_blob_of_their_name_store_nothing() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for (size, encoding) in SIZES
        .into_iter()
        .flat_map(|size| ENCODINGS.map(|encoding| (size, encoding)))
    {
        let (blob, other) = (bytes(size, 1), bytes(size, 2));
        let (digest, found) = (digest_of(&blob), digest_of(&other).hash());
        let sent = encoded(&other, encoding);
        let mismatch = PutRefusal::DigestMismatch {
            expected: digest.hash(),
            found,
        };
        for body_bytes in [Some(sent.len() as u64), None] {
            for name in [BlobName::from(&digest), without_size(&digest)] {
                let put = setup.send_blob(&trunk, &name, encoding, body_bytes, &sent);
                assert_eq!(put.await, Err(mismatch), "{size} {encoding:?} {name:?}");
            }
        }
        let whole = setup.put_whole(&trunk, &digest, encoding, sent.into());
        assert_eq!(whole.await, Err(mismatch));
        assert_eq!(setup.missing(&trunk, &[digest]).await, [true]);
        assert!(setup.read_blob(&trunk, &(&digest).into()).await.is_none());
        assert_eq!(setup.put_blob(&trunk, &blob).await, Ok(Stored::New));
        setup.cache_purged().await;
    }
}

#[tokio::test]
async fn a_body_of_another_size_than_its_name_says_stores_nothing() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for (size, encoding) in SIZES
        .into_iter()
        .flat_map(|size| ENCODINGS.map(|encoding| (size, encoding)))
    {
        let blob = bytes(size, 1);
        let sent = encoded(&blob, encoding);
        for declared in [size as u64 + 1, (size as u64).saturating_sub(1).max(1)] {
            if declared == size as u64 {
                continue;
            }
            let name = BlobName::from(&resized(&digest_of(&blob), declared));
            for body_bytes in [Some(sent.len() as u64), None] {
                let put = setup
                    .send_blob(&trunk, &name, encoding, body_bytes, &sent)
                    .await;
                assert!(
                    matches!(put, Err(PutRefusal::SizeMismatch { declared: said, .. }) if said == declared),
                    "{size} {encoding:?} {declared}: {put:?}"
                );
            }
        }
        assert_eq!(
            setup.missing(&trunk, &[digest_of(&blob)]).await,
            [true],
            "{size}"
        );
    }
}

#[tokio::test]
async fn a_whole_blob_is_stored_as_it_was_sent_and_once() {
    for durability in [Durability::Written, Durability::Synced] {
        let setup = Setup::with_durability(durability);
        let trunk = trusted("acme", 1);
        for (size, encoding) in SIZES
            .into_iter()
            .flat_map(|size| ENCODINGS.map(|encoding| (size, encoding)))
        {
            let blob = bytes(size, encoding as u8);
            let (digest, sent) = (digest_of(&blob), encoded(&blob, encoding));
            for expected in [Stored::New, Stored::Exists] {
                let put = setup.put_whole(&trunk, &digest, encoding, sent.clone().into());
                assert_eq!(put.await, Ok(expected));
            }
            let name = BlobName::from(&digest);
            let mut hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
            assert_eq!(
                (hit.stored, hit.stored_bytes),
                (encoding, sent.len() as u64)
            );
            if let Some(whole) = hit.whole() {
                assert!(whole == sent);
            }
            assert!(setup.read_blob(&trunk, &name).await.unwrap() == blob);
        }
    }
}

#[tokio::test]
async fn several_frames_one_after_the_other_are_one_blob() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = bytes(300_000, 3);
    let name = BlobName::from(&digest_of(&blob));
    let sent = compress_in_frames(&blob, 10_000);
    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
    assert_eq!(put.await, Ok(Stored::New));
    let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
    assert_eq!(
        (hit.stored, hit.stored_bytes),
        (Encoding::Zstd, sent.len() as u64)
    );
    assert!(drain(hit.read(Encoding::Zstd, 0)).await.unwrap() == sent);
    assert!(setup.read_blob(&trunk, &name).await.unwrap() == blob);
}

#[tokio::test]
async fn what_does_not_decode_to_its_end_is_undecodable() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for size in [1000, 700_000] {
        let blob = bytes(size, 1);
        let good = compress(&blob);
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        let trailing = [&good[..], b"x"].concat();
        let long_trailing = [&good[..], &[7; 100]].concat();
        let half_a_header = [&good[..], &good[..5]].concat();
        for (case, sent) in [
            ("empty", &b""[..]),
            ("cut", &good[..good.len() - 1]),
            ("cut early", &good[..3]),
            ("not zstd", &blob),
            ("flipped", &flipped),
            ("one byte more", &trailing),
            ("bytes more", &long_trailing),
            ("another frame begun", &half_a_header),
        ] {
            for name in [
                BlobName::from(&digest_of(&blob)),
                without_size(&digest_of(&blob)),
            ] {
                let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, sent);
                assert_eq!(put.await, Err(PutRefusal::Undecodable), "{size} {case}");
            }
        }
        assert_eq!(setup.missing(&trunk, &[digest_of(&blob)]).await, [true]);
    }
}

#[tokio::test]
async fn limits_hold_for_what_is_sent_and_for_what_it_decodes_to() {
    let setup = Setup::new();
    setup.cache.set_limits(CacheLimits {
        entry_bytes_max: 100_000,
        ..CacheLimits::default()
    });
    let trunk = trusted("acme", 1);
    let too_large = Err(PutRefusal::TooLarge { limit: 100_000 });
    let blob = vec![0; 100_001];
    let digest = digest_of(&blob);
    for name in [BlobName::from(&digest), without_size(&digest)] {
        for (encoding, sent) in [
            (Encoding::Identity, blob.clone()),
            (Encoding::Zstd, compress(&blob)),
        ] {
            for body_bytes in [Some(sent.len() as u64), None] {
                let put = setup.send_blob(&trunk, &name, encoding, body_bytes, &sent);
                assert_eq!(put.await, too_large, "{name:?} {encoding:?} {body_bytes:?}");
            }
        }
    }
    let whole = setup.put_whole(&trunk, &digest, Encoding::Identity, blob.into());
    assert_eq!(whole.await, too_large);
}

#[tokio::test]
async fn the_empty_blob_is_always_there_and_never_stored() {
    let setup = Setup::new();
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    for function in DigestFunction::ALL {
        let digest = digest_by(function, b"");
        for name in [BlobName::from(&digest), without_size(&digest)] {
            for who in [&trunk, &seven, &reader("acme")] {
                let hit = setup.cache.get_blob(&who.read(), &name).await.unwrap();
                assert_eq!((hit.size, hit.stored_bytes), (0, 0));
                assert_eq!(drain(hit.read(Encoding::Identity, 0)).await, Ok(vec![]));
                let at_hand = setup.cache.get_blob_at_hand(&who.read(), &name);
                let frame = at_hand.unwrap().unwrap().read(Encoding::Zstd, 0);
                let frame = drain(frame).await.unwrap();
                assert_eq!(frame, [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0]);
                assert_eq!(setup.missing(who, &[digest]).await, [false]);
            }
            let put = setup.send_blob(&seven, &name, Encoding::Identity, Some(0), b"");
            assert_eq!(put.await, Ok(Stored::Exists));
        }
        let whole = setup.put_whole(&seven, &digest, Encoding::Identity, Bytes::new());
        assert_eq!(whole.await, Ok(Stored::Exists));
    }
    assert_eq!(setup.pair.trusted.pool().unwrap().usage().entries, 0);
    assert_eq!(setup.pair.untrusted.pool().unwrap().usage().entries, 0);
}

#[tokio::test]
async fn a_blob_under_another_size_or_function_is_a_miss() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for size in [1000, 70_000] {
        let blob = bytes(size, 1);
        setup.put_blob(&trunk, &blob).await.unwrap();
        let digest = digest_of(&blob);
        let other_function = Digest::new(DigestFunction::Blake3, digest.hash(), 1000).unwrap();
        for wrong in [resized(&digest, size as u64 + 1), other_function] {
            assert!(setup.read_blob(&trunk, &(&wrong).into()).await.is_none());
            let at_hand = setup
                .cache
                .get_blob_at_hand(&trunk.read(), &(&wrong).into());
            assert!(at_hand.unwrap().is_none());
        }
        assert!(setup.read_blob(&trunk, &(&digest).into()).await.is_some());
    }
}

#[tokio::test]
async fn a_blob_that_its_writer_sees_is_not_asked_for_again() {
    let setup = Setup::new();
    let (trunk, seven, eight) = (
        trusted("acme", 1),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    );
    for size in [1000, 70_000] {
        let (common, own) = (bytes(size, 1), bytes(size, 2));
        setup.put_blob(&trunk, &common).await.unwrap();
        setup.put_blob(&seven, &own).await.unwrap();
        for (who, blob, exists) in [
            (&trunk, &common, true),
            (&seven, &common, true),
            (&seven, &own, true),
            (&eight, &own, false),
            (&trunk, &own, false),
            (&trusted("other", 4), &common, false),
        ] {
            for (encoding, name) in [
                (Encoding::Identity, BlobName::from(&digest_of(blob))),
                (Encoding::Zstd, without_size(&digest_of(blob))),
            ] {
                let begun = setup.begin_blob(who, &name, encoding, None).await.unwrap();
                assert_eq!(begun.is_none(), exists, "{name:?}");
            }
        }
    }
}

#[tokio::test]
async fn of_two_uploads_of_one_blob_both_end_well() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for (size, body_bytes) in [
        (1000, true),
        (1000, false),
        (700_000, true),
        (700_000, false),
    ] {
        let blob = bytes(size, u8::from(body_bytes));
        let name = BlobName::from(&digest_of(&blob));
        let frames = compress(&blob);
        let body_bytes = body_bytes.then_some(frames.len() as u64);
        let begin = || setup.begin_blob(&trunk, &name, Encoding::Zstd, body_bytes);
        let mut first = begin().await.unwrap().unwrap();
        let mut second = begin().await.unwrap().unwrap();
        first.write(frames.clone().into()).await.unwrap();
        second.write(frames.into()).await.unwrap();
        assert_eq!(second.finish().await, Ok(Stored::New));
        assert_eq!(first.finish().await, Ok(Stored::Exists));
        assert!(setup.read_blob(&trunk, &name).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn a_blob_that_rots_on_disk_is_missing_from_then_on_and_can_be_sent_again() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for (size, rotten) in [(1000, 500), (700_000, 400_000)] {
        let blob = bytes(size, 9);
        let digest = digest_of(&blob);
        setup.put_blob(&trunk, &blob).await.unwrap();
        setup.rot("trusted", &blob[rotten..rotten + 200]);
        let hit = setup.cache.get_blob(&trunk.read(), &(&digest).into()).await;
        if let Some(hit) = hit {
            let read = drain(hit.read(Encoding::Identity, 0)).await;
            assert!(read.is_err(), "{size}");
        }
        assert_eq!(setup.missing(&trunk, &[digest]).await, [true]);
        assert_eq!(setup.put_blob(&trunk, &blob).await, Ok(Stored::New));
        assert_eq!(setup.missing(&trunk, &[digest]).await, [false]);
        assert!(setup.read_blob(&trunk, &(&digest).into()).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn large_blobs_are_written_off_the_async_threads_however_they_are_sent() {
    let (setup, disk) = cold_setup();
    let trunk = trusted("acme", 1);
    let here = thread::current().id();
    for (index, encoding) in ENCODINGS.into_iter().enumerate() {
        for (at, known) in [true, false].into_iter().enumerate() {
            // Does not compress, so that the compressed body is large as well.
            let blob = noise(700_000, (index * 2 + at) as u64);
            let sent = encoded(&blob, encoding);
            let name = BlobName::from(&digest_of(&blob));
            let body_bytes = known.then_some(sent.len() as u64);
            let put = setup.send_blob(&trunk, &name, encoding, body_bytes, &sent);
            assert_eq!(put.await, Ok(Stored::New));
        }
    }
    let blob = noise(700_000, 9);
    let digest = digest_of(&blob);
    let whole = setup.put_whole(&trunk, &digest, Encoding::Identity, blob.into());
    assert_eq!(whole.await, Ok(Stored::New));
    let writes = disk.writes();
    assert!(writes.iter().any(|(_, bytes)| *bytes > 50_000));
    let inline = writes
        .iter()
        .filter(|(thread, bytes)| *thread == here && *bytes > 50_000);
    assert_eq!(inline.count(), 0);
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut noise = vec![0; len];
    hasher.finalize_xof().fill(&mut noise);
    noise
}

#[tokio::test]
async fn small_blobs_of_unknown_encoded_length_share_a_file_and_take_no_thread() {
    let (setup, disk) = cold_setup();
    let trunk = trusted("acme", 1);
    for seed in 0..40 {
        let blob = noise(300_000, seed);
        let name = BlobName::from(&digest_of(&blob));
        let sent = compress(&blob);
        let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
        assert_eq!(put.await, Ok(Stored::New));
    }
    let usage = setup.pair.trusted.pool().unwrap().usage();
    assert!(usage.segments < 20, "{usage:?}");
    let before = disk.writes().len();
    let blob = bytes(1000, 1);
    let name = BlobName::from(&digest_of(&blob));
    let sent = compress(&blob);
    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
    assert_eq!(put.await, Ok(Stored::New));
    let here = thread::current().id();
    let writes = &disk.writes()[before..];
    assert!(writes.iter().all(|(thread, _)| *thread == here));
}

#[tokio::test]
async fn a_hash_that_nothing_has_is_a_miss() {
    let setup = Setup::new();
    let who = reader("acme");
    let digest = Digest::new(DigestFunction::Sha256, BlobHash([7; 32]), 10).unwrap();
    assert!(setup.read_blob(&who, &(&digest).into()).await.is_none());
    assert_eq!(setup.missing(&who, &[digest]).await, [true]);
    let text = setup.metrics();
    let counted = r#"larder_misses_total{dialect="cas.sha256",workspace="acme",access="reader"} 1"#;
    assert!(text.contains(counted), "{text}");
}
