//! The contract. Each part begins with a place of its own, so that they can be run one after the other on one bucket.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use larder_bucket::link::{
    LIST_NAMES_MAX, Lane, Link, LinkError, Operation, Outcome, PART_BYTES, Trouble,
};

const WRITERS: u8 = 16;

/// All of it.
pub(crate) async fn holds_for(link: &Link) {
    link.check().await.expect("a bucket that can be used");
    of_many_creators_one_wins(link).await;
    what_is_written_is_read(link).await;
    ranges_are_exact(link).await;
    a_stream_is_the_range(link).await;
    large_objects_come_in_parts(link).await;
    a_copy_is_an_object_of_its_own(link).await;
    pages_are_in_order_and_whole(link).await;
    odd_names_are_refused_before_they_go_out(link).await;
    let given_up = count(link, |_, outcome| outcome == Outcome::GivenUp);
    assert!(
        given_up <= 1,
        "only the stream that was dropped on purpose, if it had not come whole"
    );
}

pub(crate) fn count(link: &Link, of: impl Fn(Operation, Outcome) -> bool) -> u64 {
    let counts = link.requests().into_iter();
    counts
        .filter(|(operation, outcome, _)| of(*operation, *outcome))
        .map(|(_, _, count)| count)
        .sum()
}

/// Bytes that differ from place to place.
pub(crate) fn body(bytes: usize, seed: u8) -> Bytes {
    (0..bytes)
        .map(|at| (at / 251) as u8 ^ at as u8 ^ seed)
        .collect()
}

async fn of_many_creators_one_wins(link: &Link) {
    for round in 0..4 {
        let name = format!("v1/race/{round}");
        let creations = (0..WRITERS).map(|writer| {
            let (link, name) = (link.clone(), name.clone());
            tokio::spawn(async move {
                // Two parts, because a store must not publish the first of them alone.
                let parts = vec![body(70_000, writer), Bytes::from(vec![writer])];
                (writer, link.put_create(&name, parts).await)
            })
        });
        let mut winners = Vec::new();
        for ended in join_all(creations).await {
            match ended.expect("no panic") {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(LinkError::AlreadyExists)) => {}
                (writer, Err(other)) => panic!("writer {writer}: {other:?}"),
            }
        }
        assert_eq!(
            winners.len(),
            1,
            "round {round}: {winners:?} believe that they won"
        );
        let read = link.get(&name, 1 << 20).await.expect("the winner's object");
        assert_eq!(read.last(), Some(&winners[0]), "round {round}");
        assert_eq!(read.len(), 70_001);
    }
}

async fn what_is_written_is_read(link: &Link) {
    let name = "v1/plain/a-b_c.d=1/object";
    assert_eq!(link.get(name, 10).await, Err(LinkError::NotFound));
    link.put(name, vec![body(10, 1), body(5, 2)]).await.unwrap();
    assert_eq!(
        link.get(name, 15).await.unwrap(),
        [body(10, 1), body(5, 2)].concat()
    );
    assert_eq!(
        link.get(name, 14).await,
        Err(LinkError::TooLarge { limit: 14 })
    );
    link.put(name, vec![]).await.unwrap();
    assert_eq!(
        link.get(name, 0).await.unwrap(),
        Bytes::new(),
        "an empty one, in its place"
    );
    link.delete(vec![name.to_owned()]).await.unwrap();
    assert_eq!(link.get(name, 10).await, Err(LinkError::NotFound));
    link.delete(vec![name.to_owned()])
        .await
        .expect("what is not there counts as deleted");
    link.put_create(name, vec![body(3, 3)])
        .await
        .expect("it was deleted");
}

async fn ranges_are_exact(link: &Link) {
    let (name, whole) = ("v1/ranges/one", body(100_000, 7));
    link.put(name, vec![whole.clone()]).await.unwrap();
    for (start, end) in [(0, 1), (0, 100_000), (99_999, 100_000), (1, 65_537), (5, 5)] {
        let read = link
            .get_range(name, start as u64..end as u64)
            .await
            .unwrap();
        assert_eq!(read, whole.slice(start..end), "{start}..{end}");
    }
    for (start, end) in [
        (0, 100_001),
        (99_999, 100_001),
        (100_000, 100_001),
        (200_000, 200_010),
    ] {
        let read = link.get_range(name, start..end).await;
        assert_eq!(
            read,
            Err(LinkError::NotFound),
            "{start}..{end} ends behind the object"
        );
    }
    let missing = link.get_range("v1/ranges/none", 0..1).await;
    assert_eq!(missing, Err(LinkError::NotFound));
}

async fn a_stream_is_the_range(link: &Link) {
    let (name, whole) = ("v1/streams/one", body(3_000_000, 9));
    link.put(name, vec![whole.clone()]).await.unwrap();
    let mut stream = link.get_stream(name, 1_000..2_900_000).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = stream.next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert_eq!(read, whole.slice(1_000..2_900_000));
    assert_eq!(stream.next().await, Ok(None), "the end stays the end");
    let mut dropped = link.get_stream(name, 0..3_000_000).await.unwrap();
    assert!(dropped.next().await.unwrap().is_some());
    drop(dropped);
    let behind = link.get_stream(name, 0..3_000_001).await;
    assert_eq!(behind.err(), Some(LinkError::NotFound));
}

