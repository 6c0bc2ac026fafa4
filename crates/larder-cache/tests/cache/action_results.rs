//! Action results: entries that may be replaced, each in its writer's scope, and never through another's.

use bytes::Bytes;
use larder_cache::{Change, EntryFilter, Hit, PutStart, Selection, Stored};
use larder_model::Dialect;

use crate::blob_calls::digest_of;
use crate::pools::{Setup, Who, bytes, isolated, key, operator, reader, trusted};

const REPLACEABLE: [Dialect; 2] = [Dialect::ActionResult, Dialect::OpaqueActionResult];

async fn put(setup: &Setup, who: &Who, dialect: Dialect, body: &[u8]) -> Stored {
    let (grant, key) = (who.write(), key("action"));
    let size = Some(body.len() as u64);
    let start = setup.cache.put(&grant, dialect, &key, size, Bytes::new());
    let Ok(PutStart::Upload(mut upload)) = start.await else {
        panic!("the put did not begin");
    };
    upload.write(Bytes::copy_from_slice(body)).await.unwrap();
    upload.finish().await.unwrap()
}

async fn bytes_of(mut hit: Hit) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(piece) = hit.body.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    read
}

async fn read(setup: &Setup, who: &Who, dialect: Dialect) -> Option<Vec<u8>> {
    let hit = setup
        .cache
        .get(&who.read(), dialect, &key("action"))
        .await?;
    Some(bytes_of(hit).await)
}

#[tokio::test]
async fn a_new_result_takes_the_place_of_the_old_one() {
    let trunk = trusted("acme", 1);
    for dialect in REPLACEABLE {
        let setup = Setup::new();
        for (seed, size) in [100, 700_000, 3, 700_000].into_iter().enumerate() {
            let body = bytes(size, seed as u8);
            assert_eq!(put(&setup, &trunk, dialect, &body).await, Stored::New);
            assert!(read(&setup, &trunk, dialect).await.unwrap() == body);
        }
        assert_eq!(setup.pair.trusted.pool().unwrap().usage().entries, 1);
    }
}

#[tokio::test]
async fn each_dialect_has_results_of_its_own() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for (seed, dialect) in REPLACEABLE.into_iter().enumerate() {
        put(&setup, &trunk, dialect, &[seed as u8]).await;
    }
    for (seed, dialect) in REPLACEABLE.into_iter().enumerate() {
        assert_eq!(read(&setup, &trunk, dialect).await, Some(vec![seed as u8]));
    }
    assert_eq!(read(&setup, &trunk, Dialect::Nx).await, None);
}

#[tokio::test]
async fn a_pull_request_replaces_its_own_result_and_nobody_elses() {
    let (trunk, seven, eight) = (
        trusted("acme", 1),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    );
    for dialect in REPLACEABLE {
        let setup = Setup::new();
        for body in [b"seven's first", b"seven's later"] {
            assert_eq!(put(&setup, &seven, dialect, body).await, Stored::New);
        }
        for who in [&trunk, &eight, &reader("acme"), &trusted("other", 4)] {
            assert_eq!(read(&setup, who, dialect).await, None);
        }
        let own = read(&setup, &seven, dialect).await;
        assert_eq!(own.as_deref(), Some(&b"seven's later"[..]));

        put(&setup, &trunk, dialect, b"trunk's").await;
        put(&setup, &seven, dialect, b"seven's last").await;
        for who in [&trunk, &seven, &eight, &reader("acme")] {
            let read = read(&setup, who, dialect).await;
            assert_eq!(read.as_deref(), Some(&b"trunk's"[..]), "trusted is first");
        }
    }
}

