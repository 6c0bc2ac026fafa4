//! The control API: who may call it, what it answers, and that its document is true.

use crate::house::{Answer, House, Pieces};
use larder_model::Access;
use larder_protocols::control::{ErrorResponse, PurgeResponse, StatsResponse, VerifyLine};
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
    let method = if operation == "stats" { "GET" } else { "POST" };
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
    let method = if operation == "stats" { "GET" } else { "POST" };
    let path = format!("/v1/control/{operation}");
    let body = Pieces::whole(body.as_bytes());
    house
        .send_from(Origin::ControlSocket, method, &path, &[], body)
        .await
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
    let purged =
        |answer: &Answer| -> PurgeResponse { serde_json::from_str(answer.text()).unwrap() };
    let dry = call(&house, "admin", "purge", r#"{"key": "1", "dry_run": true}"#).await;
    assert_eq!(
        purged(&dry),
        PurgeResponse {
            dry_run: true,
            entries: 1,
            bytes: 4
        }
    );
    let foreign = call(&house, "admin", "purge", r#"{"workspace": "other"}"#).await;
    check_error(&foreign, 403, "acme");
    let own = call(&house, "admin", "purge", r#"{"everything": true}"#).await;
    assert_eq!(
        purged(&own),
        PurgeResponse {
            dry_run: false,
            entries: 1,
            bytes: 4
        }
    );
    assert_eq!(house.get("trunk", K).await.status.as_u16(), 404);
    assert_eq!(house.get("tenant", K).await.brief(), (200, &b"other"[..]));
    let any = call_locally(&house, "purge", r#"{"workspace": "other"}"#).await;
    assert_eq!(purged(&any).entries, 1);
    assert_eq!(house.get("tenant", K).await.status.as_u16(), 404);
}

#[tokio::test]
async fn nobody_else_gets_anywhere_and_a_failed_purge_removes_nothing() {
    let house = house().await;
    for operation in ["purge", "stats", "verify"] {
        let body = r#"{"everything": true}"#;
        check_error(
            &call(&house, "trunk", operation, body).await,
            403,
            "not for administration",
        );
        let method = if operation == "stats" { "GET" } else { "POST" };
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
    let lines: Vec<VerifyLine> = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(
        *last,
        VerifyLine::Result {
            entries: 2,
            bytes: 9,
            corrupt: 0
        }
    );
    assert!(
        progress
            .iter()
            .all(|line| matches!(line, VerifyLine::Progress { .. }))
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
