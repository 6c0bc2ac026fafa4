//! A bucket behind the pools: what one node stores others serve, to whom it was always served and to nobody else.

use bytes::Bytes;
use larder_bucket::link::Operation;
use larder_bucket::{FetchedEntry, Local, Realm, Rule, Trust};
use larder_cache::{Ack, BlobName, Change, EntryFilter, Order, PutStart, Selection, Stored, Tier};
use larder_model::{Dialect, Digest};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;

use crate::blob_calls::{digest_of, resized};
use crate::pools::{Who, bytes, isolated, key, operator, reader, trusted};
use crate::site::{Node, Site};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn what_one_node_stores_another_serves_and_keeps() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 7);
    for size in [0, 1000, 700_000, 5 * MIB] {
        let (name, body) = (size.to_string(), bytes(size, 3));
        let put = a.setup.put(&trunk, &name, &body).await;
        assert_eq!(put, Ok(Stored::New), "{size}");
        let stored = a.setup.get(&trunk, &name).await.unwrap();
        b.refresh().await;
        assert!(b.setup.read(&reader("acme"), &name).await.unwrap() == body);
        let there = b.setup.get(&trunk, &name).await.unwrap();
        assert_eq!(there.writer, stored.writer);
        assert_eq!(there.written_at_ms, stored.written_at_ms);
    }
    site.fail();
    // What has a body is in the pool of the second node now; the store has no answer any more.
    for size in [1000, 700_000, 5 * MIB] {
        let read = b.setup.read(&trunk, &size.to_string()).await;
        assert!(read.unwrap() == bytes(size, 3), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_miss_finds_what_another_node_stored_just_now() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 7);
    a.setup.put(&trunk, "k", b"new").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(b.setup.read(&trunk, "k").await.unwrap(), b"new");
    let queries = || {
        site.catalogue
            .queries
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = queries();
    for number in 0..1000 {
        let name = format!("missing {number}");
        assert!(b.setup.get(&trunk, &name).await.is_none());
    }
    assert!(queries() - before < 5, "{} queries", queries() - before);
}

#[tokio::test(start_paused = true)]
async fn a_scope_in_the_bucket_is_seen_by_those_who_see_it_in_a_pool() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let seven = isolated("acme", "pr/7", 2);
    a.setup.put(&seven, "k", b"seven").await.unwrap();
    // So that the bucket's own policies can tell trunk's part from the rest.
    assert_eq!(site.catalogue.realms(), ["acme/untrusted"]);
    b.refresh().await;
    for stranger in [
        trusted("acme", 1),
        reader("acme"),
        isolated("acme", "pr/8", 3),
        isolated("acme", "pr/7/x", 3),
        isolated("other", "pr/7", 4),
    ] {
        assert_eq!(b.setup.read(&stranger, "k").await, None);
    }
    assert_eq!(b.setup.read(&seven, "k").await.unwrap(), b"seven");
    let trunk = trusted("acme", 1);
    assert_eq!(b.setup.put(&trunk, "k", b"trunk").await, Ok(Stored::New));
    a.refresh().await;
    assert_eq!(a.setup.read(&seven, "k").await.unwrap(), b"trunk");
    assert_eq!(a.setup.put(&seven, "k", b"again").await, Ok(Stored::Exists));
}

