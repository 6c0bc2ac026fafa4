//! Which blobs are missing: exactly, to each caller what it can see and nothing else, and present for a while.

use larder_cache::{BlobName, Encoding, NotAtHand, PoolHandle, PoolPair, PutRefusal, Stored};
use larder_model::{BlobHash, Digest, DigestFunction};
use larder_store::Durability;
use proptest::prelude::*;

use crate::blob_calls::{digest_by, digest_of, resized};
use crate::cold::cold_setup;
use crate::pools::{Setup, Who, bytes, isolated, reader, trusted};

fn random_digests(count: u32) -> impl Iterator<Item = Digest> {
    (0..count).map(|number| digest_of(&number.to_le_bytes()))
}

#[tokio::test]
async fn exactly_what_is_stored_is_there_however_many_are_asked_for() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let mut asked: Vec<Digest> = random_digests(10_000).collect();
    let mut expected = vec![true; asked.len()];
    for (index, size) in [1, 1000, 65_534, 65_535, 65_536, 700_000]
        .into_iter()
        .enumerate()
    {
        let blob = bytes(size, 3);
        setup.put_blob(&trunk, &blob).await.unwrap();
        let at = index * 1999;
        (asked[at], expected[at]) = (digest_of(&blob), false);
    }
    assert!(setup.missing(&trunk, &asked).await == expected);
    assert_eq!(setup.missing(&trunk, &[]).await, [false; 0]);
    let (twice, gone) = (asked[0], asked[1]);
    assert_eq!(
        setup.missing(&trunk, &[twice, gone, twice, gone]).await,
        [false, true, false, true]
    );
}

#[tokio::test]
async fn a_right_hash_with_a_wrong_size_is_missing_on_any_disk() {
    let (cold, _disk) = cold_setup();
    let trunk = trusted("acme", 1);
    for setup in [&Setup::new(), &cold] {
        for size in [1000_u64, 65_534, 65_535, 65_536, 700_000] {
            let blob = bytes(size as usize, 4);
            let digest = digest_of(&blob);
            setup.put_blob(&trunk, &blob).await.unwrap();
            let sizes = [size - 1, size, size + 1, 1, u64::MAX >> 1];
            let asked = sizes.map(|size| resized(&digest, size));
            let missing = setup.missing(&trunk, &asked).await;
            assert_eq!(missing, [true, false, true, true, true], "{size}");
            // More than are looked at without a thread.
            let many: Vec<Digest> = std::iter::repeat_n(asked, 40).flatten().collect();
            let expected = std::iter::repeat_n([true, false, true, true, true], 40);
            let expected: Vec<bool> = expected.flatten().collect();
            assert_eq!(setup.missing(&trunk, &many).await, expected, "{size}");
        }
    }
}

#[tokio::test]
async fn functions_have_key_spaces_of_their_own() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = bytes(1000, 1);
    setup.put_blob(&trunk, &blob).await.unwrap();
    let [sha256, blake3] = DigestFunction::ALL.map(|function| digest_by(function, &blob));
    let mislabelled = Digest::new(DigestFunction::Blake3, sha256.hash(), 1000).unwrap();
    let missing = setup.missing(&trunk, &[blake3, sha256, mislabelled]).await;
    assert_eq!(missing, [true, false, true]);
    let put = setup.put_whole(&trunk, &blake3, Encoding::Identity, blob.into());
    assert_eq!(put.await, Ok(Stored::New));
    let missing = setup.missing(&trunk, &[blake3, sha256, mislabelled]).await;
    assert_eq!(missing, [false, false, true]);
}

/// Everybody who could be told of somebody else's blobs.
fn callers() -> [Who; 7] {
    [
        trusted("acme", 1),
        reader("acme"),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
        isolated("acme", "pr", 4),
        trusted("other", 5),
        isolated("other", "pr/7", 6),
    ]
}

