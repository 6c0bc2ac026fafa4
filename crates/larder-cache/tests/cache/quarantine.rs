//! Quarantine: what is in it nobody finds, its bytes stay, and its name is free.

use larder_cache::{
    Change, Changed, ControlError, EntryFilter, EntryPlace, KeyFilter, Selection, Standing,
};
use larder_model::{AdminGrant, BlobHash, Dialect, DigestFunction, WriterId};

use crate::blob_calls::digest_of;
use crate::pools::{Setup, admin, bytes, isolated, key, operator, trusted};

fn by(writer: u64) -> Selection {
    Selection::Matching(EntryFilter {
        writers: Some([WriterId(writer)].into()),
        ..EntryFilter::default()
    })
}

async fn change(setup: &Setup, grant: &AdminGrant, change: Change, writer: u64) -> Changed {
    let changed = setup
        .cache
        .change(grant, change, by(writer), false, |_, _| true);
    changed.await.unwrap()
}

fn counts(changed: &Changed) -> (u64, u64) {
    (changed.entries, changed.refused)
}

#[tokio::test]
async fn an_entry_in_quarantine_is_a_miss_can_be_stored_anew_and_comes_back_only_to_a_free_name() {
    let setup = Setup::new();
    let (evil, trunk) = (trusted("acme", 666), trusted("acme", 1));
    setup.put(&evil, "k", b"poison").await.unwrap();
    setup.put(&evil, "other", b"poison").await.unwrap();
    setup.put(&trunk, "fine", b"bytes").await.unwrap();
    let held = change(&setup, &operator(), Change::Quarantine, 666).await;
    assert_eq!(counts(&held), (2, 0));
    assert_eq!(held.bytes, 12);
    let row = &held.rows[0];
    assert_eq!(
        (row.scope.as_str(), row.writer, row.entries),
        ("trusted", WriterId(666), 2)
    );
    assert!(
        setup.get(&trunk, "k").await.is_none(),
        "in quarantine, and found"
    );
    assert!(setup.get(&trunk, "fine").await.is_some());

    setup.put(&trunk, "k", b"rebuilt").await.unwrap();
    assert_eq!(
        setup.read(&trunk, "k").await.as_deref(),
        Some(&b"rebuilt"[..])
    );
    let released = change(&setup, &operator(), Change::Release, 666).await;
    assert_eq!(counts(&released), (1, 1), "one name is taken");
    assert_eq!(
        setup.read(&trunk, "k").await.as_deref(),
        Some(&b"rebuilt"[..])
    );
    assert_eq!(
        setup.read(&trunk, "other").await.as_deref(),
        Some(&b"poison"[..])
    );

    let purged = change(&setup, &operator(), Change::Purge, 666).await;
    assert_eq!(
        counts(&purged),
        (2, 0),
        "a purge takes what is in quarantine as well"
    );
    assert_eq!(
        setup.read(&trunk, "k").await.as_deref(),
        Some(&b"rebuilt"[..])
    );
}

#[tokio::test]
async fn the_bytes_of_an_entry_can_be_had_whether_it_is_in_quarantine_or_not() {
    let setup = Setup::new();
    let body = bytes(300_000, 7);
    setup.put(&trusted("acme", 666), "k", &body).await.unwrap();
    change(&setup, &operator(), Change::Quarantine, 666).await;
    setup
        .put(&trusted("acme", 1), "k", b"rebuilt")
        .await
        .unwrap();
    let filter = EntryFilter {
        key: Some(KeyFilter {
            text: Some(key("k")),
            hash: None,
            instance: None,
        }),
        ..EntryFilter::default()
    };
    let found = setup
        .cache
        .entries(&operator(), Selection::Matching(filter), |_, _| true)
        .await
        .unwrap();
    let seen: Vec<_> = found
        .reports
        .iter()
        .map(|report| (report.standing, report.writer.0, report.size))
        .collect();
    assert_eq!(
        seen,
        [(Standing::Entry, 1, 7), (Standing::Held, 666, 300_000)],
        "the newest first"
    );
    for (report, expected) in found.reports.iter().zip([&b"rebuilt"[..], &body[..]]) {
        let place = EntryPlace {
            workspace: "acme".parse().unwrap(),
            scope: "trusted".parse().unwrap(),
            dialect: Dialect::Nx,
            key: key("k"),
            held: (report.standing == Standing::Held).then_some(report.sequence),
        };
        let foreign = setup.cache.export(&admin("other"), place.clone()).await;
        assert!(matches!(foreign, Err(ControlError::OtherWorkspace { .. })));
        let mut export = setup
            .cache
            .export(&operator(), place)
            .await
            .unwrap()
            .unwrap();
        let mut read = Vec::new();
        while let Some(piece) = export.pieces.recv().await {
            read.extend_from_slice(&piece);
        }
        assert_eq!(
            (export.size, export.compressed),
            (expected.len() as u64, false)
        );
        assert!(read == expected, "{} bytes", read.len());
    }
}

