//! Every moment is safe to die in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_bucket::{Delivery, Rule};

use crate::nodes::{DAY_MS, LONG, body, site, trusted, untrusted};

async fn wait_for(mut is_so: impl AsyncFnMut() -> bool) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_killed_between_object_and_row_stores_its_queue_when_it_is_back() {
    let site = site();
    let node = site.node().await;
    site.catalogue.hangs.store(true, Ordering::Relaxed);
    for number in 0..10 {
        node.put(
            &trusted(),
            &[number],
            Rule::Content,
            &body(number.into(), 100),
        );
    }
    wait_for(async || !site.objects().await.is_empty()).await;
    let (dir, local) = node.kill().await;
    site.catalogue.hangs.store(false, Ordering::Relaxed);
    let node = site.node_in(dir, local).await;
    assert_eq!(
        node.bucket.usage().entries,
        0,
        "a pack without a row is not there"
    );
    node.settle().await;
    let reader = site.node().await;
    for number in 0..10 {
        let read = reader.get(&trusted(), &[number]).await;
        assert_eq!(read, Ok(Some(body(number.into(), 100))));
    }
    // What was left of the first attempt goes once it is old.
    assert_eq!(site.objects().await.len(), 2);
    assert_eq!(node.bucket.gc(&|_| ()).await.unwrap().unreferenced, 0);
    site.later(DAY_MS + 60_000);
    assert_eq!(node.bucket.gc(&|_| ()).await.unwrap().unreferenced, 1);
    assert_eq!(site.objects().await.len(), 1);
    assert_eq!(reader.get(&trusted(), &[3]).await, Ok(Some(body(3, 100))));
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_the_queue() {
    let site = site();
    site.catalogue.is_down.store(true, Ordering::Relaxed);
    let node = site.starting_node(
        std::sync::Arc::new(tempfile::tempdir().unwrap()),
        std::sync::Arc::default(),
    );
    for number in 0..10 {
        node.put(
            &untrusted(),
            &[number],
            Rule::First,
            &body(number.into(), 100),
        );
    }
    node.local.remove(&untrusted(), &[9]);
    wait_for(async || node.requests().put > 0).await;
    let (dir, local) = node.stop().await;
    site.catalogue.is_down.store(false, Ordering::Relaxed);
    let node = site.node_in(dir, local).await;
    node.settle().await;
    let reader = site.node().await;
    for number in 0..9 {
        let read = reader.get(&untrusted(), &[number]).await;
        assert_eq!(read, Ok(Some(body(number.into(), 100))));
    }
    assert_eq!(reader.get(&untrusted(), &[9]).await, Ok(None));
    assert_eq!(
        node.local.lost.lock().len(),
        0,
        "a node does not lose against itself"
    );
    // Nothing is done twice.
    let (dir, local) = node.stop().await;
    let node = site.node_in(dir, local).await;
    assert_eq!(node.bucket.usage().queue.entries, 0);
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_is_lost_makes_one_row() {
    let site = site();
    let node = site.node().await;
    site.catalogue.loses_answer.store(true, Ordering::Relaxed);
    let delivery = node
        .put_and_wait(&trusted(), b"key", Rule::Content, &body(1, 10))
        .await;
    assert_eq!(delivery, Delivery::Stored);
    assert_eq!(site.catalogue.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_catalogue_that_hangs() {
    let site = site();
    let node = site.node().await;
    site.catalogue.hangs.store(true, Ordering::Relaxed);
    node.put_local(&trusted(), b"key", &body(1, 10));
    let limit = Duration::from_secs(5);
    let began = tokio::time::Instant::now();
    let delivery = node
        .bucket
        .offer_and_wait(&trusted(), b"key", Rule::Content, 10, limit)
        .await;
    assert_eq!(delivery, Delivery::Failed);
    assert!(began.elapsed() < limit + Duration::from_secs(1));
    site.catalogue.hangs.store(false, Ordering::Relaxed);
    node.settle().await;
    assert_eq!(
        site.node().await.get(&trusted(), b"key").await,
        Ok(Some(body(1, 10)))
    );
    let again = node
        .bucket
        .offer_and_wait(&trusted(), b"key", Rule::Content, 10, LONG)
        .await;
    assert_eq!(again, Delivery::Stored);
}
