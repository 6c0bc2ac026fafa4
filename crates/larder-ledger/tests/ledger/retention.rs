//! What is forgotten, and what never is.

use larder_ledger::{
    AuditFilter, NewAuditRow, NewSession, NewWriter, Once, Pruned, Retention, Rewrite, WriterFilter,
};

use crate::house::{NOW_MS, audit, new_session, new_token, new_writer, with_acme};

const DAY_MS: u64 = 24 * 3_600_000;

const KEPT: Retention = Retention {
    audit_ms: 90 * DAY_MS,
    audit_rows: 1_000_000,
    writers_ms: 400 * DAY_MS,
};

fn row(action: &str, at_ms: u64) -> NewAuditRow {
    NewAuditRow {
        at_ms,
        action: action.to_owned(),
        ..NewAuditRow::default()
    }
}

#[tokio::test]
async fn rows_of_the_audit_go_when_their_time_is_over_and_not_before() {
    let (_directory, ledger) = with_acme().await;
    let end = NOW_MS + 90 * DAY_MS;
    // More than one portion of what goes.
    let mut rows = vec![row("write", NOW_MS); 12_000];
    rows.push(row("purge", NOW_MS + 1));
    ledger.append_audit(&rows).await.unwrap();
    assert_eq!(ledger.prune(&KEPT, end).await.unwrap(), Pruned::default());
    let pruned = ledger.prune(&KEPT, end + 1).await.unwrap();
    assert_eq!(pruned.audit, 12_001, "and the creation of the workspace");
    let left = audit(&ledger).await;
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].id, left[0].row.action.as_str()), (12_002, "purge"));
    // A clock that is set back brings nothing back and breaks nothing.
    assert_eq!(
        ledger.prune(&KEPT, NOW_MS).await.unwrap(),
        Pruned::default()
    );
    assert_eq!(audit(&ledger).await, left);
}

#[tokio::test]
async fn of_too_many_rows_the_oldest_about_entries_go_and_none_about_who_may_do_what() {
    let (_directory, ledger) = with_acme().await;
    let mut rows = vec![row("write", NOW_MS); 20];
    rows.insert(3, row("purge", NOW_MS));
    rows.insert(5, row("bad-credential", NOW_MS));
    ledger.append_audit(&rows).await.unwrap();
    let kept = Retention {
        audit_rows: 10,
        ..KEPT
    };
    let pruned = ledger.prune(&kept, NOW_MS).await.unwrap();
    assert_eq!(pruned.audit, 11);
    let left = audit(&ledger).await;
    let actions: Vec<_> = left.iter().map(|it| it.row.action.as_str()).collect();
    assert_eq!(actions[..2], ["workspace-created", "purge"]);
    assert_eq!(actions[2..], ["write"; 10]);
    assert_eq!(ledger.prune(&kept, NOW_MS).await.unwrap().audit, 0);
}

