//! A bucket is not trusted: what is in it is what was stored, or a miss that is told.

use bytes::Bytes;
use larder_bucket::{Event, Rule};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::nodes::{Node, Site, body, site, trusted, untrusted};

async fn bytes_of(site: &Site, name: &str) -> Vec<u8> {
    let object = site.store.get(&Path::from(name)).await.unwrap();
    object.bytes().await.unwrap().to_vec()
}

async fn replace(site: &Site, name: &str, bytes: Vec<u8>) {
    site.store
        .put(&Path::from(name), PutPayload::from(bytes))
        .await
        .unwrap();
}

/// A bucket with a small and a large entry of each rule.
async fn filled() -> (Site, Vec<(Vec<u8>, Bytes)>) {
    let site = site();
    let node = site.node().await;
    let mut entries = Vec::new();
    for (number, (rule, length)) in [
        (Rule::Content, 300),
        (Rule::Content, 200),
        (Rule::First, 100),
        (Rule::Content, (4 << 20) + 9),
    ]
    .into_iter()
    .enumerate()
    {
        let (key, body) = (vec![number as u8], body(number as u64, length));
        node.put_and_wait(&trusted(), &key, rule, &body).await;
        entries.push((key, body));
    }
    (site, entries)
}

/// Reads every entry. Returns how many are there, and all that was told; panics at a wrong byte.
async fn check(node: &Node, entries: &[(Vec<u8>, Bytes)]) -> (usize, Vec<Event>) {
    let mut found = 0;
    for _ in 0..2 {
        found = 0;
        for (key, body) in entries {
            if let Ok(Some(read)) = node.get(&trusted(), key).await {
                assert!(read == *body);
                found += 1;
            }
        }
    }
    (found, node.events())
}

#[tokio::test(start_paused = true)]
async fn a_bit_flip_anywhere_is_a_miss_and_told_once() {
    let (site, entries) = filled().await;
    let mut harmless = 0;
    for (name, length) in site.objects().await {
        let intact = bytes_of(&site, &name).await;
        for at in (0..length as usize).step_by(if length > 10_000 { 500_001 } else { 7 }) {
            let mut flipped = intact.clone();
            flipped[at] ^= 1 << (at % 8);
            replace(&site, &name, flipped).await;
            let reader = site.node().await;
            let (found, events) = check(&reader, &entries).await;
            if found == entries.len() {
                // Headers, footers, and the index of a first object whose record is in a pack.
                assert_eq!(events, []);
                harmless += 1;
            } else {
                assert_eq!(events, [Event::NotAuthentic { name: name.clone() }], "{at}");
            }
        }
        replace(&site, &name, intact).await;
    }
    println!("{harmless} flips of bytes that say nothing");
    assert!(harmless > 0);
    assert_eq!(
        check(&site.node().await, &entries).await,
        (entries.len(), vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn truncated_and_missing_objects_are_misses() {
    let (site, entries) = filled().await;
    for (name, length) in site.objects().await {
        let intact = bytes_of(&site, &name).await;
        for keep in [length - 17, length / 2, 1, 0] {
            replace(&site, &name, intact[..keep as usize].to_vec()).await;
            let (found, events) = check(&site.node().await, &entries).await;
            assert!(found < entries.len() || events.is_empty(), "{name} {keep}");
            assert!(found >= entries.len() - 1, "{name} {keep}");
        }
        site.store.delete(&Path::from(name.as_str())).await.unwrap();
        let reader = site.node().await;
        let (found, events) = check(&reader, &entries).await;
        assert_eq!(
            (found, events),
            (entries.len() - 1, vec![Event::Gone { name: name.clone() }])
        );
        // And nobody asks again.
        let before = reader.requests();
        check(&reader, &entries[..0]).await;
        for (key, _) in &entries {
            let _ = reader.bucket.lookup(&trusted(), key);
        }
        assert_eq!(reader.requests(), before);
        replace(&site, &name, intact).await;
    }
}

#[tokio::test(start_paused = true)]
async fn swapped_objects_are_misses() {
    let (site, entries) = filled().await;
    let names: Vec<String> = site
        .objects()
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (one, two) in names.iter().zip(&names[1..]) {
        let (of_one, of_two) = (bytes_of(&site, one).await, bytes_of(&site, two).await);
        replace(&site, one, of_two.clone()).await;
        replace(&site, two, of_one.clone()).await;
        let (found, events) = check(&site.node().await, &entries).await;
        assert!(
            found < entries.len() && !events.is_empty(),
            "{one} {two}: {events:?}"
        );
        replace(&site, one, of_one).await;
        replace(&site, two, of_two).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_untrusted_pack_under_a_trusted_name_is_a_miss() {
    let site = site();
    let node = site.node().await;
    let (good, poison) = (body(1, 100), body(2, 100));
    node.put_and_wait(&trusted(), b"key", Rule::Content, &good)
        .await;
    node.put_and_wait(&untrusted(), b"key", Rule::Content, &poison)
        .await;
    let target = site.object("/trusted/packs/").await;
    let poisoned = bytes_of(&site, &site.object("/untrusted/packs/").await).await;
    replace(&site, &target, poisoned).await;
    let reader = site.node().await;
    assert_eq!(reader.get(&trusted(), b"key").await, Ok(None));
    assert_eq!(reader.events(), [Event::NotAuthentic { name: target }]);
    // Also for a node that has its index already.
    assert_eq!(node.get(&trusted(), b"key").await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_large_body_that_changes_in_its_middle_ends_with_an_error() {
    let site = site();
    let node = site.node().await;
    let large = body(1, 9 << 20);
    node.put_and_wait(&trusted(), b"key", Rule::Content, &large)
        .await;
    let name = site.object("/bodies/").await;
    let mut altered = large.to_vec();
    altered[5 << 20] ^= 1;
    replace(&site, &name, altered).await;
    let fetched = node
        .bucket
        .fetch(&trusted(), b"key", larder_bucket::Trust::Trusted)
        .await;
    let larder_bucket::FetchedBody::Stream(mut stream) = fetched.unwrap().unwrap().body else {
        panic!("a large body is a stream");
    };
    let mut good = 0;
    while let Ok(piece) = stream.next().await {
        let piece = piece.expect("an error, not an end");
        assert!(large[good..good + piece.len()] == piece);
        good += piece.len();
    }
    assert_eq!(good, 5 << 20);
    assert_eq!(node.get(&trusted(), b"key").await, Ok(None));
    assert_eq!(node.events(), [Event::NotAuthentic { name }]);
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_a_lifecycle_rule_took_is_asked_for_once() {
    let site = site();
    let node = site.node().await;
    for number in 0..9 {
        node.put(
            &trusted(),
            &[number],
            Rule::Content,
            &body(number.into(), 300),
        );
    }
    node.settle().await;
    let name = site.object("/packs/").await;
    site.store.delete(&Path::from(name.as_str())).await.unwrap();
    let before = node.requests().get;
    for number in 0..9 {
        assert_eq!(node.get(&trusted(), &[number]).await, Ok(None));
    }
    assert_eq!(node.requests().get - before, 1);
    assert_eq!(node.events(), [Event::Gone { name }]);
    assert_eq!(node.bucket.usage().entries, 0);
}
