//! The audit: complete, in order, and not changed by anyone.

use larder_ledger::{AuditFilter, LedgerError, NewAuditRow, OPERATOR};

use crate::house::{
    NOW_MS, actions, alter_refused, audit, new_token, new_writer, open_again, with_acme,
};

fn row(action: &str) -> NewAuditRow {
    NewAuditRow {
        at_ms: NOW_MS,
        action: action.to_owned(),
        ..NewAuditRow::default()
    }
}

#[tokio::test]
async fn a_row_is_read_back_as_it_was_added() {
    let (directory, ledger) = with_acme().await;
    let text = |text: &str| Some(text.to_owned());
    let full = NewAuditRow {
        at_ms: NOW_MS + 1,
        action: "write".to_owned(),
        outcome: "stored".to_owned(),
        reason: text("why; '\"$1"),
        workspace: text("acme"),
        scope: text("pr/7"),
        dialect: text("nx"),
        key: text("123"),
        writer: Some(7),
        actor: text(OPERATOR),
        address: text("2001:db8::1"),
        count: 3,
        bytes: u64::MAX,
        details: text("{\"a\":1}"),
    };
    ledger
        .append_audit(&[full.clone(), row("purge")])
        .await
        .unwrap();
    ledger.append_audit(&[]).await.unwrap();
    drop(ledger);
    let rows = audit(&open_again(&directory).await).await;
    let ids: Vec<u64> = rows.iter().map(|it| it.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    let expected = NewAuditRow {
        bytes: i64::MAX.unsigned_abs(),
        ..full
    };
    assert_eq!(rows[1].row, expected);
    assert_eq!(rows[2].row, row("purge"));
}

#[tokio::test]
async fn rows_are_added_all_or_none() {
    let (_directory, ledger) = with_acme().await;
    for bad in ["", &"x".repeat(41)] {
        let refusal = ledger.append_audit(&[row("write"), row(bad)]).await;
        assert!(
            matches!(refusal, Err(LedgerError::Invalid { .. })),
            "{refusal:?}"
        );
    }
    assert_eq!(actions(&ledger).await, ["workspace-created"]);
}

#[tokio::test]
async fn nobody_changes_or_removes_a_row_whose_time_is_not_over() {
    let (directory, ledger) = with_acme().await;
    ledger
        .append_audit(&[row("write"), row("purge")])
        .await
        .unwrap();
    let before = audit(&ledger).await;
    let path = directory.path().join("ledger.sqlite");
    for sql in [
        "UPDATE audit SET action = 'x'",
        "UPDATE audit SET id = 99 WHERE id = 1",
        "DELETE FROM audit WHERE id = 2",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (id, at_ms, action, outcome, count, bytes)
            VALUES (2, 1, 'x', 'y', 1, 1)",
        "REPLACE INTO audit SELECT * FROM audit WHERE id = 2",
        "UPDATE OR REPLACE audit SET id = 3 WHERE id = 2",
        "UPDATE audit_kept SET one = 2",
        "DELETE FROM audit_kept",
        "INSERT OR REPLACE INTO audit_kept (one, since_ms, since_id) VALUES (1, 99, 99)",
    ] {
        let refusal = alter_refused(&path, sql).await;
        assert!(refusal.contains("audit"), "{sql}: {refusal}");
        assert_eq!(audit(&ledger).await, before, "{sql}");
    }
}

#[tokio::test]
async fn what_may_be_removed_never_shrinks() {
    let (directory, ledger) = with_acme().await;
    let path = directory.path().join("ledger.sqlite");
    crate::house::alter(&path, "UPDATE audit_kept SET since_ms = 5, since_id = 7").await;
    for sql in [
        "UPDATE audit_kept SET since_ms = 4",
        "UPDATE audit_kept SET since_id = 6, since_ms = 9",
    ] {
        let refusal = alter_refused(&path, sql).await;
        assert!(refusal.contains("only moves forward"), "{refusal}");
    }
    drop(ledger);
}

#[tokio::test]
async fn every_change_of_a_credential_or_a_workspace_has_its_row() {
    let (_directory, ledger) = with_acme().await;
    let token = ledger.create_token(new_token(1, "isolated")).await.unwrap();
    ledger
        .create_token(new_token(1, "isolated"))
        .await
        .unwrap_err();
    ledger.revoke_token(token.id, NOW_MS + 1).await.unwrap();
    ledger.revoke_token(token.id, NOW_MS + 2).await.unwrap();
    ledger.revoke_token(99, NOW_MS + 2).await.unwrap_err();
    ledger.create_workspace("acme", NOW_MS).await.unwrap_err();
    ledger.delete_workspace("acme", NOW_MS + 3).await.unwrap();
    let rows = audit(&ledger).await;
    let seen: Vec<_> = rows
        .iter()
        .map(|it| (it.row.action.as_str(), it.row.at_ms - NOW_MS, it.row.writer))
        .collect();
    assert_eq!(
        seen,
        [
            ("workspace-created", 0, None),
            ("token-created", 0, Some(token.id)),
            ("token-revoked", 1, Some(token.id)),
            ("workspace-deleted", 3, None),
        ]
    );
    for it in &rows {
        assert_eq!(it.row.actor.as_deref(), Some(OPERATOR));
        assert_eq!(it.row.workspace.as_deref(), Some("acme"));
    }
    assert_eq!(rows[1].row.scope, token.scope);
    assert_eq!(
        rows[1].row.details.as_deref(),
        Some(r#"{"access":"isolated"}"#)
    );
}

#[tokio::test]
async fn a_filter_finds_exactly_the_rows_that_agree_with_all_of_it() {
    let (_directory, ledger) = with_acme().await;
    let mut new = new_writer("run 1");
    new.provenance.commit_sha = Some("c".to_owned());
    let writer = ledger.writer_id(&new).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let rows = [
        NewAuditRow {
            at_ms: 10,
            writer: Some(writer),
            ..row("write")
        },
        NewAuditRow {
            at_ms: 20,
            key: text("k"),
            ..row("write")
        },
        NewAuditRow {
            at_ms: 30,
            address: text("192.0.2.1"),
            ..row("purge")
        },
        NewAuditRow {
            at_ms: 40,
            workspace: text("other"),
            key: text("k"),
            ..row("purge")
        },
    ];
    ledger.append_audit(&rows).await.unwrap();
    let check = async |filter: AuditFilter, expected: &[u64]| {
        let found = ledger.audit(&filter, 1, 100).await.unwrap();
        let found: Vec<u64> = found.into_iter().map(|it| it.row.at_ms).collect();
        assert_eq!(found, expected, "{filter:?}");
    };
    let none = AuditFilter::default;
    check(none(), &[10, 20, 30, 40]).await;
    check(
        AuditFilter {
            since_ms: Some(20),
            ..none()
        },
        &[20, 30, 40],
    )
    .await;
    check(
        AuditFilter {
            until_ms: Some(20),
            ..none()
        },
        &[10],
    )
    .await;
    check(
        AuditFilter {
            action: text("purge"),
            ..none()
        },
        &[30, 40],
    )
    .await;
    check(
        AuditFilter {
            workspace: text("other"),
            ..none()
        },
        &[40],
    )
    .await;
    check(
        AuditFilter {
            writer: Some(writer),
            ..none()
        },
        &[10],
    )
    .await;
    check(
        AuditFilter {
            run_id: text("run 1"),
            ..none()
        },
        &[10],
    )
    .await;
    check(
        AuditFilter {
            run_id: text("run 2"),
            ..none()
        },
        &[],
    )
    .await;
    check(
        AuditFilter {
            commit_sha: text("c"),
            ..none()
        },
        &[10],
    )
    .await;
    check(
        AuditFilter {
            key: text("k"),
            ..none()
        },
        &[20, 40],
    )
    .await;
    check(
        AuditFilter {
            key: text("k"),
            action: text("write"),
            ..none()
        },
        &[20],
    )
    .await;
    check(
        AuditFilter {
            address: text("192.0.2.1"),
            ..none()
        },
        &[30],
    )
    .await;
    let page = ledger.audit(&none(), 2, 2).await.unwrap();
    let ids: Vec<u64> = page.iter().map(|it| it.id).collect();
    assert_eq!(ids, [3, 4], "the page after row 2");
}
