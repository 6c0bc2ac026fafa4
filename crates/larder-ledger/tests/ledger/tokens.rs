//! Workspaces and tokens.

use larder_ledger::{LedgerError, Missing, NewToken, TokenRow};

use crate::house::{NOW_MS, names, new_token, open_again, with_acme};

#[tokio::test]
async fn workspaces_are_listed_by_name_and_exist_once() {
    let (_directory, ledger) = with_acme().await;
    ledger
        .create_workspace("aaa.b_c-9", NOW_MS + 1)
        .await
        .unwrap();
    let refusal = ledger
        .create_workspace("acme", NOW_MS + 2)
        .await
        .unwrap_err();
    assert!(matches!(&refusal, LedgerError::Exists { workspace } if workspace == "acme"));
    assert_eq!(names(&ledger).await, ["aaa.b_c-9", "acme"]);
    assert_eq!(ledger.workspaces().await.unwrap()[1].created_at_ms, NOW_MS);
}

#[tokio::test]
async fn a_workspace_name_outside_the_grammar_is_invalid() {
    let (_directory, ledger) = with_acme().await;
    let long = "a".repeat(64);
    for name in ["", "Acme", ".a", "-a", "a b", "a/b", "ä", "a\n", &long] {
        let refusal = ledger.create_workspace(name, NOW_MS).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{name:?}: {refusal:?}"
        );
    }
    ledger.create_workspace(&long[1..], NOW_MS).await.unwrap();
}

#[tokio::test]
async fn a_token_is_read_back_as_it_was_created() {
    let (directory, ledger) = with_acme().await;
    let new = NewToken {
        scope: Some("pr/7".to_owned()),
        name: Some("Ana's laptop; '\"$1".to_owned()),
        expires_at_ms: Some(NOW_MS + 5),
        ..new_token(1, "isolated")
    };
    let created = ledger.create_token(new.clone()).await.unwrap();
    let expected = TokenRow {
        id: 1,
        hash: new.hash,
        workspace: new.workspace,
        access: new.access,
        scope: new.scope,
        name: new.name,
        created_at_ms: new.created_at_ms,
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
        last_used_at_ms: None,
    };
    assert_eq!(created, expected);
    drop(ledger);
    let ledger = open_again(&directory).await;
    assert_eq!(
        ledger.tokens().await.unwrap(),
        std::slice::from_ref(&expected)
    );
    assert_eq!(
        ledger.token_by_hash(&[1; 32]).await.unwrap(),
        Some(expected)
    );
    assert_eq!(ledger.token_by_hash(&[2; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn only_isolated_and_gate_tokens_have_a_scope_and_by_default_one_of_their_own() {
    let (_directory, ledger) = with_acme().await;
    for (number, access) in (1..).zip(["trusted", "clean-room", "reader", "admin"]) {
        assert_eq!(
            ledger
                .create_token(new_token(number, access))
                .await
                .unwrap()
                .scope,
            None
        );
        let scoped = NewToken {
            scope: Some("pr".to_owned()),
            ..new_token(100 + number, access)
        };
        let refusal = ledger.create_token(scoped).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{refusal:?}"
        );
    }
    for (number, access) in (5..).zip(["isolated", "gate", "isolated"]) {
        let row = ledger
            .create_token(new_token(number, access))
            .await
            .unwrap();
        assert_eq!(row.scope, Some(format!("token/{}", row.id)));
        assert_eq!(
            ledger.token_by_hash(&[number; 32]).await.unwrap(),
            Some(row)
        );
    }
}

#[tokio::test]
async fn an_isolated_token_never_gets_the_trusted_scope() {
    let (_directory, ledger) = with_acme().await;
    for scope in [
        "trusted",
        "Trusted",
        "trusted/7",
        "TRUSTED/a",
        "",
        "a b",
        "trusted ",
    ] {
        let new = NewToken {
            scope: Some(scope.to_owned()),
            ..new_token(1, "isolated")
        };
        let refusal = ledger.create_token(new).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{scope:?}: {refusal:?}"
        );
    }
    assert_eq!(ledger.tokens().await.unwrap(), []);
}

#[tokio::test]
async fn a_word_that_is_no_access_is_invalid() {
    let (_directory, ledger) = with_acme().await;
    for access in ["", "Trusted", "write", "isolated "] {
        let refusal = ledger.create_token(new_token(1, access)).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{access:?}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn a_token_needs_its_workspace_and_a_text_of_its_own() {
    let (_directory, ledger) = with_acme().await;
    let stray = NewToken {
        workspace: "nobody".to_owned(),
        ..new_token(1, "reader")
    };
    let refusal = ledger.create_token(stray).await.unwrap_err();
    let expected = Missing::Workspace("nobody".to_owned());
    assert!(matches!(&refusal, LedgerError::NotFound(missing) if *missing == expected));
    ledger.create_token(new_token(1, "reader")).await.unwrap();
    let refusal = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap_err();
    assert!(matches!(refusal, LedgerError::TokenExists), "{refusal:?}");
    assert_eq!(ledger.tokens().await.unwrap().len(), 1);
}

#[tokio::test]
async fn revoking_is_for_good_and_keeps_its_first_time() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let other = ledger.create_token(new_token(2, "trusted")).await.unwrap();
    for now_ms in [NOW_MS + 1, NOW_MS + 2] {
        let row = ledger.revoke_token(id, now_ms).await.unwrap();
        assert_eq!(row.revoked_at_ms, Some(NOW_MS + 1));
    }
    assert_eq!(ledger.token_by_hash(&[2; 32]).await.unwrap(), Some(other));
    for unknown in [3, 0, u64::MAX] {
        let refusal = ledger.revoke_token(unknown, NOW_MS).await.unwrap_err();
        let expected = Missing::Token(unknown);
        assert!(matches!(&refusal, LedgerError::NotFound(missing) if *missing == expected));
    }
}

#[tokio::test]
async fn a_workspace_goes_only_when_its_tokens_are_revoked() {
    let (_directory, ledger) = with_acme().await;
    ledger.create_workspace("other", NOW_MS).await.unwrap();
    let first = ledger.create_token(new_token(1, "trusted")).await.unwrap();
    let second = ledger.create_token(new_token(2, "reader")).await.unwrap();
    ledger.revoke_token(first.id, NOW_MS).await.unwrap();
    let refusal = ledger.delete_workspace("acme", NOW_MS).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::InUse { token_count: 1, .. }),
        "{refusal:?}"
    );
    let ids: Vec<u64> = ledger
        .tokens()
        .await
        .unwrap()
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(
        ids,
        [first.id, second.id],
        "a refused deletion changes nothing"
    );

    ledger.revoke_token(second.id, NOW_MS).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    assert_eq!(names(&ledger).await, ["other"]);
    assert_eq!(
        ledger.tokens().await.unwrap().len(),
        2,
        "writers stay known after their workspace"
    );
    let refusal = ledger.delete_workspace("acme", NOW_MS).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Workspace(_))),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_deleted_workspace_takes_no_tokens_until_it_is_made_again() {
    let (_directory, ledger) = with_acme().await;
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    let refusal = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Workspace(_))),
        "{refusal:?}"
    );
    assert_eq!(ledger.tokens().await.unwrap(), []);
    ledger.create_workspace("acme", NOW_MS + 9).await.unwrap();
    assert_eq!(
        ledger.workspaces().await.unwrap()[0].created_at_ms,
        NOW_MS + 9
    );
    ledger.create_token(new_token(1, "trusted")).await.unwrap();
}

