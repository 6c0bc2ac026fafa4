//! What a thousand small blobs cost in requests, and what is never asked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use larder_bucket::{Delivery, Rule, Trust};

use crate::nodes::{LONG, Node, body, site, trusted};

const COUNT: u64 = 1000;

/// Bodies of 1 to 8 KiB, as most are in real caches.
fn blob(number: u64) -> Bytes {
    body(number, 1024 * (1 + number as usize % 8))
}

async fn store_all(node: &Node) {
    for number in 0..COUNT {
        node.put(
            &trusted(),
            &number.to_le_bytes(),
            Rule::Content,
            &blob(number),
        );
    }
    node.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_small_blobs_cost_a_handful_of_requests() {
    let site = site();
    let (writer, reader) = (site.node().await, site.node().await);
    store_all(&writer).await;
    let uploaded = writer.requests();
    reader.bucket.refresh(Duration::ZERO).await;
    let before = reader.requests();
    for number in 0..COUNT {
        let found = reader.bucket.lookup(&trusted(), &number.to_le_bytes());
        assert_eq!(
            found.map(|found| usize::from(found.check)),
            Some(blob(number).len())
        );
    }
    let presence = reader.requests().all() - before.all();
    for number in 0..COUNT {
        let key = number.to_le_bytes();
        // As a cache does: what came with its neighbours is here, or on its way here.
        let body = match reader.local.get(&trusted(), &key) {
            Some(entry) => entry.body,
            None => reader.get_known(&trusted(), &key).await.unwrap().unwrap(),
        };
        assert_eq!(body, blob(number));
    }
    let downloaded = reader.requests().all() - before.all();
    println!(
        "{COUNT} blobs of 1 to 8 KiB: {} requests to upload, {} to learn of them, {presence} to find them, \
         {downloaded} to download",
        uploaded.all(),
        before.all()
    );
    assert!(uploaded.all() <= 2, "{uploaded:?}");
    assert!(before.all() <= 2, "{before:?}");
    assert_eq!(presence, 0);
    assert!(downloaded <= 6, "{downloaded}");
}

#[tokio::test(start_paused = true)]
async fn blobs_that_somebody_waits_for_share_packs_too() {
    let site = site();
    let writer = site.node().await;
    let waits = (0..COUNT).map(|number| {
        let (node, key) = (&writer, number.to_le_bytes());
        async move {
            node.put_and_wait(&trusted(), &key, Rule::Content, &blob(number))
                .await
        }
    });
    let delivered = futures_util::future::join_all(waits).await;
    assert!(
        delivered
            .iter()
            .all(|delivery| *delivery == Delivery::Stored)
    );
    assert!(writer.requests().all() <= 4, "{:?}", writer.requests());
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_region_share_one_request() {
    let site = site();
    let (writer, reader) = (site.node().await, site.node().await);
    store_all(&writer).await;
    reader.bucket.refresh(Duration::ZERO).await;
    let before = reader.requests().get;
    let keys: Vec<_> = (0..50_u64).map(u64::to_le_bytes).collect();
    let realm = trusted();
    let reads = keys
        .iter()
        .map(|key| reader.bucket.fetch(&realm, key, Trust::Trusted));
    for fetched in futures_util::future::join_all(reads).await {
        assert!(fetched.unwrap().is_some());
    }
    assert_eq!(reader.requests().get - before, 1);
    // A reader of the other lane does not wait for them, and asks for itself.
    reader
        .bucket
        .fetch(&realm, &keys[0], Trust::Untrusted)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reader.requests().get - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_misses_costs_one_query_and_one_request_per_new_pack() {
    let site = site();
    let (writer, reader) = (site.node().await, site.node().await);
    store_all(&writer).await;
    let packs = writer.bucket.usage().packs;
    let (queries, before) = (
        site.catalogue.queries.load(Ordering::Relaxed),
        reader.requests(),
    );
    let misses = (0..500).map(|_| async {
        reader.bucket.refresh(Duration::ZERO).await;
        assert_eq!(reader.bucket.usage().entries, COUNT);
    });
    futures_util::future::join_all(misses).await;
    let asked = site.catalogue.queries.load(Ordering::Relaxed) - queries;
    assert_eq!(asked, 1);
    assert!(reader.requests().all() - before.all() <= packs);
}

#[tokio::test(start_paused = true)]
async fn what_another_node_stored_is_not_stored_again() {
    let site = site();
    let (one, two) = (site.node().await, site.node().await);
    store_all(&one).await;
    two.bucket.refresh(Duration::ZERO).await;
    let before = two.requests();
    store_all(&two).await;
    assert_eq!(two.requests(), before);
    let again = two
        .bucket
        .offer_and_wait(&trusted(), &7_u64.to_le_bytes(), Rule::Content, 9, LONG)
        .await;
    assert_eq!(again, Delivery::Stored);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_costs_two_requests_up_to_16_mib() {
    let site = site();
    let (writer, reader) = (site.node().await, site.node().await);
    writer
        .put_and_wait(&trusted(), b"large", Rule::Content, &body(1, 16 << 20))
        .await;
    assert_eq!(writer.requests().put, 2);
    assert_eq!(writer.requests().all(), 2);
    assert!(reader.get(&trusted(), b"large").await == Ok(Some(body(1, 16 << 20))));
    assert_eq!(reader.requests().get, 2);
}