#[tokio::test]
async fn quarantine_of_a_writer_leaves_blobs_alone_unless_they_are_named() {
    let setup = Setup::new();
    let evil = trusted("acme", 666);
    let blob = bytes(1000, 1);
    setup.put(&evil, "k", b"poison").await.unwrap();
    setup.put_blob(&evil, &blob).await.unwrap();
    assert_eq!(
        change(&setup, &operator(), Change::Quarantine, 666)
            .await
            .entries,
        1
    );
    let missing = setup.missing(&evil, &[digest_of(&blob)]).await;
    assert_eq!(missing, [false], "presence stays what it was said to be");
    let (digest, operator) = (digest_of(&blob), operator());
    for (hash, gone) in [(BlobHash([7; 32]), 0), (digest.hash(), 1)] {
        let named = EntryFilter {
            key: Some(KeyFilter {
                text: None,
                hash: Some(hash),
                instance: None,
            }),
            ..EntryFilter::default()
        };
        let held = setup.cache.change(
            &operator,
            Change::Quarantine,
            Selection::Matching(named),
            false,
            |_, _| true,
        );
        assert_eq!(held.await.unwrap().entries, gone);
    }
    assert_eq!(setup.missing(&evil, &[digest]).await, [true]);
    let dialect = EntryFilter {
        dialect: Some(Dialect::Cas(DigestFunction::Sha256)),
        ..EntryFilter::default()
    };
    let released = setup.cache.change(
        &operator,
        Change::Release,
        Selection::Matching(dialect),
        false,
        |_, _| true,
    );
    assert_eq!(released.await.unwrap().entries, 1);
    assert_eq!(setup.missing(&evil, &[digest]).await, [false]);
}

#[tokio::test]
async fn an_admin_of_one_workspace_holds_and_sees_its_own_alone() {
    let setup = Setup::new();
    for workspace in ["acme", "other"] {
        setup
            .put(&isolated(workspace, "pr/7", 5), "k", b"bytes")
            .await
            .unwrap();
    }
    let (acme, other) = (admin("acme"), isolated("other", "pr/7", 9));
    let all = |change| {
        let everything = Selection::Everything;
        setup
            .cache
            .change(&acme, change, everything, false, |_, _| true)
    };
    assert_eq!(all(Change::Quarantine).await.unwrap().entries, 1);
    assert!(setup.get(&other, "k").await.is_some());
    let listed = setup
        .cache
        .entries(&acme, Selection::Everything, |_, _| true);
    let workspaces: Vec<String> = listed
        .await
        .unwrap()
        .reports
        .into_iter()
        .map(|report| report.workspace)
        .collect();
    assert_eq!(workspaces, ["acme"]);
    assert_eq!(all(Change::Release).await.unwrap().entries, 1);
    let stats = setup.cache.stats(&acme).await.unwrap();
    assert_eq!((stats.rows[0].entries, stats.rows[0].held_entries), (1, 0));
}

#[tokio::test]
async fn an_export_that_nobody_reads_keeps_nobody_from_the_control_plane() {
    let setup = Setup::new();
    let body = bytes(3 << 20, 9);
    let mut exports = Vec::new();
    for workspace in ["acme", "other"] {
        setup.put(&trusted(workspace, 1), "k", &body).await.unwrap();
        let place = EntryPlace {
            workspace: workspace.parse().unwrap(),
            scope: "trusted".parse().unwrap(),
            dialect: Dialect::Nx,
            key: key("k"),
            held: None,
        };
        let export = setup.cache.export(&admin(workspace), place).await;
        exports.push(export.unwrap().expect("there is one"));
    }
    for workspace in ["acme", "third"] {
        assert!(setup.cache.stats(&admin(workspace)).await.is_ok());
    }
    drop(exports);
}