#[tokio::test(start_paused = true)]
async fn blobs_in_the_bucket_are_present_with_their_size_and_without_a_request() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for size in [2_u64, 1000, 65_534, 65_535, 65_536, 5 << 20] {
        let blob = bytes(size as usize, 4);
        a.setup.put_blob(&trunk, &blob).await.unwrap();
        let digest = digest_of(&blob);
        asked.extend([size - 1, size, size + 1].map(|size| resized(&digest, size)));
        expected.extend([true, false, true]);
    }
    b.refresh().await;
    let before = b.requests(Operation::Get);
    assert_eq!(b.setup.missing(&reader("acme"), &asked).await, expected);
    assert_eq!(b.setup.missing(&reader("other"), &asked).await, [true; 18]);
    assert_eq!(b.requests(Operation::Get), before);
    let blob = bytes(1000, 4);
    assert_eq!(b.setup.put_blob(&trunk, &blob).await, Ok(Stored::Exists));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_small_blobs_cost_a_handful_of_requests() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Local).await, site.node(Ack::Local).await);
    let trunk = trusted("acme", 1);
    let blobs: Vec<Vec<u8>> = (0..1000_u32)
        .map(|number| [&number.to_le_bytes()[..], &bytes(2000, 1)].concat())
        .collect();
    for blob in &blobs {
        a.setup.put_blob(&trunk, blob).await.unwrap();
    }
    a.settle().await;
    b.refresh().await;
    let digests: Vec<Digest> = blobs.iter().map(|blob| digest_of(blob)).collect();
    assert_eq!(b.setup.missing(&trunk, &digests).await, [false; 1000]);
    for (blob, digest) in blobs.iter().zip(&digests) {
        let read = b.setup.read_blob(&trunk, &BlobName::from(digest)).await;
        assert!(read.unwrap() == *blob);
    }
    let (puts, gets) = (a.requests(Operation::Put), b.requests(Operation::Get));
    eprintln!("1000 blobs of 2 kB: {puts} PUTs, {gets} GETs");
    assert!(puts <= 10 && gets <= 20, "{puts} PUTs, {gets} GETs");
    for node in [&a, &b] {
        assert_eq!(node.requests(Operation::List), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_bucket_acknowledged_is_on_every_node_when_its_writer_dies() {
    let site = Site::new();
    let a = site.node(Ack::Bucket).await;
    let trunk = trusted("acme", 1);
    a.setup.put(&trunk, "k", b"acknowledged").await.unwrap();
    drop(a);
    let b = site.node(Ack::Bucket).await;
    assert_eq!(b.setup.read(&trunk, "k").await.unwrap(), b"acknowledged");
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_that_store_one_key_at_once_one_wins_on_both() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    for round in 0..10 {
        let name = format!("k{round}");
        let puts = tokio::join!(
            a.setup.put(&trunk, &name, b"a"),
            b.setup.put(&trunk, &name, b"b"),
        );
        let winner = match puts {
            (Ok(Stored::New), Ok(Stored::Exists)) => b"a",
            (Ok(Stored::Exists), Ok(Stored::New)) => b"b",
            other => panic!("{other:?}"),
        };
        for node in [&a, &b] {
            node.refresh().await;
            assert_eq!(node.setup.read(&trunk, &name).await.unwrap(), winner);
        }
    }
}

async fn put_result(node: &Node, who: &Who, body: &[u8]) {
    let (grant, key) = (who.write(), key("action"));
    let size = Some(body.len() as u64);
    let cache = &node.setup.cache;
    let start = cache.put(&grant, Dialect::ActionResult, &key, size, Bytes::new());
    let Ok(PutStart::Upload(mut upload)) = start.await else {
        panic!("the put did not begin");
    };
    upload.write(Bytes::copy_from_slice(body)).await.unwrap();
    assert_eq!(upload.finish().await, Ok(Stored::New));
}

async fn result(node: &Node, who: &Who) -> Vec<u8> {
    let (grant, key) = (who.read(), key("action"));
    let hit = node.setup.cache.get(&grant, Dialect::ActionResult, &key);
    hit.await.unwrap().body.take_whole().unwrap().to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_result_that_was_replaced_on_one_node_is_replaced_on_all() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    put_result(&a, &trunk, b"first").await;
    b.refresh().await;
    assert_eq!(result(&b, &trunk).await, b"first");
    // The pools' clocks are the system's, and count milliseconds.
    wait_for_the_next_millisecond();
    put_result(&b, &trunk, b"second").await;
    a.refresh().await;
    for _ in 0..2 {
        assert_eq!(result(&a, &trunk).await, b"second");
        assert_eq!(result(&b, &trunk).await, b"second");
    }
    site.fail();
    assert_eq!(result(&a, &trunk).await, b"second");
}

fn wait_for_the_next_millisecond() {
    let now = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_millis()
    };
    let start = now();
    while now() <= start + 1 {
        std::hint::spin_loop();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_purged_comes_back_on_no_node_and_after_no_restart() {
    let site = Site::new();
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let keeper = kept.clone();
    let keeping = move |bucket| {
        Tier::new(bucket, Ack::Local).keeping(Arc::new(move |order| {
            let keeper = keeper.clone();
            Box::pin(async move {
                keeper.lock().push(order);
                Ok(())
            })
        }))
    };
    let (a, b) = (site.node_with(keeping).await, site.node(Ack::Bucket).await);
    let (trunk, other) = (trusted("acme", 7), trusted("acme", 8));
    for change in [Change::Purge, Change::Quarantine] {
        let (bad, good) = (format!("bad {change:?}"), format!("good {change:?}"));
        a.setup.put(&trunk, &bad, b"bad").await.unwrap();
        a.setup.put(&other, &good, b"good").await.unwrap();
        a.settle().await;
        b.refresh().await;
        let filter = EntryFilter {
            writers: Some([larder_model::WriterId(7)].into()),
            ..EntryFilter::default()
        };
        let selection = Selection::Matching(filter);
        let cache = &a.setup.cache;
        let operator = operator();
        let changed = cache.change(&operator, change, selection, false, |_, _| true);
        assert!(changed.await.unwrap().in_bucket >= 1);
        assert_eq!(a.setup.read(&trunk, &bad).await, None);
        assert_eq!(a.setup.read(&trunk, &good).await.unwrap(), b"good");
        let order = Order::from_text(kept.lock().last().unwrap()).unwrap();
        b.setup.cache.obey(order).await;
        assert_eq!(b.setup.read(&trunk, &bad).await, None);
        assert_eq!(b.setup.read(&trunk, &good).await.unwrap(), b"good");
        wait_for_the_next_millisecond();
        // The name is free, and what is stored now is another entry.
        assert_eq!(a.setup.put(&other, &bad, b"anew").await, Ok(Stored::New));
        assert_eq!(a.setup.read(&trunk, &bad).await.unwrap(), b"anew");
    }
    drop((a, b));
    let orders = kept.lock().clone();
    let fresh = site.node(Ack::Bucket).await;
    for order in orders {
        fresh
            .setup
            .cache
            .obey(Order::from_text(&order).unwrap())
            .await;
    }
    for change in [Change::Purge, Change::Quarantine] {
        let read = fresh.setup.read(&trunk, &format!("bad {change:?}")).await;
        assert!(read.as_deref() != Some(b"bad"), "{read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_fetched_once_for_all_who_ask_however_slow_they_are() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    let body = bytes(24 * MIB, 5);
    a.setup.put(&trunk, "k", &body).await.unwrap();
    b.refresh().await;
    let before = b.requests(Operation::Get);
    // The first reader takes nothing until all others have everything.
    let mut first = b.setup.get(&trunk, "k").await.unwrap();
    let (second, third) = tokio::join!(b.setup.read(&trunk, "k"), b.setup.read(&trunk, "k"));
    assert!(second.unwrap() == body && third.unwrap() == body);
    let mut read = Vec::new();
    while let Some(piece) = first.body.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 256 << 10);
        read.extend_from_slice(&piece);
    }
    assert!(read == body);
    assert_eq!(b.requests(Operation::Get) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_stored_also_if_its_reader_goes_away() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    let body = bytes(20 * MIB, 5);
    a.setup.put(&trunk, "k", &body).await.unwrap();
    b.refresh().await;
    drop(b.setup.get(&trunk, "k").await.unwrap());
    assert!(b.setup.read(&trunk, "k").await.unwrap() == body);
    let gets = b.requests(Operation::Get);
    site.fail();
    assert!(b.setup.read(&trunk, "k").await.unwrap() == body);
    assert_eq!(b.requests(Operation::Get), gets);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_pool_cannot_take_is_handed_out_all_the_same() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    let body = bytes(20 * MIB, 5);
    a.setup.put(&trunk, "k", &body).await.unwrap();
    b.refresh().await;
    b.setup
        .pair
        .trusted
        .pool()
        .unwrap()
        .resize(8 << 20)
        .unwrap();
    let reads = tokio::join!(b.setup.read(&trunk, "k"), b.setup.read(&trunk, "k"));
    assert!(reads.0.unwrap() == body && reads.1.unwrap() == body);
}

#[tokio::test(start_paused = true)]
async fn what_a_large_body_is_read_from_is_a_part_of_it() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let trunk = trusted("acme", 1);
    for (number, offset) in [0, 1, MIB, 3 * MIB + 17, 12 * MIB].into_iter().enumerate() {
        let blob = bytes(12 * MIB, number as u8);
        a.setup.put_blob(&trunk, &blob).await.unwrap();
        b.refresh().await;
        let name = BlobName::from(&digest_of(&blob));
        let hit = b.setup.cache.get_blob(&trunk.read(), &name).await.unwrap();
        let body = hit.read(larder_cache::Encoding::Identity, offset as u64);
        let read = crate::blob_calls::drain(body).await.unwrap();
        assert!(read == blob[offset..], "{offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_or_from_the_wrong_place_does_not_get_into_a_pool() {
    let node = Site::new().node(Ack::Local).await;
    let trunk = trusted("acme", 1);
    let realm = |trust| Realm::new("acme", trust).unwrap();
    let entry = |written_at_ms, body: &'static [u8]| FetchedEntry {
        key: Bytes::from_static(b"\x01\x04\x04acme\x07trustedaction"),
        metadata: Bytes::new(),
        check: 0,
        writer: 7,
        written_at_ms,
        rule: Rule::Replace,
        body: Bytes::from_static(body),
    };
    let cache = &node.setup.cache;
    cache.install(&realm(Trust::Untrusted), vec![entry(5000, b"forged")]);
    let (grant, key) = (trunk.read(), key("action"));
    let hit = cache.get(&grant, Dialect::ActionResult, &key).await;
    assert!(hit.is_none());
    cache.install(&realm(Trust::Trusted), vec![entry(5000, b"newer")]);
    cache.install(&realm(Trust::Trusted), vec![entry(4000, b"older")]);
    assert_eq!(result(&node, &trunk).await, b"newer");
    node.setup.cache_purged().await;
    cache.install(&realm(Trust::Trusted), vec![entry(6000, b"purged")]);
    let hit = cache.get(&grant, Dialect::ActionResult, &key).await;
    assert!(hit.is_none());
}

/// A call of a history.
#[derive(Debug, Clone)]
struct Call {
    node: usize,
    who: usize,
    key: u8,
    is_put: bool,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = (0..2_usize, 0..4_usize, 0..3_u8, any::<bool>());
    let call = call.prop_map(|(node, who, key, is_put)| Call {
        node,
        who,
        key,
        is_put,
    });
    proptest::collection::vec(call, 1..20)
}

/// What trusted callers are told in a history, with or without the calls of others.
async fn answers(calls: &[Call], with_untrusted: bool) -> Vec<Option<Vec<u8>>> {
    let site = Site::new();
    let nodes = [site.node(Ack::Bucket).await, site.node(Ack::Bucket).await];
    let whos = [
        trusted("acme", 1),
        reader("acme"),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    ];
    let mut answers = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let is_trusted = call.who < 2;
        if !is_trusted && !with_untrusted {
            continue;
        }
        let (node, who, name) = (&nodes[call.node], &whos[call.who], call.key.to_string());
        node.refresh().await;
        if call.is_put && call.who != 1 {
            let put = node.setup.put(who, &name, &[number as u8; 100]).await;
            if is_trusted {
                answers.push(Some(format!("{put:?}").into_bytes()));
            }
        } else {
            let read = node.setup.read(who, &name).await;
            if is_trusted {
                answers.push(read);
            }
        }
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn nothing_untrusted_changes_an_answer_to_trunk_through_the_bucket(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (with, without) = runtime.block_on(async {
            (answers(&calls, true).await, answers(&calls, false).await)
        });
        prop_assert_eq!(with, without);
    }
}
