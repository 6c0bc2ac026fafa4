//! The control plane over real pools: what a grant can see and remove.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use crate::pools::{Setup, admin, isolated, key, operator, trusted};
use larder_cache::{Change, ControlError, EntryFilter, KeyFilter, Selection};
use larder_model::{AdminGrant, WriterId};

/// Every entry of the setups here: workspace, scope, key.
const ENTRIES: [(&str, &str, &str, u64); 6] = [
    ("acme", "trusted", "a", 1),
    ("acme", "trusted", "b", 2),
    ("acme", "pr/7", "a1", 3),
    ("acme", "pr/8", "b1", 4),
    ("other", "trusted", "a", 5),
    ("other", "pr/7", "a1", 6),
];

fn by_key(name: &str) -> KeyFilter {
    KeyFilter {
        text: Some(key(name)),
        hash: None,
        instance: None,
    }
}

fn writer(id: u64) -> BTreeSet<WriterId> {
    [WriterId(id)].into()
}

async fn fill(setup: &Setup) {
    for (workspace, scope, name, writer) in ENTRIES {
        let who = match scope {
            "trusted" => trusted(workspace, writer),
            scope => isolated(workspace, scope, writer),
        };
        setup.put(&who, name, b"bytes").await.unwrap();
    }
}

/// The entries that are left, by their writers.
async fn left(setup: &Setup) -> Vec<u64> {
    let mut left = Vec::new();
    for (workspace, scope, name, writer) in ENTRIES {
        let who = match scope {
            "trusted" => trusted(workspace, 0),
            scope => isolated(workspace, scope, 0),
        };
        if setup.get(&who, name).await.is_some() {
            left.push(writer);
        }
    }
    left
}

async fn check_purge(grant: &AdminGrant, purge: Selection, expected_gone: &[u64]) {
    let setup = Setup::new();
    fill(&setup).await;
    let dry = setup
        .cache
        .change(grant, Change::Purge, purge.clone(), true, |_, _| true)
        .await
        .unwrap();
    assert_eq!(
        left(&setup).await,
        [1, 2, 3, 4, 5, 6],
        "a dry run removes nothing"
    );
    let real = setup
        .cache
        .change(grant, Change::Purge, purge.clone(), false, |_, _| true)
        .await
        .unwrap();
    assert_eq!(dry, real);
    assert_eq!(real.entries, expected_gone.len() as u64, "{purge:?}");
    assert_eq!(real.bytes, 5 * expected_gone.len() as u64);
    let expected: Vec<u64> = (1..=6)
        .filter(|writer| !expected_gone.contains(writer))
        .collect();
    assert_eq!(left(&setup).await, expected, "{purge:?}");
}

/// Checks that the operator's purge by what `set` sets removes exactly these.
async fn check_filter(set: impl FnOnce(&mut EntryFilter), expected_gone: &[u64]) {
    let mut filter = EntryFilter::default();
    set(&mut filter);
    check_purge(&operator(), Selection::Matching(filter), expected_gone).await;
}

#[tokio::test]
async fn a_purge_removes_what_every_condition_matches_and_nothing_else() {
    let acme = || Some("acme".parse().unwrap());
    let seven = || Some("pr/7".parse().unwrap());
    let trusted = || Some("trusted".parse().unwrap());
    check_filter(|filter| filter.workspace = acme(), &[1, 2, 3, 4]).await;
    check_filter(|filter| filter.scope = seven(), &[3, 6]).await;
    check_filter(|filter| filter.scope = trusted(), &[1, 2, 5]).await;
    check_filter(|filter| filter.key = Some(by_key("a")), &[1, 5]).await;
    check_filter(|filter| filter.writers = Some(writer(4)), &[4]).await;
    let both = |filter: &mut EntryFilter| (filter.workspace, filter.scope) = (acme(), seven());
    check_filter(both, &[3]).await;
    let both = |filter: &mut EntryFilter| {
        (filter.writers, filter.key) = (Some(writer(4)), Some(by_key("a")));
    };
    check_filter(both, &[]).await;
    check_purge(&operator(), Selection::Everything, &[1, 2, 3, 4, 5, 6]).await;
}

#[tokio::test]
async fn a_purge_by_time_includes_its_start_and_not_its_end() {
    let all = [1, 2, 3, 4, 5, 6];
    check_filter(|filter| filter.written_before_ms = Some(1), &[]).await;
    check_filter(|filter| filter.written_after_ms = Some(1), &all).await;
    check_filter(|filter| filter.written_after_ms = Some(u64::MAX), &[]).await;
}

/// Starts a count of everything that `grant` is for, which ends when the sender is dropped.
async fn held_up(setup: &Arc<Setup>, grant: AdminGrant) -> mpsc::Sender<()> {
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    let setup = setup.clone();
    tokio::spawn(async move {
        let wait = move |_, _| begun.send(()).is_ok() && released.recv().is_err();
        let purge = setup
            .cache
            .change(&grant, Change::Purge, Selection::Everything, true, wait);
        purge.await.unwrap();
    });
    has_begun.recv().await.expect("it begins");
    release
}

#[tokio::test(start_paused = true)]
async fn a_workspace_runs_one_control_call_and_tenants_do_not_keep_the_operator_waiting() {
    let setup = Arc::new(Setup::new());
    fill(&setup).await;
    let busy = |stats| matches!(stats, Err(ControlError::Busy));
    let acme = held_up(&setup, admin("acme")).await;
    assert!(busy(setup.cache.stats(&admin("acme")).await), "one each");
    assert!(setup.cache.stats(&admin("third")).await.is_ok());
    let other = held_up(&setup, admin("other")).await;
    assert!(busy(setup.cache.stats(&admin("third")).await), "two in all");
    let started = tokio::time::Instant::now();
    assert!(setup.cache.stats(&operator()).await.is_ok());
    assert_eq!(started.elapsed(), Duration::ZERO);
    drop((acme, other));
}

