//! What the protocols put into the audit of what was refused.

use larder_ledger::{AuditFilter, NewAuditRow};
use larder_model::Access;
use larder_proto::reapi::{BatchUpdateBlobsResponse, Digest};

use crate::house::{House, Pieces};
use crate::reapi::{Client, digest};

async fn rows(house: &House) -> Vec<NewAuditRow> {
    house.journal.flush(&house.ledger).await.unwrap();
    let rows = house.ledger.audit(&AuditFilter::default(), 0, 1000).await;
    rows.unwrap().into_iter().map(|it| it.row).collect()
}

#[tokio::test]
async fn blobs_that_are_refused_in_a_batch_are_summed_in_the_audit_by_their_reasons() {
    let mut house = House::new();
    house.token_of("trunk", 7, "acme", Access::Trusted);
    let client = Client::new(&house, "trunk");
    let short = Digest {
        hash: "00".to_owned(),
        ..digest(b"x")
    };
    let items: [(Digest, &[u8], i32); 5] = [
        (digest(b"one"), b"one", 0),
        (digest(b"two"), b"owt", 0),
        (digest(b"three"), b"eerht", 0),
        (short, b"x", 0),
        (digest(b"four"), b"four", 0),
    ];
    let response: BatchUpdateBlobsResponse = client.batch_update(&items).await.message();
    assert_eq!(response.responses.len(), items.len());
    let mut seen: Vec<_> = rows(&house)
        .await
        .into_iter()
        .map(|row| {
            assert_eq!((row.action.as_str(), row.writer), ("write", Some(7)));
            assert_eq!(row.workspace.as_deref(), Some("acme"));
            (row.outcome, row.reason, row.count)
        })
        .collect();
    seen.sort_unstable();
    let refused = |reason: &str, count| ("refused".to_owned(), Some(reason.to_owned()), count);
    let stored = ("stored".to_owned(), None, 2);
    assert_eq!(
        seen,
        [refused("digest", 1), refused("digest_mismatch", 2), stored]
    );
}

#[tokio::test]
async fn the_use_of_a_token_that_is_none_any_more_says_whose_it_was() {
    let mut house = House::new();
    house.token_of("old", 7, "acme", Access::Trusted);
    house.token_of("other", 8, "acme", Access::Trusted);
    house.revoke("old");
    let used = |it: NewAuditRow| (it.action, it.reason, it.writer, it.workspace);
    assert_eq!(house.put("old", "/v1/cache/1", b"x").await.status, 401);
    let row = rows(&house).await.pop().map(used).unwrap();
    let expected = |writer: Option<u64>, reason: &str| {
        let (action, reason) = ("bad-credential".to_owned(), Some(reason.to_owned()));
        (action, reason, writer, writer.map(|_| "acme".to_owned()))
    };
    assert_eq!(row, expected(Some(7), "revoked_token"));
    let client = Client::new(&house, "old");
    client.find_missing(&[digest(b"x")], 0).await;
    let row = rows(&house).await.pop().map(used).unwrap();
    assert_eq!(row, expected(Some(7), "revoked_token"));

    house.change("other", |grant| grant.expires_at_ms = Some(1))();
    assert_eq!(house.get("other", "/v1/cache/1").await.status, 401);
    let row = rows(&house).await.pop().map(used).unwrap();
    assert_eq!(row, expected(Some(8), "expired_token"));
    let nobodys = ["Bearer lrd_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg0XKMrF".to_owned()];
    let body = Pieces::whole(b"");
    assert_eq!(
        house
            .send("GET", "/v1/cache/1", &nobodys, body)
            .await
            .status,
        401
    );
    let row = rows(&house).await.pop().map(used).unwrap();
    assert_eq!(row, expected(None, "unknown_token"));
}

#[tokio::test]
async fn nothing_is_purged_before_the_audit_says_so() {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("admin", "acme", Access::Admin);
    house.put("trunk", "/v1/cache/1", b"x").await;
    let admin = [house.bearer("admin")];
    let purge = async || {
        let body = Pieces::whole(br#"{"everything": true}"#);
        let answer = house.send("POST", "/v1/control/purge", &admin, body).await;
        answer.status.as_u16()
    };
    let get = async || house.get("trunk", "/v1/cache/1").await.status.as_u16();
    house.alter_ledger("ALTER TABLE audit RENAME TO away").await;
    assert!(purge().await >= 500);
    assert_eq!(get().await, 200);
    house.alter_ledger("ALTER TABLE away RENAME TO audit").await;
    assert_eq!(purge().await, 200);
    assert_eq!(get().await, 404);
}

#[tokio::test]
async fn an_admin_does_not_see_what_was_done_to_a_workspace_of_its_name_before() {
    let mut house = House::new();
    let ledger = &house.ledger;
    ledger.create_workspace("again", 1).await.unwrap();
    let row = |action: &str| NewAuditRow {
        at_ms: 2,
        action: action.to_owned(),
        workspace: Some("again".to_owned()),
        ..NewAuditRow::default()
    };
    ledger.append_audit(&[row("before")]).await.unwrap();
    ledger.delete_workspace("again", 3).await.unwrap();
    ledger.create_workspace("again", 4).await.unwrap();
    ledger.append_audit(&[row("after")]).await.unwrap();
    house.token("admin", "again", Access::Admin);
    for query in ["", "?after=1&limit=10"] {
        let path = format!("/v1/control/audit{query}");
        let bearer = [house.bearer("admin")];
        let answer = house.send("GET", &path, &bearer, Pieces::whole(b"")).await;
        let page: serde_json::Value = serde_json::from_str(answer.text()).unwrap();
        let actions = page["rows"].as_array().unwrap().iter();
        let actions: Vec<_> = actions.map(|row| row["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["workspace-created", "after"], "{query}");
    }
}
