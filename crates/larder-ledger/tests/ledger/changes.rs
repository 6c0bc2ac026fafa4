//! What servers follow.

use crate::house::{NOW_MS, alter, new_session, new_token, new_writer, open_again, with_acme};
use larder_ledger::{NewAuditRow, Rewrite};

#[tokio::test]
async fn every_change_through_another_ledger_changes_the_mark() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    let id = there
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let mut mark = here.change_mark().await.unwrap();
    let mut check = async |change: &str| {
        let next = here.change_mark().await.unwrap();
        assert_ne!(next, mark, "after {change}");
        assert_eq!(
            here.change_mark().await.unwrap(),
            next,
            "no change since {change}"
        );
        mark = next;
    };
    there.revoke_token(id, NOW_MS).await.unwrap();
    check("revoke").await;
    assert_eq!(here.tokens().await.unwrap()[0].revoked_at_ms, Some(NOW_MS));
    there.create_token(new_token(2, "reader")).await.unwrap();
    check("create token").await;
    there.create_workspace("other", NOW_MS).await.unwrap();
    check("create workspace").await;
    there.delete_workspace("other", NOW_MS).await.unwrap();
    check("delete workspace").await;
    let writer = there.writer_id(&new_writer("1")).await.unwrap();
    there.create_session(new_session(1, writer)).await.unwrap();
    check("create session").await;
    there.revoke_session(&[1; 32], None, NOW_MS).await.unwrap();
    check("revoke session").await;
    there.create_session(new_session(2, writer)).await.unwrap();
    check("create session").await;
    there.revoke_writers(&[writer], NOW_MS).await.unwrap();
    check("revoke sessions").await;
    let path = directory.path().join("ledger.sqlite");
    alter(&path, "UPDATE tokens SET revoked_at_ms = 1 WHERE id = 2").await;
    check("a hand with a database shell").await;
}

#[tokio::test]
async fn what_servers_need_not_follow_leaves_the_mark_alone() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    let token = there.create_token(new_token(1, "trusted")).await.unwrap();
    let mark = here.change_mark().await.unwrap();
    for ledger in [&here, &there] {
        let row = NewAuditRow {
            action: "write".to_owned(),
            ..NewAuditRow::default()
        };
        ledger.append_audit(&[row]).await.unwrap();
        ledger
            .record_last_used(&[(token.id, NOW_MS + 1)])
            .await
            .unwrap();
        ledger.writer_id(&new_writer("1")).await.unwrap();
        let rewrite = Rewrite {
            workspace: "acme".to_owned(),
            scope: "trusted".to_owned(),
            key: "00".to_owned(),
            at_ms: NOW_MS,
            writer: token.id,
            writer_before: None,
        };
        ledger.note_rewrites(&[rewrite]).await.unwrap();
        assert_eq!(here.change_mark().await.unwrap(), mark);
    }
}

#[tokio::test]
async fn a_server_learns_of_each_change_of_a_session_once() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    let writer = there.writer_id(&new_writer("1")).await.unwrap();
    let mut mark = here.change_mark().await.unwrap();
    let mut check = async |expected: &[(u8, bool)]| {
        let since = here.sessions_since(mark.sessions).await.unwrap();
        let changed: Vec<_> = since
            .iter()
            .map(|row| (row.hash[0], row.revoked_at_ms.is_some()))
            .collect();
        assert_eq!(changed, expected);
        mark = here.change_mark().await.unwrap();
    };
    check(&[]).await;
    for number in [1, 2, 3] {
        let created = there.create_session(new_session(number, writer)).await;
        created.unwrap();
    }
    check(&[(1, false), (2, false), (3, false)]).await;
    check(&[]).await;
    there.revoke_session(&[2; 32], None, NOW_MS).await.unwrap();
    there
        .revoke_session(&[2; 32], None, NOW_MS + 1)
        .await
        .unwrap();
    check(&[(2, true)]).await;
    there.revoke_writers(&[writer], NOW_MS).await.unwrap();
    check(&[(1, true), (3, true)]).await;
    check(&[]).await;
}

#[tokio::test]
async fn a_change_through_the_same_ledger_changes_the_mark() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let mark = ledger.change_mark().await.unwrap();
    ledger.clone().revoke_token(id, NOW_MS).await.unwrap();
    assert_ne!(ledger.change_mark().await.unwrap(), mark);
}

#[tokio::test]
async fn a_refused_change_leaves_the_mark_alone() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    there.create_token(new_token(1, "trusted")).await.unwrap();
    let mark = here.change_mark().await.unwrap();
    there.create_workspace("acme", NOW_MS).await.unwrap_err();
    there.delete_workspace("acme", NOW_MS).await.unwrap_err();
    there
        .create_token(new_token(2, "nonsense"))
        .await
        .unwrap_err();
    assert_eq!(here.change_mark().await.unwrap(), mark);
}