#[tokio::test]
async fn the_operator_waits_for_a_turn() {
    let setup = Arc::new(Setup::new());
    fill(&setup).await;
    let (one, two) = (
        held_up(&setup, operator()).await,
        held_up(&setup, operator()).await,
    );
    let operator = operator();
    let mut waiting = pin!(setup.cache.stats(&operator));
    let first = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
    assert!(first.await);
    drop((one, two));
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn an_admin_of_one_workspace_purges_no_other() {
    let acme = admin("acme");
    check_purge(&acme, Selection::Everything, &[1, 2, 3, 4]).await;
    let filter = EntryFilter {
        key: Some(by_key("a")),
        ..EntryFilter::default()
    };
    check_purge(&acme, Selection::Matching(filter), &[1]).await;

    let setup = Setup::new();
    fill(&setup).await;
    let filter = EntryFilter {
        workspace: Some("other".parse().unwrap()),
        ..EntryFilter::default()
    };
    let purge = setup
        .cache
        .change(
            &acme,
            Change::Purge,
            Selection::Matching(filter),
            false,
            |_, _| true,
        )
        .await;
    assert!(matches!(purge, Err(ControlError::OtherWorkspace { .. })));
    assert_eq!(left(&setup).await.len(), 6);
}

#[tokio::test]
async fn a_purge_by_nothing_is_an_error() {
    let setup = Setup::new();
    fill(&setup).await;
    let purge = Selection::Matching(EntryFilter::default());
    for grant in [operator(), admin("acme")] {
        let purged = setup
            .cache
            .change(&grant, Change::Purge, purge.clone(), false, |_, _| true)
            .await;
        assert!(matches!(purged, Err(ControlError::NothingSelected)));
    }
    assert_eq!(left(&setup).await.len(), 6);
}

#[tokio::test]
async fn what_was_purged_can_be_written_again() {
    let setup = Setup::new();
    let writer = trusted("acme", 1);
    setup.put(&writer, "k", b"poison").await.unwrap();
    let filter = EntryFilter {
        key: Some(by_key("k")),
        ..EntryFilter::default()
    };
    setup
        .cache
        .change(
            &operator(),
            Change::Purge,
            Selection::Matching(filter),
            false,
            |_, _| true,
        )
        .await
        .unwrap();
    setup.put(&writer, "k", b"clean").await.unwrap();
    assert_eq!(
        setup.read(&writer, "k").await.as_deref(),
        Some(&b"clean"[..])
    );
}

#[tokio::test]
async fn stats_count_by_workspace_and_scope_and_show_an_admin_its_own_workspace_only() {
    let setup = Setup::new();
    fill(&setup).await;
    let rows = |stats: &larder_cache::Stats| {
        let rows = stats.rows.iter();
        rows.map(|row| {
            format!(
                "{} {} {} {}",
                row.workspace, row.scope, row.entries, row.bytes
            )
        })
        .collect::<Vec<_>>()
    };
    let stats = setup.cache.stats(&operator()).await.unwrap();
    let expected = [
        "acme pr/7 1 5",
        "acme pr/8 1 5",
        "acme trusted 2 10",
        "other pr/7 1 5",
        "other trusted 1 5",
    ];
    assert_eq!(rows(&stats), expected);
    assert!(
        stats
            .rows
            .iter()
            .all(|row| 0 < row.oldest_ms && row.oldest_ms <= row.newest_ms)
    );
    let names: Vec<&str> = stats.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["shared/trusted", "shared/untrusted"]);

    let stats = setup.cache.stats(&admin("other")).await.unwrap();
    assert_eq!(rows(&stats), expected[3..]);
    assert!(
        stats.pools.is_empty(),
        "how full shared pools are would tell about other tenants"
    );
}

#[tokio::test]
async fn verify_reads_everything_and_shared_pools_are_the_operators_alone() {
    let setup = Setup::with_own("other");
    fill(&setup).await;
    let (sender, progress) = std::sync::mpsc::channel();
    let report = move |done, total| sender.send((done, total)).is_ok();
    let verified = setup.cache.verify(&operator(), report).await.unwrap();
    assert_eq!(
        (verified.entries, verified.bytes, verified.corrupt),
        (6, 30, 0)
    );
    let progress: Vec<(u64, u64)> = progress.iter().collect();
    assert!(progress.is_sorted(), "{progress:?}");
    assert!(
        progress.iter().all(|(done, total)| done <= total),
        "{progress:?}"
    );

    let denied = setup.cache.verify(&admin("acme"), |_, _| true).await;
    assert!(matches!(denied, Err(ControlError::SharedPools)));
    let own = setup
        .cache
        .verify(&admin("other"), |_, _| true)
        .await
        .unwrap();
    assert_eq!(own.entries, 2);
}

#[tokio::test]
async fn verify_finds_what_rotted() {
    let setup = Setup::new();
    let body = crate::pools::bytes(200_000, 7);
    setup.put(&trusted("acme", 1), "k", &body).await.unwrap();
    setup
        .put(&trusted("acme", 1), "fine", b"bytes")
        .await
        .unwrap();
    setup.rot("trusted", &body[150_000..150_100]);
    let verified = setup.cache.verify(&operator(), |_, _| true).await.unwrap();
    assert_eq!((verified.entries, verified.corrupt), (1, 1));
    assert!(setup.get(&trusted("acme", 1), "k").await.is_none());
}
