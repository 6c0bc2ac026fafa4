//! First write wins across nodes.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use larder_bucket::{Delivery, Edict, Rule};

use crate::nodes::{DAY_MS, Node, Site, body, site, trusted};

/// Deletes the only object whose name contains this.
async fn delete(site: &Site, part: &str) {
    let path = object_store::path::Path::from(site.object(part).await);
    object_store::ObjectStoreExt::delete(&*site.store, &path)
        .await
        .unwrap();
}

/// Two nodes store different bodies of a key at once. Returns winner and loser.
async fn race(site: &Site, bodies: [Bytes; 2]) -> (Node, Node) {
    let (one, two) = (site.node().await, site.node().await);
    let realm = trusted();
    let (first, second) = tokio::join!(
        one.put_and_wait(&realm, b"key", Rule::First, &bodies[0]),
        two.put_and_wait(&realm, b"key", Rule::First, &bodies[1]),
    );
    match (first, second) {
        (Delivery::Stored, Delivery::Lost) => (one, two),
        (Delivery::Lost, Delivery::Stored) => (two, one),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_one_wins_and_all_read_its_bytes() {
    for length in [100, 5 << 20] {
        let site = site();
        let (winner, loser) = race(&site, [body(1, length), body(2, length)]).await;
        let won = winner.local.get(&trusted(), b"key").unwrap().body;
        assert_eq!(*loser.local.lost.lock(), [Bytes::from_static(b"key")]);
        assert_eq!(loser.local.get(&trusted(), b"key"), None);
        let third = site.node().await;
        for node in [&winner, &loser, &third] {
            assert!(node.get(&trusted(), b"key").await == Ok(Some(won.clone())));
        }
        if length > 1000 {
            // The loser's body is not left behind.
            site.object("/bodies/").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_winner_is_known_also_if_its_node_died_before_it_could_say_so() {
    let site = site();
    let winner = site.node().await;
    site.catalogue.hangs.store(true, Ordering::Relaxed);
    winner.put(&trusted(), b"key", Rule::First, &body(1, 10));
    while site.objects().await.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    winner.kill().await;
    site.catalogue.hangs.store(false, Ordering::Relaxed);
    let loser = site.node().await;
    let delivery = loser
        .put_and_wait(&trusted(), b"key", Rule::First, &body(2, 10))
        .await;
    assert_eq!(delivery, Delivery::Lost);
    let third = site.node().await;
    assert_eq!(third.get(&trusted(), b"key").await, Ok(Some(body(1, 10))));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_taken_is_lost_without_a_request() {
    let site = site();
    let (one, two) = (site.node().await, site.node().await);
    one.put_and_wait(&trusted(), b"key", Rule::First, &body(1, 10))
        .await;
    site.later(1);
    two.bucket.refresh(std::time::Duration::ZERO).await;
    let before = two.requests();
    let delivery = two
        .put_and_wait(&trusted(), b"key", Rule::First, &body(2, 10))
        .await;
    assert_eq!((delivery, two.requests()), (Delivery::Lost, before));
}

#[tokio::test(start_paused = true)]
async fn a_winner_that_is_not_authentic_keeps_the_entry_local_and_is_told() {
    let site = site();
    let scout = site.node().await;
    scout
        .put_and_wait(&trusted(), b"key", Rule::First, &body(1, 10))
        .await;
    let name = site.object("/first/").await;
    let fresh = Site {
        catalogue: std::sync::Arc::default(),
        ..site.clone()
    };
    let forged = Bytes::from_static(b"by hand");
    let path = object_store::path::Path::from(name.as_str());
    object_store::ObjectStoreExt::put(&*site.store, &path, forged.into())
        .await
        .unwrap();
    let node = fresh.node().await;
    let delivery = node
        .put_and_wait(&trusted(), b"key", Rule::First, &body(2, 10))
        .await;
    assert_eq!(delivery, Delivery::Failed);
    assert!(node.local.get(&trusted(), b"key").is_some());
    assert_eq!(node.events(), [larder_bucket::Event::NotAuthentic { name }]);
    assert_eq!(node.bucket.usage().queue.entries, 0);
}

#[tokio::test(start_paused = true)]
async fn an_expired_winner_whose_object_is_still_there_is_found_again() {
    for length in [10, 5 << 20] {
        let site = site();
        let one = site.node().await;
        one.put_and_wait(&trusted(), b"key", Rule::First, &body(1, length))
            .await;
        site.later(30 * DAY_MS + 1);
        let two = site.node().await;
        assert_eq!(two.get(&trusted(), b"key").await, Ok(None));
        let old = site.objects().await.into_iter().map(|(name, _)| name);
        let old: Vec<String> = old.collect();
        let delivery = two
            .put_and_wait(&trusted(), b"key", Rule::First, &body(2, length))
            .await;
        assert_eq!(delivery, Delivery::Lost);
        assert!(two.get(&trusted(), b"key").await == Ok(Some(body(1, length))));
        // Its bytes have been written again: what a lifecycle rule takes now is not needed.
        for name in old {
            let path = object_store::path::Path::from(name.as_str());
            object_store::ObjectStoreExt::delete(&*site.store, &path)
                .await
                .unwrap();
        }
        assert!(two.get(&trusted(), b"key").await == Ok(Some(body(1, length))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_purged_winner_does_not_keep_its_name() {
    for length in [10, 5 << 20] {
        let site = site();
        let (one, two) = (site.node().await, site.node().await);
        one.put_and_wait(&trusted(), b"key", Rule::First, &body(1, length))
            .await;
        site.later(1000);
        let through_ms = site.now_ms.load(Ordering::Relaxed) - 1;
        let edict = || Edict::new(u32::MAX, move |head| head.written_at_ms <= through_ms);
        for node in [&one, &two] {
            node.bucket.refresh(std::time::Duration::ZERO).await;
            assert_eq!(node.bucket.forget(edict()).await, 1);
        }
        // Both at once: the earlier of the two writes counts, or the one that came second, but never the purged one.
        let (realm, first, second) = (trusted(), body(2, length), body(3, length));
        let told = tokio::join!(
            one.put_and_wait(&realm, b"key", Rule::First, &first),
            two.put_and_wait(&realm, b"key", Rule::First, &second),
        );
        assert!(
            [told.0, told.1].contains(&Delivery::Stored),
            "{length}: {told:?}"
        );
        for node in [&one, &two] {
            let read = node.get(&trusted(), b"key").await;
            assert!(
                read == Ok(Some(first.clone())) || read == Ok(Some(second.clone())),
                "{length}"
            );
        }
        assert_eq!((one.events(), two.events()), (vec![], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_winner_whose_body_is_gone_does_not_take_the_losers_along() {
    let site = site();
    let one = site.node().await;
    site.catalogue.hangs.store(true, Ordering::Relaxed);
    one.put(&trusted(), b"key", Rule::First, &body(1, 5 << 20));
    while site.objects().await.len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    one.kill().await;
    site.catalogue.hangs.store(false, Ordering::Relaxed);
    delete(&site, "/bodies/").await;
    // When nothing refers to the winner any more and its body has been cleaned up.
    site.later(DAY_MS);
    let two = site.node().await;
    let delivery = two
        .put_and_wait(&trusted(), b"key", Rule::First, &body(2, 5 << 20))
        .await;
    assert_eq!(delivery, Delivery::Stored);
    let third = site.node().await;
    assert!(third.get(&trusted(), b"key").await == Ok(Some(body(2, 5 << 20))));
}

#[tokio::test(start_paused = true)]
async fn an_unreferenced_winner_is_written_again_before_it_is_cleaned_up() {
    for length in [10, 5 << 20] {
        let site = site();
        let one = site.node().await;
        site.catalogue.hangs.store(true, Ordering::Relaxed);
        one.put(&trusted(), b"key", Rule::First, &body(1, length));
        while site.objects().await.len() < 2 + usize::from(length > 10) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        one.kill().await;
        site.catalogue.hangs.store(false, Ordering::Relaxed);
        let old = site.objects().await;
        site.later(DAY_MS);
        let two = site.node().await;
        let delivery = two
            .put_and_wait(&trusted(), b"key", Rule::First, &body(2, length))
            .await;
        assert_eq!(delivery, Delivery::Lost);
        // As a node that had looked for what is referred to just before does.
        for (name, _) in old {
            let path = object_store::path::Path::from(name);
            object_store::ObjectStoreExt::delete(&*site.store, &path)
                .await
                .unwrap();
        }
        assert!(two.get(&trusted(), b"key").await == Ok(Some(body(1, length))));
    }
}

#[tokio::test(start_paused = true)]
async fn two_writes_of_one_millisecond_are_told_apart_by_their_check() {
    let site = site();
    let (one, two) = (site.node().await, site.node().await);
    one.put_and_wait(&trusted(), b"key", Rule::First, &body(1, 10))
        .await;
    two.bucket.refresh(std::time::Duration::ZERO).await;
    // The check of an entry of these tests is its length.
    let delivery = two
        .put_and_wait(&trusted(), b"key", Rule::First, &body(2, 11))
        .await;
    assert_eq!(delivery, Delivery::Lost);
    let again = one
        .put_and_wait(&trusted(), b"key", Rule::First, &body(1, 10))
        .await;
    assert_eq!(again, Delivery::Stored);
}