#[tokio::test]
async fn nobody_asks_for_a_scope_that_others_are_given() {
    let (_directory, ledger) = with_acme().await;
    for scope in [
        "token",
        "token/1",
        "token/1/linux",
        "Token/1",
        "ci",
        "CI/pr-1",
        "ci.main",
        "ci.main/pr-1",
        "Ci.x/y",
        "ci.",
    ] {
        let new = NewToken {
            scope: Some(scope.to_owned()),
            ..new_token(1, "isolated")
        };
        let refusal = ledger.create_token(new).await.unwrap_err();
        assert!(
            matches!(&refusal, LedgerError::ReservedScope { label } if scope.starts_with(label)),
            "{scope}: {refusal:?}"
        );
    }
    for (number, scope) in (1..).zip(["tokens/1", "cis", "cia/1", "pr/ci", "pr/token"]) {
        let new = NewToken {
            scope: Some(scope.to_owned()),
            ..new_token(number, "gate")
        };
        assert_eq!(
            ledger.create_token(new).await.unwrap().scope.as_deref(),
            Some(scope)
        );
    }
}

#[tokio::test]
async fn the_id_of_a_token_that_is_gone_is_never_used_again() {
    let (directory, ledger) = with_acme().await;
    let last = ledger.create_token(new_token(1, "isolated")).await.unwrap();
    ledger.revoke_token(last.id, NOW_MS).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    drop(ledger);
    let ledger = open_again(&directory).await;
    ledger.create_workspace("acme", NOW_MS).await.unwrap();
    let next = ledger.create_token(new_token(2, "isolated")).await.unwrap();
    assert!(next.id > last.id, "{} after {}", next.id, last.id);
    assert_ne!(next.scope, last.scope);
}

#[tokio::test]
async fn last_use_only_moves_forward() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    for (uses, expected) in [
        (vec![], None),
        (
            vec![(id, NOW_MS + 5), (99, NOW_MS), (u64::MAX, NOW_MS)],
            Some(NOW_MS + 5),
        ),
        (vec![(id, NOW_MS + 4)], Some(NOW_MS + 5)),
        (vec![(id, NOW_MS + 7), (id, NOW_MS + 6)], Some(NOW_MS + 7)),
    ] {
        ledger.record_last_used(&uses).await.unwrap();
        assert_eq!(
            ledger.tokens().await.unwrap()[0].last_used_at_ms,
            expected,
            "{uses:?}"
        );
    }
}

#[tokio::test]
async fn times_beyond_what_sql_can_hold_stay_in_the_far_future() {
    let (_directory, ledger) = with_acme().await;
    let new = NewToken {
        expires_at_ms: Some(u64::MAX),
        ..new_token(1, "trusted")
    };
    let row = ledger.create_token(new).await.unwrap();
    assert_eq!(row.expires_at_ms, Some(i64::MAX.unsigned_abs()));
}