#[tokio::test]
async fn what_untrusted_writers_store_does_not_push_out_what_trunk_stored() {
    let (_directory, ledger) = with_acme().await;
    let of = |scope: &str, key: String| NewAuditRow {
        scope: Some(scope.to_owned()),
        key: Some(key),
        ..row("write", NOW_MS)
    };
    let trunk = (0..15).map(|key| of("trusted", format!("trunk {key}")));
    let flood = (0..200).map(|key| of("pr/7", format!("flood {key}")));
    let rows: Vec<_> = trunk.chain(flood).collect();
    ledger.append_audit(&rows).await.unwrap();
    let kept = Retention {
        audit_rows: 10,
        ..KEPT
    };
    let pruned = ledger.prune(&kept, NOW_MS).await.unwrap();
    assert_eq!(pruned.audit, 5 + 190);
    let left = audit(&ledger).await;
    let keys: Vec<_> = left.iter().filter_map(|it| it.row.key.as_deref()).collect();
    let expected = (5..15).map(|key| format!("trunk {key}"));
    let expected = expected.chain((190..200).map(|key| format!("flood {key}")));
    assert_eq!(keys, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_clock_that_jumps_forward_ends_the_oldest_day_and_no_more() {
    let (_directory, ledger) = with_acme().await;
    let rows: Vec<_> = (0..80)
        .map(|day| row("purge", NOW_MS + day * DAY_MS))
        .collect();
    ledger.append_audit(&rows).await.unwrap();
    let writer = ledger.writer_id(&new_writer("old")).await.unwrap();
    let now_ms = NOW_MS + 89 * DAY_MS;
    let pruned = ledger.prune(&KEPT, now_ms).await.unwrap();
    assert_eq!(pruned, Pruned::default());
    let jumped_ms = now_ms + 1000 * DAY_MS;
    ledger
        .append_audit(&[row("policy-changed", jumped_ms)])
        .await
        .unwrap();
    let pruned = ledger.prune(&KEPT, jumped_ms).await.unwrap();
    assert_eq!((pruned.audit, pruned.writers), (0, 0));
    let pruned = ledger.prune(&KEPT, jumped_ms).await.unwrap();
    assert_eq!(
        pruned.audit, 2,
        "of the first day: the workspace, and a row"
    );
    assert!(ledger.writer(writer).await.unwrap().is_some());
    // Set right again, it goes on as if nothing had been.
    let pruned = ledger.prune(&KEPT, now_ms + DAY_MS + 2).await.unwrap();
    assert_eq!(pruned.audit, 0);
    let pruned = ledger.prune(&KEPT, now_ms + 3 * DAY_MS).await.unwrap();
    assert_eq!(pruned.audit, 1);
}

#[tokio::test]
async fn untrusted_results_do_not_push_trusted_ones_out_of_what_is_known_of_rewrites() {
    let (_directory, ledger) = with_acme().await;
    let rewrite = |scope: &str, key: usize, later_ms: usize| Rewrite {
        workspace: "acme".to_owned(),
        scope: scope.to_owned(),
        key: key.to_string(),
        at_ms: NOW_MS + later_ms as u64,
        writer: 1,
        writer_before: None,
    };
    let mut noted = vec![rewrite("trusted", 0, 0)];
    noted.extend((0..100_005).map(|key| rewrite("pr/7", key, key + 1)));
    ledger.note_rewrites(&noted).await.unwrap();
    assert_eq!(ledger.prune(&KEPT, NOW_MS).await.unwrap().rewrites, 5);
    let rows = ledger.rewrites(Some("acme"), u32::MAX).await.unwrap();
    assert_eq!(rows.len(), 100_001);
    assert!(rows.iter().any(|row| row.scope == "trusted"));
}

#[tokio::test]
async fn untrusted_jobs_cannot_push_anything_out_of_the_audit_with_sessions() {
    let (_directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    for (number, access) in (0..).zip(["trusted", "clean-room", "reader", "isolated", "gate"]) {
        let mut new = NewSession {
            access: access.to_owned(),
            ..new_session(number, writer)
        };
        new.scope = new.scope.filter(|_| ["isolated", "gate"].contains(&access));
        ledger.create_session(new).await.unwrap();
        ledger
            .revoke_session(&[number; 32], None, NOW_MS)
            .await
            .unwrap();
    }
    let kept = Retention {
        audit_rows: 0,
        ..KEPT
    };
    assert_eq!(ledger.prune(&kept, NOW_MS).await.unwrap().audit, 6);
    let left = audit(&ledger).await;
    let left: Vec<_> = left
        .iter()
        .filter_map(|it| it.row.details.as_deref())
        .collect();
    assert_eq!(left.len(), 4);
    assert!(
        left[..2].iter().all(|it| it.contains("\"trusted\"")),
        "{left:?}"
    );
    assert!(
        left[2..].iter().all(|it| it.contains("\"clean-room\"")),
        "{left:?}"
    );
}

#[tokio::test]
async fn writers_go_when_nobody_saw_them_for_long_and_tokens_never() {
    let (_directory, ledger) = with_acme().await;
    let token = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let old = ledger.writer_id(&new_writer("old")).await.unwrap();
    let kept = NewWriter {
        now_ms: NOW_MS + DAY_MS,
        ..new_writer("kept")
    };
    let kept = ledger.writer_id(&kept).await.unwrap();
    let in_use = ledger.writer_id(&new_writer("in use")).await.unwrap();
    let session = NewSession {
        expires_at_ms: NOW_MS + 500 * DAY_MS,
        ..new_session(1, in_use)
    };
    ledger.create_session(session).await.unwrap();
    let ids = async || {
        let rows = ledger.writers(&WriterFilter::default(), 100).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, [token, old, kept, in_use]);
    let pruned = ledger.prune(&KEPT, NOW_MS + 400 * DAY_MS).await.unwrap();
    assert_eq!(pruned.writers, 0);
    let pruned = ledger
        .prune(&KEPT, NOW_MS + 400 * DAY_MS + 1)
        .await
        .unwrap();
    assert_eq!(pruned.writers, 1);
    assert_eq!(ids().await, [token, kept, in_use]);
    let again = ledger.writer_id(&new_writer("old")).await.unwrap();
    assert!(again > in_use, "its id is nobody's for good");
}

#[tokio::test]
async fn sessions_and_what_was_used_once_go_after_their_end() {
    let (_directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    let new = NewSession {
        once: Some(Once {
            issuer: "https://issuer.example".to_owned(),
            jti_hash: [1; 32],
            until_ms: NOW_MS + 1000,
        }),
        ..new_session(1, writer)
    };
    let end = new.expires_at_ms;
    ledger.create_session(new.clone()).await.unwrap();
    let pruned = ledger.prune(&KEPT, NOW_MS + 1000).await.unwrap();
    assert_eq!(pruned, Pruned::default());
    let again = NewSession {
        hash: [2; 32],
        ..new
    };
    ledger.create_session(again.clone()).await.unwrap_err();
    let pruned = ledger.prune(&KEPT, NOW_MS + 1001).await.unwrap();
    assert_eq!((pruned.used_once, pruned.sessions), (1, 0));
    ledger.create_session(again).await.unwrap();
    for day in 0..=7 {
        let pruned = ledger.prune(&KEPT, end + day * DAY_MS).await.unwrap();
        assert_eq!(pruned.sessions, 0);
    }
    let pruned = ledger.prune(&KEPT, end + 7 * DAY_MS + 1).await.unwrap();
    assert_eq!(pruned.sessions, 2);
    assert_eq!(ledger.sessions(0).await.unwrap(), []);
}

#[tokio::test]
async fn rewrites_are_counted_by_key_and_forgotten_with_the_audit() {
    let (_directory, ledger) = with_acme().await;
    let rewrite = |workspace: &str, key: &str, later_ms, writer| Rewrite {
        workspace: workspace.to_owned(),
        scope: "trusted".to_owned(),
        key: key.to_owned(),
        at_ms: NOW_MS + later_ms,
        writer,
        writer_before: writer.checked_sub(1),
    };
    let noted = [
        rewrite("acme", "a", 0, 2),
        rewrite("acme", "b", 5, 3),
        rewrite("acme", "a", 9, 4),
        rewrite("other", "a", 7, 5),
    ];
    ledger.note_rewrites(&noted).await.unwrap();
    let rows = ledger.rewrites(None, 2).await.unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.workspace.as_str(), row.key.as_str(), row.count))
        .collect();
    assert_eq!(seen, [("acme", "a", 2), ("other", "a", 1)]);
    assert_eq!(
        (rows[0].first_at_ms, rows[0].last_at_ms),
        (NOW_MS, NOW_MS + 9)
    );
    assert_eq!((rows[0].writer, rows[0].writer_before), (Some(4), Some(3)));
    let acme = ledger.rewrites(Some("acme"), 100).await.unwrap();
    let keys: Vec<_> = acme.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, ["a", "b"]);
    let pruned = ledger.prune(&KEPT, NOW_MS + 90 * DAY_MS + 6).await.unwrap();
    assert_eq!(pruned.rewrites, 1);
    assert_eq!(
        ledger.audit(&AuditFilter::default(), 0, 10).await.unwrap(),
        []
    );
}