#[tokio::test]
async fn nobody_learns_of_blobs_that_it_cannot_read() {
    for size in [1000, 70_000] {
        // By writer: who of the callers finds what it wrote.
        for (writer, finds) in [
            (0, [true, true, true, true, true, false, false]),
            (2, [false, false, true, false, false, false, false]),
            (3, [false, false, false, true, false, false, false]),
            (4, [false, false, false, false, true, false, false]),
            (5, [false, false, false, false, false, true, true]),
            (6, [false, false, false, false, false, false, true]),
        ] {
            let (setup, callers) = (Setup::new(), callers());
            let blob = bytes(size, 1);
            setup.put_blob(&callers[writer], &blob).await.unwrap();
            for (caller, finds) in callers.iter().zip(finds) {
                let digest = digest_of(&blob);
                assert_eq!(setup.missing(caller, &[digest]).await, [!finds]);
                let read = setup.read_blob(caller, &(&digest).into()).await;
                assert_eq!(read.is_some(), finds);
                let at_hand = setup
                    .cache
                    .get_blob_at_hand(&caller.read(), &(&digest).into());
                assert_eq!(at_hand.unwrap().is_some(), finds);
            }
        }
    }
}

#[tokio::test]
async fn a_blob_of_its_own_scope_and_one_of_trunk_are_both_there() {
    let setup = Setup::new();
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    for size in [1000, 70_000] {
        let (common, own, both) = (bytes(size, 1), bytes(size, 2), bytes(size, 3));
        setup.put_blob(&seven, &both).await.unwrap();
        setup.put_blob(&seven, &own).await.unwrap();
        setup.put_blob(&trunk, &common).await.unwrap();
        setup.put_blob(&trunk, &both).await.unwrap();
        let asked = [common, own, both].map(|blob| digest_of(&blob));
        assert_eq!(setup.missing(&seven, &asked).await, [false; 3]);
        assert_eq!(setup.missing(&trunk, &asked).await, [false, true, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_pool_in_trouble_holds_is_missing_and_what_the_other_holds_is_there() {
    let handles = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let setup = Setup::over(handles.clone());
    let seven = isolated("acme", "pr/7", 2);
    let blob = bytes(1000, 1);
    let asked = [digest_of(&blob), digest_of(b"")];
    let name = BlobName::from(&asked[0]);
    assert_eq!(setup.missing(&seven, &asked).await, [true, false]);
    assert!(setup.read_blob(&seven, &name).await.is_none());
    let at_hand = || setup.cache.get_blob_at_hand(&seven.read(), &name);
    assert!(matches!(at_hand(), Err(NotAtHand)));
    setup.open(&handles.untrusted, "untrusted", Durability::Written);
    setup.put_blob(&seven, &blob).await.unwrap();
    let check = async |case| {
        assert_eq!(
            setup.missing(&seven, &asked).await,
            [false, false],
            "{case}"
        );
        let read = setup.read_blob(&seven, &name).await;
        assert_eq!(read.as_ref(), Some(&blob), "{case}");
        assert!(matches!(at_hand(), Ok(Some(_))), "{case}");
    };
    check("trusted is loading").await;
    handles
        .trusted
        .load(|| panic!("what opens a pool may panic"));
    check("trusted has failed").await;
}

/// Fills the trusted pool several times over, and says how many writes were refused.
async fn flood(setup: &Setup, who: &Who) -> u32 {
    let (mut refused, body) = (0, bytes(2 << 20, 1));
    for number in 0..200 {
        let name = format!("flood{number}");
        refused += u32::from(setup.put(who, &name, &body).await.is_err());
    }
    refused
}

#[tokio::test]
async fn what_was_reported_present_outlives_a_flood() {
    for asker in [trusted("acme", 1), isolated("acme", "pr/7", 2)] {
        let setup = Setup::new();
        let trunk = trusted("acme", 1);
        let promised = bytes(700_000, 0xaa);
        setup.put_blob(&trunk, &promised).await.unwrap();
        let asked = [digest_of(&promised)];
        assert_eq!(setup.missing(&asker, &asked).await, [false]);
        assert_eq!(flood(&setup, &trunk).await, 0);
        assert_eq!(setup.missing(&asker, &asked).await, [false]);
        assert!(setup.read_blob(&asker, &(&asked[0]).into()).await == Some(promised));
    }
}

#[tokio::test]
async fn a_put_of_what_exists_is_a_promise_as_well() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let (promised, other) = (bytes(700_000, 0xaa), bytes(700_000, 0xbb));
    for blob in [&promised, &other] {
        setup.put_blob(&trunk, blob).await.unwrap();
    }
    assert_eq!(setup.put_blob(&trunk, &promised).await, Ok(Stored::Exists));
    flood(&setup, &trunk).await;
    assert!(
        setup
            .read_blob(&trunk, &(&digest_of(&promised)).into())
            .await
            .is_some()
    );
    assert!(
        setup
            .read_blob(&trunk, &(&digest_of(&other)).into())
            .await
            .is_none()
    );
}

#[tokio::test]
async fn no_pull_request_makes_trunks_writes_fail_by_asking() {
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    for (asker, stored) in [
        (&seven, Ok(Stored::New)),
        (&reader("acme"), Ok(Stored::New)),
        (&trunk, Err(PutRefusal::NoRoom)),
    ] {
        let setup = Setup::new();
        let blobs: Vec<Vec<u8>> = (0..50).map(|seed| bytes(2 << 20, seed)).collect();
        for blob in &blobs {
            setup.put_blob(&trunk, blob).await.unwrap();
        }
        let asked: Vec<Digest> = blobs.iter().map(|blob| digest_of(blob)).collect();
        assert_eq!(setup.missing(asker, &asked).await, [false; 50]);
        let large = bytes(60 << 20, 0xaa);
        assert_eq!(setup.put(&trunk, "large", &large).await, stored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Blobs are numbers here: each writes its own bytes into blobs of a size that only it has.
    #[test]
    fn presence_is_what_a_set_per_scope_says(
        writes in proptest::collection::vec((0..7_usize, 0..6_u8), 0..12),
        asked in proptest::collection::vec((0..6_u8, any::<bool>()), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (setup, callers) = (Setup::new(), callers());
            let size = |number: u8| 65_531 + usize::from(number) * 2;
            let blob = |number: u8| bytes(size(number), number);
            let writers: Vec<(usize, u8)> =
                writes.into_iter().filter(|(caller, _)| *caller != 1).collect();
            for (caller, number) in &writers {
                setup.put_blob(&callers[*caller], &blob(*number)).await.unwrap();
            }
            let digests: Vec<Digest> = asked
                .iter()
                .map(|(number, right)| {
                    let digest = digest_of(&blob(*number));
                    if *right { digest } else { resized(&digest, size(*number) as u64 + 1) }
                })
                .collect();
            let sees = |caller: usize, writer: usize| match caller {
                1 => writer == 0,
                2..=4 => writer == 0 || writer == caller,
                6 => writer == 5 || writer == 6,
                _ => writer == caller,
            };
            for (caller, who) in callers.iter().enumerate() {
                let expected: Vec<bool> = asked
                    .iter()
                    .map(|(number, right)| {
                        let mut seen = writers.iter().filter(|write| sees(caller, write.0));
                        !(*right && seen.any(|write| write.1 == *number))
                    })
                    .collect();
                assert_eq!(setup.missing(who, &digests).await, expected);
            }
        });
    }
}

#[tokio::test]
async fn hashes_that_differ_in_one_bit_are_two_blobs() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let blob = bytes(1000, 1);
    let digest = digest_of(&blob);
    setup.put_blob(&trunk, &blob).await.unwrap();
    let flipped = (0..256).map(|bit| {
        let mut hash = digest.hash().0;
        hash[bit / 8] ^= 1 << (bit % 8);
        Digest::new(DigestFunction::Sha256, BlobHash(hash), 1000).unwrap()
    });
    let flipped: Vec<Digest> = flipped.collect();
    assert_eq!(setup.missing(&trunk, &flipped).await, [true; 256]);
}
