//! The control API: who may call it, what it answers, and that its document is true.

use crate::house::{Answer, House, Pieces};
use larder_model::Access;
use larder_protocols::control::{
    ChangeResponse, EntriesResponse, EntryState, ErrorResponse, ExportRequest, Line, StatsResponse,
    VerifyResponse,
};
use larder_protocols::{OPENAPI_JSON, Origin};

const K: &str = "/v1/cache/1";

async fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("admin", "acme", Access::Admin);
    house.token("tenant", "other", Access::Trusted);
    house.put("trunk", K, b"acme").await;
    house.put("tenant", K, b"other").await;
    house
}

async fn call(house: &House, token: &str, operation: &str, body: &str) -> Answer {
    let method = method(operation);
    let path = format!("/v1/control/{operation}");
    house
        .send(
            method,
            &path,
            &[house.bearer(token)],
            Pieces::whole(body.as_bytes()),
        )
        .await
}

async fn call_locally(house: &House, operation: &str, body: &str) -> Answer {
    let method = method(operation);
    let path = format!("/v1/control/{operation}");
    let body = Pieces::whole(body.as_bytes());
    house
        .send_from(Origin::ControlSocket, method, &path, &[], body)
        .await
}

fn method(operation: &str) -> &'static str {
    match operation {
        "stats" | "nondeterministic" => "GET",
        _ => "POST",
    }
}

fn check_error(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let error: ErrorResponse = serde_json::from_str(answer.text()).unwrap();
    assert!(error.error.contains(text), "{error:?}");
}

