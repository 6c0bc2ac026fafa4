//! Encodings: from what is stored to what is wanted, from any byte on; and frames that lie.

use larder_cache::{BlobName, BodyLost, Encoding, PutRefusal, StorageKey, Stored};
use larder_model::{BlobHash, Dialect, Digest, DigestFunction, EntryKey, Scope};
use larder_store::NewRecord;
use proptest::prelude::*;

use crate::blob_calls::{
    compress, compress_in_frames, decompress, digest_of, drain, encoded, without_size,
};
use crate::cold::cold_setup;
use crate::pools::{Setup, bytes, trusted};

const ENCODINGS: [Encoding; 2] = [Encoding::Identity, Encoding::Zstd];
const KIB: usize = 1 << 10;
const SIZES: [usize; 10] = [
    0,
    1,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    256 * KIB - 1,
    256 * KIB,
    256 * KIB + 1,
    1024 * KIB + 3,
    1024 * KIB + 3,
];

/// Half of it repeats, half of it does not.
fn mixed(size: usize, seed: u64) -> Vec<u8> {
    let mut blob = bytes(size, seed as u8);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut blob[size / 2..]);
    blob
}

/// Reads a stored blob in both encodings from `offset` on, and sees that it is the blob's rest.
async fn check_reads(setup: &Setup, blob: &[u8], offset: usize, case: &str) {
    let trunk = trusted("acme", 1);
    let name = BlobName::from(&digest_of(blob));
    for wanted in ENCODINGS {
        let hit = setup
            .cache
            .get_blob(&trunk.read(), &name)
            .await
            .expect(case);
        let (stored, stored_bytes) = (hit.stored, hit.stored_bytes);
        let mut body = hit.read(wanted, offset as u64);
        let announced = body.remaining();
        let mut read = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece.expect(case);
            assert!(!piece.is_empty() && piece.len() <= 257 * KIB, "{case}");
            read.extend_from_slice(&piece);
            if let Some(announced) = announced {
                let left = announced - read.len() as u64;
                assert_eq!(body.remaining(), Some(left), "{case}");
            }
        }
        assert!(body.next().await.is_none(), "{case}");
        let rest = &blob[offset.min(blob.len())..];
        match wanted {
            Encoding::Identity => {
                assert_eq!(announced, Some(rest.len() as u64), "{case}");
                assert!(read == rest, "{case}");
            }
            Encoding::Zstd => {
                assert!(decompress(&read, rest.len()) == rest, "{case}");
                if stored == Encoding::Zstd && offset == 0 {
                    assert_eq!(announced, Some(stored_bytes), "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn every_size_is_read_in_every_encoding_from_every_edge_on() {
    let (setup, (cold, _disk)) = (Setup::new(), cold_setup());
    let trunk = trusted("acme", 1);
    for (index, size) in SIZES.into_iter().enumerate() {
        for stored in ENCODINGS {
            let blob = mixed(size, index as u64 * 2 + stored as u64);
            let sent = encoded(&blob, stored);
            let name = BlobName::from(&digest_of(&blob));
            for setup in [&setup, &cold] {
                let put = setup.send_blob(&trunk, &name, stored, None, &sent);
                put.await.unwrap();
                for offset in [
                    0,
                    1,
                    64 * KIB,
                    256 * KIB,
                    size / 2,
                    size.max(1) - 1,
                    size,
                    size + 9,
                ] {
                    check_reads(setup, &blob, offset, &format!("{size} {stored:?} {offset}")).await;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_part_of_any_blob_is_read_in_any_encoding(
        size in prop_oneof![0..300_usize, 0..(600 * KIB)],
        offset in 0.0..1.05_f64,
        seed in any::<u64>(),
        frame_bytes in prop_oneof![1000..70_000_usize, Just(1 << 30)],
        stored in prop_oneof![Just(Encoding::Identity), Just(Encoding::Zstd)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let setup = Setup::new();
            let trunk = trusted("acme", 1);
            let blob = mixed(size, seed);
            let sent = match stored {
                Encoding::Identity => blob.clone(),
                Encoding::Zstd => compress_in_frames(&blob, frame_bytes),
            };
            let name = BlobName::from(&digest_of(&blob));
            setup.send_blob(&trunk, &name, stored, None, &sent).await.unwrap();
            let offset = (size as f64 * offset) as usize;
            check_reads(&setup, &blob, offset, "").await;
        });
    }

    #[test]
    fn no_bytes_that_claim_to_be_zstd_panic_or_are_stored(
        start in prop_oneof![Just(vec![]), Just(vec![0x28, 0xb5, 0x2f, 0xfd])],
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        cut in 0..400_usize,
        flip in 0..400_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let setup = Setup::new();
            let trunk = trusted("acme", 1);
            let digest = Digest::new(DigestFunction::Sha256, BlobHash([7; 32]), 1000).unwrap();
            let mut damaged = compress(&mixed(700, 1));
            let at = flip % damaged.len();
            damaged[at] ^= 1 << (flip % 8);
            damaged.truncate(cut);
            for sent in [[start, noise].concat(), damaged] {
                for name in [BlobName::from(&digest), without_size(&digest)] {
                    let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
                    assert!(put.await.is_err());
                }
            }
            assert_eq!(setup.missing(&trunk, &[digest]).await, [true]);
        });
    }
}

#[tokio::test]
async fn zstd_that_was_sent_without_a_size_is_stored_as_it_is_uncompressed() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for size in [1000, 700_000] {
        let blob = mixed(size, 1);
        let (name, sent) = (without_size(&digest_of(&blob)), compress(&blob));
        let body_bytes = Some(sent.len() as u64);
        let put = setup.send_blob(&trunk, &name, Encoding::Zstd, body_bytes, &sent);
        assert_eq!(put.await, Ok(Stored::New));
        let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
        assert_eq!(
            (hit.stored, hit.size, hit.stored_bytes),
            (Encoding::Identity, size as u64, size as u64)
        );
    }
}

/// A frame of `blocks` blocks that each repeat one byte 128 Ki times, and no checksum.
fn bomb(window: u8, blocks: u32) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    for block in 0..blocks {
        let last = u32::from(block + 1 == blocks);
        let header = last | 1 << 1 | (128 << 10) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// The window byte of a frame that asks for 2 to this power.
const fn window(log: u8) -> u8 {
    (log - 10) << 3
}

#[tokio::test]
async fn a_frame_that_yields_more_than_was_declared_is_stopped_there() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    // 2 GiB of zeros in 64 KiB.
    let bomb = bomb(window(20), 16 << 10);
    for declared in [1000, 100_000, 3_000_000] {
        let digest = Digest::new(DigestFunction::Sha256, BlobHash([7; 32]), declared).unwrap();
        let (name, declared) = (BlobName::from(&digest), declared as u64);
        for body_bytes in [Some(bomb.len() as u64), None] {
            let put = setup.send_blob(&trunk, &name, Encoding::Zstd, body_bytes, &bomb);
            let refused = Err(PutRefusal::SizeMismatch {
                declared,
                received: declared + 1,
            });
            assert_eq!(put.await, refused);
        }
        let whole = setup.put_whole(&trunk, &digest, Encoding::Zstd, bomb.clone().into());
        assert!(matches!(whole.await, Err(PutRefusal::SizeMismatch { .. })));
    }
}

#[tokio::test]
async fn a_window_above_the_limit_is_undecodable_and_one_at_the_limit_is_not() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = vec![0; 128 << 10];
    let name = BlobName::from(&digest_of(&blob));
    let put = |log| {
        let (setup, trunk, name) = (&setup, &trunk, &name);
        async move {
            let sent = bomb(window(log), 1);
            setup
                .send_blob(trunk, name, Encoding::Zstd, None, &sent)
                .await
        }
    };
    assert_eq!(put(28).await, Err(PutRefusal::Undecodable));
    assert_eq!(put(41).await, Err(PutRefusal::Undecodable));
    assert_eq!(put(27).await, Ok(Stored::New));
}

#[tokio::test(start_paused = true)]
async fn windows_that_stalled_uploads_could_fill_are_bounded_and_given_back() {
    let setup = Setup::new();
    let (acme, tenant) = (trusted("acme", 1), trusted("tenant", 2));
    let digest = Digest::new(DigestFunction::Sha256, BlobHash([7; 32]), 1 << 28).unwrap();
    let name = BlobName::from(&digest);
    let start = bomb(window(27), 1 << 10);
    let (mut held, mut refusal) = (Vec::new(), None);
    while refusal.is_none() && held.len() < 100 {
        let upload = setup.begin_blob(&tenant, &name, Encoding::Zstd, None);
        let mut upload = upload.await.unwrap().unwrap();
        // So many pieces that the decoder sees them.
        for piece in start.chunks(40).take(64) {
            let written = upload.write(piece.to_vec().into()).await;
            refusal = refusal.or(written.err());
        }
        held.push(upload);
    }
    assert_eq!(refusal, Some(PutRefusal::Busy));
    assert_eq!(held.len(), 6, "a workspace has three quarters of 1 GiB");
    let put = |who, seed| {
        let setup = &setup;
        async move {
            let blob = mixed(700_000, seed);
            let (name, sent) = (BlobName::from(&digest_of(&blob)), compress(&blob));
            let put = setup.send_blob(who, &name, Encoding::Zstd, None, &sent);
            put.await
        }
    };
    assert_eq!(put(&acme, 1).await, Ok(Stored::New), "another workspace");
    held.clear();
    assert_eq!(put(&tenant, 2).await, Ok(Stored::New), "all is given back");
}

#[tokio::test]
async fn a_stored_frame_that_rots_is_a_body_that_breaks_off_in_every_encoding() {
    let trunk = trusted("acme", 1);
    for wanted in ENCODINGS {
        for offset in [0, 1, 600_000] {
            let setup = Setup::new();
            let blob = mixed(1_500_000, 5);
            let sent = compress(&blob);
            let name = BlobName::from(&digest_of(&blob));
            let put = setup.send_blob(&trunk, &name, Encoding::Zstd, None, &sent);
            put.await.unwrap();
            let at = sent.len() - 1000;
            setup.rot("trusted", &sent[at..at + 200]);
            let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
            assert_eq!(drain(hit.read(wanted, offset)).await, Err(BodyLost));
            assert!(setup.cache.get_blob(&trunk.read(), &name).await.is_none());
        }
    }
}

/// No upload can store such a blob: it is put into the pool behind the cache's back.
#[tokio::test]
async fn stored_zstd_that_does_not_decode_to_the_blob_breaks_off() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for size in [1000_usize, 700_000] {
        let good = compress(&mixed(size, 1));
        for (case, body, claimed) in [
            ("cut", &good[..good.len() - 1], size),
            ("empty", &[][..], size),
            ("no zstd", &[7; 100][..], size),
            ("shorter", &good[..], size + 1),
            ("longer", &good[..], size - 1),
        ] {
            let digest = digest_of(case.as_bytes());
            let name = without_size(&digest);
            let key = StorageKey::encode(
                &"acme".parse().unwrap(),
                &Scope::Trusted,
                Dialect::Cas(DigestFunction::Sha256),
                &EntryKey::new(&digest.hash().0).unwrap(),
            );
            let metadata = [&[1][..], &(claimed as u64).to_le_bytes()].concat();
            let record = NewRecord {
                key: key.as_bytes(),
                metadata: &metadata,
                check: 1000,
                writer: 1,
                replace: true,
            };
            let pool = setup.pair.trusted.pool().unwrap();
            pool.put(&record, body).unwrap();
            for (wanted, offset) in [
                (Encoding::Identity, 0),
                (Encoding::Identity, 9),
                (Encoding::Zstd, 9),
            ] {
                let hit = setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
                let read = drain(hit.read(wanted, offset)).await;
                assert!(read == Err(BodyLost), "{case} {size} {wanted:?} {offset}");
            }
        }
    }
}
