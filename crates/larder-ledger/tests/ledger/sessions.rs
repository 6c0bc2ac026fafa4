//! Sessions, and what may be exchanged once.

use larder_ledger::{LedgerError, Missing, NewSession, NewWriter, Once, SessionRow};

use crate::house::{
    NOW_MS, actions, audit, new_session, new_token, new_writer, open_again, with_acme,
};

fn once(number: u8) -> Once {
    Once {
        issuer: "https://issuer.example".to_owned(),
        jti_hash: [number; 32],
        until_ms: NOW_MS + 1000,
    }
}

#[tokio::test]
async fn a_session_is_read_back_as_it_was_created() {
    let (directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    let created = ledger.create_session(new_session(1, writer)).await.unwrap();
    let expected = SessionRow {
        hash: [1; 32],
        writer,
        workspace: "acme".to_owned(),
        access: "isolated".to_owned(),
        scope: Some("ci.main/pr-7".to_owned()),
        created_at_ms: NOW_MS,
        expires_at_ms: NOW_MS + 3_600_000,
        revoked_at_ms: None,
        revision: created.revision,
    };
    assert_eq!(created, expected);
    drop(ledger);
    let ledger = open_again(&directory).await;
    let end = NOW_MS + 3_600_000;
    assert_eq!(ledger.sessions(end - 1).await.unwrap(), [expected]);
    assert_eq!(ledger.sessions(end).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_exchanged_once_is_used_for_good_also_after_a_restart() {
    let (directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    let exchange = |number, jti| NewSession {
        once: Some(once(jti)),
        ..new_session(number, writer)
    };
    ledger.create_session(exchange(1, 1)).await.unwrap();
    ledger.create_session(exchange(2, 2)).await.unwrap();
    let elsewhere = Once {
        issuer: "https://other.example".to_owned(),
        ..once(1)
    };
    let other = NewSession {
        once: Some(elsewhere),
        ..new_session(3, writer)
    };
    ledger.create_session(other).await.unwrap();
    drop(ledger);
    let ledger = open_again(&directory).await;
    for jti in [1, 2] {
        let refusal = ledger.create_session(exchange(9, jti)).await.unwrap_err();
        assert!(matches!(refusal, LedgerError::UsedBefore), "{refusal:?}");
    }
    assert_eq!(ledger.sessions(0).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_session_that_was_refused_uses_nothing_up() {
    let (_directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    let good = NewSession {
        once: Some(once(1)),
        ..new_session(1, writer)
    };
    let check = async |new: NewSession| ledger.create_session(new).await.unwrap_err();
    for access in ["admin", "isolated ", ""] {
        let new = NewSession {
            access: access.to_owned(),
            scope: None,
            ..good.clone()
        };
        let refusal = check(new).await;
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{refusal:?}"
        );
    }
    for (access, scope) in [
        ("trusted", Some("pr/7")),
        ("gate", None),
        ("isolated", Some("Trusted/7")),
    ] {
        let new = NewSession {
            access: access.to_owned(),
            scope: scope.map(str::to_owned),
            ..good.clone()
        };
        let refusal = check(new).await;
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{refusal:?}"
        );
    }
    let nobody = NewSession {
        writer: 99,
        ..good.clone()
    };
    let refusal = check(nobody).await;
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Writer(99))),
        "{refusal:?}"
    );
    ledger.create_session(good.clone()).await.unwrap();
    let twice = NewSession { once: None, ..good };
    let refusal = check(twice).await;
    assert!(matches!(refusal, LedgerError::TokenExists), "{refusal:?}");
    assert_eq!(
        actions(&ledger).await,
        ["workspace-created", "session-created"]
    );
}

#[tokio::test]
async fn a_session_is_revoked_for_good_by_its_hash_or_its_writer() {
    let (_directory, ledger) = with_acme().await;
    let mut writers = Vec::new();
    for number in 1..=3_u8 {
        let writer = ledger
            .writer_id(&new_writer(&number.to_string()))
            .await
            .unwrap();
        ledger
            .create_session(new_session(number, writer))
            .await
            .unwrap();
        writers.push(writer);
    }
    assert_eq!(
        ledger.revoke_session(&[9; 32], None, NOW_MS).await.unwrap(),
        None
    );
    for now_ms in [NOW_MS + 1, NOW_MS + 2] {
        let from = Some("203.0.113.66");
        let row = ledger.revoke_session(&[1; 32], from, now_ms).await.unwrap();
        assert_eq!(row.unwrap().revoked_at_ms, Some(NOW_MS + 1));
    }
    let some = [writers[0], writers[1], 99];
    let revoked = ledger.revoke_writers(&some, NOW_MS + 3);
    assert_eq!(revoked.await.unwrap(), 1);
    let rows = ledger.sessions(0).await.unwrap();
    let mut ends: Vec<_> = rows
        .iter()
        .map(|row| (row.hash[0], row.revoked_at_ms))
        .collect();
    ends.sort_unstable();
    assert_eq!(
        ends,
        [(1, Some(NOW_MS + 1)), (2, Some(NOW_MS + 3)), (3, None)]
    );
    let rows = audit(&ledger).await;
    let revocations = rows.iter().filter(|it| it.row.action == "session-revoked");
    let revocations: Vec<_> = revocations
        .map(|it| {
            let row = &it.row;
            (row.writer, row.actor.as_deref(), row.address.as_deref())
        })
        .collect();
    assert_eq!(
        revocations,
        [
            (Some(writers[0]), None, Some("203.0.113.66")),
            (Some(writers[1]), Some("operator"), None)
        ]
    );
}

#[tokio::test]
async fn a_run_that_was_revoked_is_no_writer_any_more_and_gets_no_session() {
    let (directory, ledger) = with_acme().await;
    let (new, other) = (new_writer("1"), new_writer("2"));
    let writer = ledger.writer_id(&new).await.unwrap();
    let neighbour = ledger.writer_id(&other).await.unwrap();
    let before = ledger.change_mark().await.unwrap();
    assert_eq!(ledger.revoke_writers(&[writer], NOW_MS).await.unwrap(), 0);
    assert_ne!(ledger.change_mark().await.unwrap().tokens, before.tokens);
    let refused = |refusal: LedgerError| {
        let revoked = matches!(refusal, LedgerError::RevokedWriter(id) if id == writer);
        assert!(revoked, "{refusal:?}");
    };
    let ledger = open_again(&directory).await;
    for now_ms in [NOW_MS, NOW_MS + 1, NOW_MS + 1_000_000] {
        let again = NewWriter {
            now_ms,
            ..new.clone()
        };
        refused(ledger.writer_id(&again).await.unwrap_err());
    }
    let session = ledger.create_session(new_session(1, writer)).await;
    refused(session.unwrap_err());
    ledger.writer_id(&other).await.unwrap();
    let good = ledger.create_session(new_session(2, neighbour)).await;
    good.unwrap();
    let row = ledger.writer(writer).await.unwrap().unwrap();
    assert_eq!(row.revoked_at_ms, Some(NOW_MS));
    ledger.revoke_writers(&[writer], NOW_MS + 9).await.unwrap();
    let rows = audit(&ledger).await;
    let rows: Vec<_> = rows
        .iter()
        .filter(|it| it.row.action == "writer-revoked")
        .collect();
    assert_eq!(rows.len(), 1, "once: {rows:?}");
    assert_eq!(rows[0].row.actor.as_deref(), Some("operator"));
}

#[tokio::test]
async fn what_stands_for_more_than_a_run_loses_its_sessions_and_no_more() {
    let (_directory, ledger) = with_acme().await;
    let mut new = new_writer("1");
    new.provenance.run_id = None;
    let writer = ledger.writer_id(&new).await.unwrap();
    ledger.create_session(new_session(1, writer)).await.unwrap();
    let token = ledger.create_token(new_token(1, "trusted")).await.unwrap();
    let both = [writer, token.id];
    assert_eq!(ledger.revoke_writers(&both, NOW_MS).await.unwrap(), 1);
    assert_eq!(ledger.writer_id(&new).await.unwrap(), writer);
    assert_eq!(ledger.tokens().await.unwrap()[0].revoked_at_ms, None);
    let row = ledger.writer(token.id).await.unwrap().unwrap();
    assert_eq!(row.revoked_at_ms, None);
}

#[tokio::test]
async fn a_run_has_256_sessions_and_one_more_ends_the_oldest() {
    let (_directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    let neighbour = ledger.writer_id(&new_writer("2")).await.unwrap();
    let create = async |number: u16, writer| {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        let new = NewSession {
            hash,
            ..new_session(0, writer)
        };
        ledger.create_session(new).await.unwrap();
    };
    create(1000, neighbour).await;
    for number in 0..258 {
        create(number, writer).await;
    }
    let rows = ledger.sessions(0).await.unwrap();
    let ended = rows.iter().filter(|row| row.revoked_at_ms.is_some());
    let mut ended: Vec<_> = ended.map(|row| [row.hash[0], row.hash[1]]).collect();
    ended.sort_unstable();
    assert_eq!(ended, [[0, 0], [0, 1]]);
}

#[tokio::test]
async fn sessions_end_with_their_workspace() {
    let (_directory, ledger) = with_acme().await;
    let token = ledger.create_token(new_token(1, "trusted")).await.unwrap();
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    ledger.create_session(new_session(1, writer)).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap_err();
    assert_eq!(ledger.sessions(0).await.unwrap()[0].revoked_at_ms, None);
    ledger.revoke_token(token.id, NOW_MS).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS + 5).await.unwrap();
    let row = &ledger.sessions(0).await.unwrap()[0];
    assert_eq!(row.revoked_at_ms, Some(NOW_MS + 5));
    let refusal = ledger
        .create_session(new_session(2, writer))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Workspace(_))),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn sessions_of_rules_that_are_gone_or_say_something_else_end_and_no_others() {
    let (_directory, ledger) = with_acme().await;
    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    for (number, rule_mark) in [(1, Some([1; 32])), (2, Some([2; 32])), (3, None)] {
        let new = NewSession {
            rule_mark,
            ..new_session(number, writer)
        };
        ledger.create_session(new).await.unwrap();
    }
    let live = async || {
        let sessions = ledger.sessions(NOW_MS).await.unwrap();
        let live = sessions.iter().filter(|it| it.revoked_at_ms.is_none());
        live.map(|it| it.hash[0]).collect::<Vec<_>>()
    };
    let end = async |marks: &[[u8; 32]]| {
        let ended = ledger.end_sessions_of_other_rules(marks, NOW_MS + 5);
        ended.await.unwrap()
    };
    let mark = ledger.change_mark().await.unwrap();
    assert_eq!(
        end(&[[1; 32], [2; 32], [9; 32]]).await,
        1,
        "the one of no rule"
    );
    assert_eq!(live().await, [1, 2]);
    assert_eq!(end(&[[2; 32]]).await, 1);
    assert_eq!(end(&[[2; 32]]).await, 0);
    assert_eq!(live().await, [2]);
    assert_eq!(end(&[]).await, 1, "without any rule");
    assert_eq!(live().await, [0; 0]);
    let changed = ledger.sessions_since(mark.sessions).await.unwrap();
    assert_eq!(changed.len(), 3, "whoever follows the ledger learns of it");
    let ended = audit(&ledger).await;
    let ended = ended
        .iter()
        .filter(|row| row.row.action == "session-revoked");
    assert_eq!(ended.count(), 3);
    let one = ledger.session(&[2; 32]).await.unwrap().unwrap();
    assert_eq!(one.revoked_at_ms, Some(NOW_MS + 5));
    assert_eq!(ledger.session(&[9; 32]).await.unwrap(), None);
}