#[tokio::test]
async fn an_admin_token_purges_its_own_workspace_and_the_operator_any() {
    let house = house().await;
    let purged = |answer: &Answer| {
        let done: ChangeResponse = serde_json::from_str(answer.text()).unwrap();
        (done.dry_run, done.entries, done.bytes)
    };
    let dry = call(&house, "admin", "purge", r#"{"key": "1", "dry_run": true}"#).await;
    assert_eq!(purged(&dry), (true, 1, 4));
    let foreign = call(&house, "admin", "purge", r#"{"workspace": "other"}"#).await;
    check_error(&foreign, 403, "acme");
    let own = call(&house, "admin", "purge", r#"{"everything": true}"#).await;
    assert_eq!(purged(&own), (false, 1, 4));
    assert_eq!(house.get("trunk", K).await.status.as_u16(), 404);
    assert_eq!(house.get("tenant", K).await.brief(), (200, &b"other"[..]));
    let any = call_locally(&house, "purge", r#"{"workspace": "other"}"#).await;
    assert_eq!(purged(&any), (false, 1, 5));
    assert_eq!(house.get("tenant", K).await.status.as_u16(), 404);
}

#[tokio::test]
async fn nobody_else_gets_anywhere_and_a_failed_purge_removes_nothing() {
    let house = house().await;
    for operation in [
        "purge",
        "quarantine",
        "release",
        "entries",
        "export",
        "stats",
        "nondeterministic",
        "verify",
    ] {
        let body = r#"{"everything": true}"#;
        check_error(
            &call(&house, "trunk", operation, body).await,
            403,
            "not for administration",
        );
        let method = method(operation);
        let path = format!("/v1/control/{operation}");
        let body = Pieces::whole(body.as_bytes());
        check_error(
            &house.send(method, &path, &[], body).await,
            401,
            "no credential",
        );
        let bad = ["Bearer bad".to_owned()];
        check_error(
            &house.send(method, &path, &bad, Pieces::whole(b"")).await,
            401,
            "token",
        );
    }
    for body in [
        "",
        "{}",
        "[]",
        r#"{"everything": "yes"}"#,
        r#"{"scope": ""}"#,
        // A script that looked a writer up and found none means no entries, not all of a workspace's.
        r#"{"workspace": "default", "writer": null}"#,
    ] {
        check_error(&call(&house, "admin", "purge", body).await, 400, "");
    }
    let huge = format!(r#"{{"key": "{}"}}"#, "k".repeat(100_000));
    check_error(
        &call(&house, "admin", "purge", &huge).await,
        400,
        "larger than",
    );
    let wrong = house
        .send("GET", "/v1/control/purge", &[], Pieces::whole(b""))
        .await;
    check_error(&wrong, 405, "POST");
    assert_eq!(wrong.header("allow"), Some("POST"));
    check_error(
        &call(&house, "admin", "nothing", "").await,
        404,
        "no such operation",
    );
    assert_eq!(house.get("trunk", K).await.status.as_u16(), 200);
}

#[tokio::test]
async fn stats_show_an_admin_its_own_workspace_and_the_operator_everything() {
    let house = house().await;
    let stats = |answer: &Answer| -> StatsResponse { serde_json::from_str(answer.text()).unwrap() };
    let own = stats(&call(&house, "admin", "stats", "").await);
    let scopes: Vec<&str> = own
        .scopes
        .iter()
        .map(|scope| scope.workspace.as_str())
        .collect();
    assert_eq!((scopes, own.pools.len()), (vec!["acme"], 0));
    let all = stats(&call_locally(&house, "stats", "").await);
    assert_eq!((all.scopes.len(), all.pools.len()), (2, 2));
}

#[tokio::test]
async fn verify_reports_line_by_line_and_ends_with_its_result() {
    let house = house().await;
    check_error(&call(&house, "admin", "verify", "").await, 403, "operator");
    let answer = call_locally(&house, "verify", "").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Line<VerifyResponse>> = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(
        *last,
        Line::Result(VerifyResponse {
            entries: 2,
            bytes: 9,
            corrupt: 0
        })
    );
    assert!(
        progress
            .iter()
            .all(|line| matches!(line, Line::Progress { .. }))
    );
}

fn entries(answer: &Answer) -> EntriesResponse {
    serde_json::from_str(answer.text()).unwrap()
}

#[tokio::test]
async fn what_is_in_quarantine_is_a_miss_is_listed_with_its_writer_exported_and_released() {
    let house = house().await;
    let all = r#"{"everything": true}"#;
    let held = call(&house, "admin", "quarantine", r#"{"scope": "trusted"}"#).await;
    let held: ChangeResponse = serde_json::from_str(held.text()).unwrap();
    assert_eq!((held.entries, held.rows.len()), (1, 1));
    assert_eq!(house.get("trunk", K).await.status.as_u16(), 404);
    assert_eq!(house.get("tenant", K).await.brief(), (200, &b"other"[..]));

    let listed = entries(&call(&house, "admin", "entries", all).await);
    let [entry] = &listed.entries[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(
        (entry.state, entry.key.as_str()),
        (EntryState::Quarantined, "1")
    );
    let mut export = ExportRequest {
        workspace: "acme".to_owned(),
        scope: entry.scope.clone(),
        dialect: entry.dialect.clone(),
        key_bytes: entry.key_bytes.clone(),
        sequence: None,
    };
    let message = |export: &ExportRequest| serde_json::to_string(export).unwrap();
    let served = call(&house, "admin", "export", &message(&export)).await;
    check_error(&served, 404, "no such entry");
    export.sequence = Some(entry.sequence);
    let bytes = call(&house, "admin", "export", &message(&export)).await;
    assert_eq!(bytes.brief(), (200, &b"acme"[..]));
    assert_eq!(bytes.header("content-length"), Some("4"));
    export.workspace = "other".to_owned();
    let foreign = call(&house, "admin", "export", &message(&export)).await;
    check_error(&foreign, 403, "acme");

    let released = call(&house, "admin", "release", all).await;
    let released: ChangeResponse = serde_json::from_str(released.text()).unwrap();
    assert_eq!((released.entries, released.refused), (1, 0));
    assert_eq!(house.get("trunk", K).await.brief(), (200, &b"acme"[..]));
}

#[tokio::test]
async fn a_writer_that_the_ledger_does_not_know_is_an_error_and_changes_nothing() {
    let house = house().await;
    for body in [
        r#"{"run": "4711"}"#,
        r#"{"run": "4711", "scope": "trusted"}"#,
        r#"{"commit": "c0ffee", "dry_run": true, "progress": true}"#,
        r#"{"token": 999999}"#,
    ] {
        for operation in ["purge", "quarantine", "release", "entries"] {
            check_error(
                &call(&house, "admin", operation, body).await,
                400,
                "no writer matches",
            );
        }
    }
    let both = call(
        &house,
        "admin",
        "purge",
        r#"{"everything": true, "run": "1"}"#,
    )
    .await;
    check_error(&both, 400, "no other condition");
    assert_eq!(house.get("trunk", K).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_change_reports_line_by_line_and_ends_with_its_result() {
    let house = house().await;
    let body = r#"{"scope": "trusted", "progress": true}"#;
    let answer = call(&house, "admin", "quarantine", body).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let last = answer.text().lines().last().unwrap();
    let Line::Result(done) = serde_json::from_str::<Line<ChangeResponse>>(last).unwrap() else {
        panic!("{last}")
    };
    assert_eq!(done.entries, 1);
}

#[tokio::test]
async fn progress_does_not_tell_an_admin_how_much_others_have_stored() {
    let house = house().await;
    for number in 0..50 {
        let path = format!("/v1/cache/2{number}");
        assert_eq!(
            house.put("tenant", &path, b"more").await.status.as_u16(),
            200
        );
    }
    let totals = |answer: &Answer| {
        let lines = answer.text().lines();
        let totals =
            lines.filter_map(|line| {
                match serde_json::from_str::<Line<serde_json::Value>>(line).unwrap() {
                    Line::Progress {
                        done_entries,
                        total_entries,
                    } => Some((done_entries <= total_entries, total_entries)),
                    Line::Result(_) | Line::Error { .. } => None,
                }
            });
        totals.collect::<std::collections::BTreeSet<_>>()
    };
    let all = r#"{"everything": true, "dry_run": true, "progress": true}"#;
    for operation in ["purge", "quarantine", "release", "entries"] {
        let own = call(&house, "admin", operation, all).await;
        assert_eq!(totals(&own), [(true, 1000)].into(), "{operation}");
    }
    let operator = totals(&call_locally(&house, "purge", all).await);
    assert!(operator.contains(&(true, 52)), "{operator:?}");
}

#[tokio::test]
async fn a_change_is_in_the_audit_before_and_after() {
    let house = house().await;
    call(&house, "admin", "quarantine", r#"{"scope": "trusted"}"#).await;
    call(
        &house,
        "admin",
        "purge",
        r#"{"scope": "trusted", "dry_run": true}"#,
    )
    .await;
    let filter = larder_ledger::AuditFilter::default();
    let rows = house.ledger.audit(&filter, 0, 1000).await.unwrap();
    let acts: Vec<(&str, &str, u64)> = rows
        .iter()
        .map(|row| {
            (
                row.row.action.as_str(),
                row.row.outcome.as_str(),
                row.row.count,
            )
        })
        .filter(|(action, ..)| ["quarantine", "purge"].contains(action))
        .collect();
    assert_eq!(
        acts,
        [("quarantine", "requested", 0), ("quarantine", "done", 1)]
    );
}

#[test]
fn the_openapi_document_names_every_status_of_the_cache_and_no_other() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI_JSON).unwrap();
    let statuses = |path: &str, method: &str| -> Vec<String> {
        let responses = document["paths"][path][method]["responses"]
            .as_object()
            .unwrap();
        responses.keys().cloned().collect()
    };
    for prefix in [
        "",
        "/w/{workspace}",
        "/scope/{label}",
        "/w/{workspace}/scope/{label}",
    ] {
        let path = format!("{prefix}/v1/cache/{{hash}}");
        assert_eq!(statuses(&path, "get"), ["200", "401", "404"]);
        assert_eq!(statuses(&path, "head"), ["200", "401", "404"]);
        assert_eq!(statuses(&path, "put"), ["200", "401", "403", "409"]);
    }
}