async fn large_objects_come_in_parts(link: &Link) {
    let whole = body(2 * PART_BYTES + 4_321, 11);
    let name = "v1/parts/large";
    let mut upload = link.put_multipart(name).await.unwrap();
    let mut left = whole.clone();
    while !left.is_empty() {
        let piece = left.split_to(left.len().min(1_234_567));
        upload.write(piece).await.unwrap();
        assert_eq!(
            link.get_range(name, 0..1).await,
            Err(LinkError::NotFound),
            "not before its end"
        );
    }
    upload.finish().await.unwrap();
    assert_eq!(link.get(name, whole.len() as u64).await.unwrap(), whole);

    link.put_multipart("v1/parts/empty")
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    assert_eq!(link.get("v1/parts/empty", 0).await.unwrap(), Bytes::new());

    let mut given_up = link.put_multipart("v1/parts/given-up").await.unwrap();
    given_up.write(whole).await.unwrap();
    given_up.abort().await;
    let read = link.get_range("v1/parts/given-up", 0..1).await;
    assert_eq!(read, Err(LinkError::NotFound));
}

async fn a_copy_is_an_object_of_its_own(link: &Link) {
    link.put("v1/copies/from", vec![body(50_000, 13)])
        .await
        .unwrap();
    link.copy("v1/copies/from", "v1/copies/to").await.unwrap();
    link.delete(vec!["v1/copies/from".to_owned()])
        .await
        .unwrap();
    assert_eq!(
        link.get("v1/copies/to", 50_000).await.unwrap(),
        body(50_000, 13)
    );
    let missing = link.copy("v1/copies/from", "v1/copies/again").await;
    assert_eq!(missing, Err(LinkError::NotFound));
}

async fn pages_are_in_order_and_whole(link: &Link) {
    let mut names: BTreeSet<String> = (0..LIST_NAMES_MAX + 100)
        .map(|number| format!("v1/pages/{}/{number:05}", number % 7))
        .collect();
    // By its bytes `-` is before `/` is before `0`.
    for name in ["v1/pages/3-4", "v1/pages/30", "v1/pages/3.x/y"] {
        names.insert(name.to_owned());
    }
    for some in names.iter().collect::<Vec<_>>().chunks(32) {
        let puts = some
            .iter()
            .map(|name| link.put(name, vec![Bytes::from_static(b"xyz")]));
        for put in join_all(puts).await {
            put.unwrap();
        }
    }
    link.put("v1/pages-of-another/1", vec![]).await.unwrap();

    let first = link.list("v1/pages/", None).await.unwrap();
    assert_eq!(first.objects.len(), LIST_NAMES_MAX);
    let last = first.objects.last().map(|object| object.name.clone());
    assert_eq!(first.after, last);
    let second = link
        .list("v1/pages/", first.after.as_deref())
        .await
        .unwrap();
    assert_eq!(second.after, None);
    let listed: Vec<_> = first.objects.iter().chain(&second.objects).collect();
    assert!(
        listed
            .iter()
            .all(|object| object.bytes == 3 && object.modified_ms > 1_700_000_000_000)
    );
    assert!(
        listed.iter().map(|object| &object.name).eq(&names),
        "all of them, once, in order"
    );

    // Deleted in one call, with some that are not there.
    let before = count(link, |operation, _| operation == Operation::Delete);
    let mut condemned: Vec<String> = names.into_iter().collect();
    condemned.insert(5, "v1/pages/never-was".to_owned());
    link.delete(condemned).await.unwrap();
    let requests = count(link, |operation, _| operation == Operation::Delete) - before;
    assert_eq!(requests, 2);
    assert_eq!(
        link.list("v1/pages/", None).await,
        Ok(larder_bucket::link::Page::default())
    );
    let nothing = link.list("v1/nothing/here/", None).await;
    assert_eq!(nothing, Ok(larder_bucket::link::Page::default()));
}

async fn odd_names_are_refused_before_they_go_out(link: &Link) {
    let before = link.requests();
    for name in [
        "", "/a", "a/", "a//b", "a/../b", "./a", "a b", "a%20b", "a#1", "ä", "a\\b", "a?b",
    ] {
        let refused = link.put(name, vec![]).await.expect_err(name);
        assert_eq!(refused.trouble(), Some(Trouble::Unsupported), "{name}");
    }
    assert_eq!(link.requests(), before);
}

/// What somebody gets whom the bucket does not know, whatever is asked and in whichever lane.
pub(crate) async fn denies_the_wrong_credentials(link: &Link) {
    let denied = |result: Result<(), LinkError>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(
            error.trouble(),
            Some(Trouble::AccessDenied),
            "{what}: {error}"
        );
    };
    let untrusted = link.lane(Lane::Untrusted);
    denied(untrusted.get("v1/a", 10).await.map(|_| ()), "get");
    denied(link.put_create("v1/a", vec![body(3, 1)]).await, "create");
    denied(link.list("v1/", None).await.map(|_| ()), "list");
    denied(link.delete(vec!["v1/a".to_owned()]).await, "delete");
}