#[tokio::test]
async fn a_caller_that_rejects_an_entry_gets_the_next_scopes() {
    let setup = Setup::new();
    let (trunk, seven, eight) = (
        trusted("acme", 1),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    );
    let dialect = Dialect::ActionResult;
    put(&setup, &trunk, dialect, b"trunk's").await;
    put(&setup, &seven, dialect, b"seven's").await;
    for (who, expected) in [
        (&trunk, &["trunk's"][..]),
        (&reader("acme"), &["trunk's"]),
        (&eight, &["trunk's"]),
        (&seven, &["trunk's", "seven's"]),
        (&trusted("other", 4), &[]),
    ] {
        let (grant, mut from, mut bodies) = (who.read(), 0, Vec::new());
        while let Some((hit, next)) = setup
            .cache
            .get_from(&grant, dialect, &key("action"), from)
            .await
        {
            assert!(next > from);
            from = next;
            bodies.push(String::from_utf8(bytes_of(hit).await).unwrap());
        }
        assert_eq!(bodies, expected);
        let beyond = setup
            .cache
            .get_from(&grant, dialect, &key("action"), 100)
            .await;
        assert!(beyond.is_none());
    }
}

#[tokio::test]
async fn of_two_results_under_way_the_last_to_finish_stays() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    let (grant, key) = (trunk.write(), key("action"));
    let mut under_way = Vec::new();
    for body in ["first", "other"] {
        let put = setup
            .cache
            .put(&grant, Dialect::ActionResult, &key, Some(5), Bytes::new());
        let Ok(PutStart::Upload(mut upload)) = put.await else {
            panic!("the put did not begin");
        };
        upload.write(body.into()).await.unwrap();
        under_way.push(upload);
    }
    for upload in under_way.into_iter().rev() {
        assert_eq!(upload.finish().await, Ok(Stored::New));
    }
    let seen = read(&setup, &trunk, Dialect::ActionResult).await;
    assert_eq!(seen.as_deref(), Some(&b"first"[..]));
}

#[tokio::test]
async fn stats_and_purge_know_every_dialect() {
    let setup = Setup::new();
    let trunk = trusted("acme", 1);
    for dialect in REPLACEABLE {
        put(&setup, &trunk, dialect, b"result").await;
    }
    setup.put(&trunk, "task", b"output").await.unwrap();
    let blob = bytes(1000, 1);
    setup.put_blob(&trunk, &blob).await.unwrap();
    let dialects = || async {
        let stats = setup.cache.stats(&operator()).await.unwrap();
        let rows = stats
            .rows
            .iter()
            .map(|row| (row.dialect.name(), row.entries));
        rows.collect::<Vec<_>>()
    };
    let all = [("nx", 1), ("cas.sha256", 1), ("ac", 1), ("ac.opaque", 1)];
    assert_eq!(dialects().await, all);
    let filter = EntryFilter {
        dialect: Some(Dialect::ActionResult),
        ..EntryFilter::default()
    };
    let admin = operator();
    let purge = setup.cache.change(
        &admin,
        Change::Purge,
        Selection::Matching(filter),
        false,
        |_, _| true,
    );
    assert_eq!(purge.await.unwrap().entries, 1);
    assert_eq!(dialects().await, [all[0], all[1], all[3]]);
    let missing = setup.missing(&trunk, &[digest_of(&blob)]).await;
    assert_eq!(missing, [false]);
    let text = setup.metrics();
    for line in [
        r#"larder_stored_total{dialect="ac",workspace="acme",access="trusted"} 1"#,
        r#"larder_stored_total{dialect="cas.sha256",workspace="acme",access="trusted"} 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn the_result_that_a_write_replaces_is_at_hand_and_a_siblings_is_not() {
    let setup = Setup::new();
    let (seven, eight) = (isolated("acme", "pr/7", 7), isolated("acme", "pr/8", 8));
    let dialect = Dialect::ActionResult;
    let at_hand = |who: &Who| {
        let found = setup
            .cache
            .replaced_at_hand(&who.write(), dialect, &key("action"));
        found.map(|found| (found.writer.0, found.bytes))
    };
    assert_eq!(at_hand(&seven), None);
    put(&setup, &seven, dialect, b"bytes").await;
    assert_eq!(at_hand(&seven), Some((7, Bytes::from_static(b"bytes"))));
    assert_eq!(at_hand(&eight), None);
    put(&setup, &seven, dialect, &bytes(70_000, 1)).await;
    assert_eq!(at_hand(&seven), None, "too large to be compared");
}
