//! A bucket that does not answer: it slows nothing local and breaks nothing, and nobody is promised what it has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_cache::{Ack, PutRefusal, Stored};
use tokio::time::Instant;

use crate::blob_calls::digest_of;
use crate::pools::{bytes, isolated, trusted};
use crate::site::{Node, Site};

/// Makes requests until the node knows that there is no use in it.
async fn notice(node: &Node) {
    let trunk = trusted("acme", 1);
    while node.bucket.is_reachable() {
        let _ = node.setup.get(&trunk, "only there").await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_bucket_local_entries_are_served_and_stored_and_others_are_misses_at_once() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Local).await);
    let trunk = trusted("acme", 1);
    let blob = bytes(1000, 1);
    a.setup.put(&trunk, "only there", b"there").await.unwrap();
    a.setup.put_blob(&trunk, &blob).await.unwrap();
    b.refresh().await;
    b.setup.put(&trunk, "here", b"here").await.unwrap();
    b.settle().await;
    site.fail();
    notice(&b).await;
    let start = Instant::now();
    assert_eq!(b.setup.read(&trunk, "here").await.unwrap(), b"here");
    assert_eq!(b.setup.read(&trunk, "only there").await, None);
    assert_eq!(b.setup.read(&trunk, "nowhere").await, None);
    assert_eq!(b.setup.missing(&trunk, &[digest_of(&blob)]).await, [true]);
    assert_eq!(b.setup.put_blob(&trunk, &blob).await, Ok(Stored::New));
    assert_eq!(b.setup.missing(&trunk, &[digest_of(&blob)]).await, [false]);
    assert_eq!(b.setup.put(&trunk, "new", b"new").await, Ok(Stored::New));
    assert_eq!(b.setup.read(&trunk, "new").await.unwrap(), b"new");
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
    site.recover();
    b.settle().await;
    a.refresh().await;
    assert_eq!(a.setup.read(&trunk, "new").await.unwrap(), b"new");
    assert_eq!(b.setup.read(&trunk, "only there").await.unwrap(), b"there");
}

#[tokio::test(start_paused = true)]
async fn an_own_entry_does_not_stand_in_for_a_trusted_one_that_cannot_be_had() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Bucket).await);
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    b.setup.put(&seven, "k", b"seven").await.unwrap();
    a.setup.put(&trunk, "k", b"trunk").await.unwrap();
    b.refresh().await;
    site.fail();
    assert_eq!(b.setup.read(&seven, "k").await, None);
    site.recover();
    assert_eq!(b.setup.read(&seven, "k").await.unwrap(), b"trunk");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_bucket_has_to_acknowledge_is_refused_in_bounded_time_and_made_good_later()
{
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Local).await);
    let trunk = trusted("acme", 1);
    site.fail();
    let start = Instant::now();
    let put = a.setup.put(&trunk, "k", b"here").await;
    assert_eq!(put, Err(PutRefusal::Unavailable));
    assert!(start.elapsed() <= Duration::from_secs(31));
    assert_eq!(a.setup.read(&trunk, "k").await.unwrap(), b"here");
    let put_blob = async || a.setup.put_blob(&trunk, b"a blob").await;
    assert_eq!(put_blob().await, Err(PutRefusal::Unavailable));
    // Whoever tries again is told no more than the first one.
    let put = a.setup.put(&trunk, "k", b"here").await;
    assert_eq!(put, Err(PutRefusal::Unavailable));
    assert_eq!(put_blob().await, Err(PutRefusal::Unavailable));
    site.recover();
    a.settle().await;
    assert_eq!(put_blob().await, Ok(Stored::Exists));
    let put = a.setup.put(&trunk, "k", b"here").await;
    assert_eq!(put, Ok(Stored::Exists));
    b.refresh().await;
    assert_eq!(b.setup.read(&trunk, "k").await.unwrap(), b"here");
}

#[tokio::test(start_paused = true)]
async fn a_catalogue_that_hangs_makes_a_miss_wait_once_and_others_not_at_all() {
    let site = Site::new();
    let node = site.node(Ack::Local).await;
    let trunk = trusted("acme", 1);
    site.catalogue.hangs.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let start = Instant::now();
    assert_eq!(node.setup.read(&trunk, "k").await, None);
    assert!(
        start.elapsed() <= Duration::from_millis(510),
        "{:?}",
        start.elapsed()
    );
    let start = Instant::now();
    for number in 0..100 {
        assert_eq!(node.setup.read(&trunk, &number.to_string()).await, None);
        assert!(node.setup.get_at_hand(&trunk, &number.to_string()).is_ok());
    }
    assert!(
        start.elapsed() <= Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_miss_is_at_hand_while_the_catalogue_is_fresh_and_what_has_to_be_fetched_is_not() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Bucket).await, site.node(Ack::Local).await);
    let trunk = trusted("acme", 1);
    a.setup.put(&trunk, "k", b"there").await.unwrap();
    b.refresh().await;
    assert!(matches!(b.setup.get_at_hand(&trunk, "missing"), Ok(None)));
    assert!(b.setup.get_at_hand(&trunk, "k").is_err());
    assert_eq!(b.setup.read(&trunk, "k").await.unwrap(), b"there");
    // Until it has been installed there is something to wait for.
    let hit = loop {
        match b.setup.get_at_hand(&trunk, "k") {
            Ok(hit) => break hit,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    assert_eq!(hit.unwrap().body.take_whole().unwrap(), &b"there"[..]);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_bucket_in_trouble_has_can_be_stored_meanwhile() {
    let site = Site::new();
    let (a, b) = (site.node(Ack::Local).await, site.node(Ack::Local).await);
    let trunk = trusted("acme", 1);
    a.setup.put(&trunk, "only there", b"first").await.unwrap();
    a.settle().await;
    b.refresh().await;
    assert_eq!(
        b.setup.put(&trunk, "only there", b"second").await,
        Ok(Stored::Exists)
    );
    site.fail();
    notice(&b).await;
    assert_eq!(b.setup.read(&trunk, "only there").await, None);
    assert_eq!(
        b.setup.put(&trunk, "only there", b"second").await,
        Ok(Stored::New)
    );
}
