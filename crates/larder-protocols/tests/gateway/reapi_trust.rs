//! The law of scopes over gRPC: what an untrusted writer tries, and what callers without a grant see.

use larder_cache::CacheLimits;
use larder_model::Access;
use larder_proto::reapi::{
    ActionResult, BatchReadBlobsResponse, GetCapabilitiesRequest, OutputFile, ServerCapabilities,
};

use crate::house::House;
use crate::reapi::*;

const BLOB: &[u8] = b"a blob of the build";

fn result(exit_code: i32) -> ActionResult {
    ActionResult {
        output_files: vec![OutputFile {
            path: "out".to_owned(),
            digest: Some(digest(BLOB)),
            ..Default::default()
        }],
        exit_code,
        ..Default::default()
    }
}

async fn publishes(house: &House, token: &'static str, instance: &'static str, exit_code: i32) {
    let client = Client::new(house, token).at(instance);
    client.store(&[BLOB]).await;
    let stored = client
        .update_action(&digest(b"action"), &result(exit_code))
        .await;
    stored.message::<ActionResult>();
}

/// What a client sees of the action's result, and whether it sees the blob.
async fn sees(
    house: &House,
    token: &'static str,
    instance: &'static str,
    code: Option<i32>,
    blob: bool,
) {
    let client = Client::new(house, token).at(instance);
    let reply = client.get_action(&digest(b"action")).await;
    let found = (reply.code == OK).then(|| reply.message::<ActionResult>().exit_code);
    assert_eq!(found, code, "{token} at {instance}: {reply:?}");
    assert_eq!(
        client.missing(&[digest(BLOB)]).await.is_empty(),
        blob,
        "{token} at {instance}"
    );
    let batch: BatchReadBlobsResponse = client.batch_read(&[digest(BLOB)], false).await.message();
    let expected = if blob { (0, BLOB) } else { (5, &b""[..]) };
    let answer = &batch.responses[0];
    assert_eq!(
        (answer.status.as_ref().unwrap().code, &answer.data[..]),
        expected
    );
    let name = format!("{instance}/blobs/{}/{}", hash(BLOB), BLOB.len());
    let read = client.read(&name, 0, 0).await;
    assert_eq!(
        read.code,
        if blob { OK } else { NOT_FOUND },
        "{token} at {instance}"
    );
}

#[tokio::test]
async fn a_pull_request_that_writes_first_does_not_feed_trunk() {
    let house = house();
    publishes(&house, "pr7", "main", 7).await;
    for token in ["trunk", "laptop", "pr8", "tenant", ""] {
        sees(&house, token, "main", None, false).await;
    }
    sees(&house, "pr7", "main", Some(7), true).await;
    publishes(&house, "trunk", "main", 1).await;
    for token in ["trunk", "laptop", "pr7", "pr8"] {
        sees(&house, token, "main", Some(1), true).await;
    }
    for token in ["tenant", ""] {
        sees(&house, token, "main", None, false).await;
    }
}

#[tokio::test]
async fn a_pull_request_cannot_write_over_trunk() {
    let house = house();
    publishes(&house, "trunk", "main", 1).await;
    publishes(&house, "pr7", "main", 7).await;
    for token in ["trunk", "laptop", "pr7", "pr8"] {
        sees(&house, token, "main", Some(1), true).await;
    }
}

#[tokio::test]
async fn a_label_picks_a_scope_below_the_tokens_own_and_no_other() {
    let house = house();
    publishes(&house, "pr7", "main/scope/linux", 7).await;
    sees(&house, "pr7", "main/scope/linux", Some(7), true).await;
    for (token, instance) in [
        ("pr7", "main"),
        ("pr7", "main/scope/mac"),
        ("pr8", "main/scope/linux"),
        ("trunk", "main"),
    ] {
        sees(&house, token, instance, None, false).await;
    }
    let trunk = Client::new(&house, "trunk").at("main/scope/linux");
    let reply = trunk.update_action(&digest(b"action"), &result(1)).await;
    reply.refused(PERMISSION_DENIED, "isolated");
}

#[tokio::test]
async fn tenants_share_nothing() {
    let house = house();
    publishes(&house, "tenant", "main", 9).await;
    sees(&house, "trunk", "main", None, false).await;
    sees(&house, "pr7", "main", None, false).await;
    publishes(&house, "trunk", "main", 1).await;
    sees(&house, "tenant", "main", Some(9), true).await;
    sees(&house, "tenant", "w/acme/main", None, false).await;
    sees(&house, "trunk", "w/acme/main", Some(1), true).await;
}

#[tokio::test]
async fn who_may_not_write_is_told_so_and_writes_nothing() {
    let house = house();
    for (token, instance, text) in [
        ("laptop", "main", "this token may only read"),
        ("", "main", "no token was sent"),
        ("admin", "main", "administration"),
        ("tenant", "w/acme", "another workspace"),
        ("trunk", "main/scope/x", "isolated"),
        ("", "w/open", "no token was sent"),
    ] {
        let client = Client::new(&house, token).at(instance);
        let reply = client
            .update_action(&digest(b"action"), &ActionResult::default())
            .await;
        reply.refused(PERMISSION_DENIED, text);
        let reply = client.batch_update(&[(digest(BLOB), BLOB, 0)]).await;
        reply.refused(PERMISSION_DENIED, text);
        let name = format!("{instance}/uploads/u/blobs/{}/{}", hash(BLOB), BLOB.len());
        client
            .upload(&name, BLOB)
            .await
            .refused(PERMISSION_DENIED, text);
    }
    assert_eq!(entries(&house), (0, 0));
}

#[tokio::test]
async fn anyone_reads_a_public_workspace() {
    let mut house = house();
    house.token("open-trunk", "open", Access::Trusted);
    publishes(&house, "open-trunk", "main", 3).await;
    sees(&house, "", "w/open/main", Some(3), true).await;
    sees(&house, "", "main", None, false).await;
    sees(&house, "", "w/acme/main", None, false).await;
    sees(&house, "trunk", "w/open/main", None, false).await;
}

#[tokio::test]
async fn trunks_incomplete_result_does_not_hide_a_pull_requests_own() {
    let house = house();
    let trunk = Client::new(&house, "trunk");
    let mut lost = result(1);
    lost.output_files[0].digest = Some(digest(b"lost"));
    trunk
        .update_action(&digest(b"action"), &lost)
        .await
        .message::<ActionResult>();
    sees(&house, "trunk", "main", None, false).await;
    publishes(&house, "pr7", "main", 7).await;
    sees(&house, "pr7", "main", Some(7), true).await;
    sees(&house, "trunk", "main", None, false).await;
    sees(&house, "pr8", "main", None, false).await;
}

#[tokio::test]
async fn no_instance_name_raises_a_pull_request() {
    let house = house();
    for instance in [
        "scope/trusted",
        "main/scope/Trusted",
        "main/scope/..",
        "../trusted",
        "w/other",
        "w/acme/scope/trusted",
        "trusted",
        "main/scope",
        "main%00",
        "scope/a/scope/b",
    ] {
        let client = Client::new(&house, "pr7").at(instance);
        client.batch_update(&[(digest(BLOB), BLOB, 0)]).await;
        client
            .update_action(&digest(b"action"), &ActionResult::default())
            .await;
        let name = format!("{instance}/uploads/u/blobs/{}/{}", hash(BLOB), BLOB.len());
        client.upload(&name, BLOB).await;
    }
    assert_eq!(entries(&house).0, 0);
}

/// A workspace with a limit of its own would show by it that there is one.
#[tokio::test]
async fn a_workspaces_own_limit_is_told_to_those_only_who_may_read_there() {
    let house = house();
    let (own, all) = (1000, 2000);
    let of_acme_and_open = ["acme", "open"].map(|name| (name.parse().unwrap(), own));
    house.cache.set_limits(CacheLimits {
        entry_bytes_max: all,
        workspace_entry_bytes_max: of_acme_and_open.into(),
    });
    for (token, instance, expected) in [
        ("trunk", "w/acme", own),
        ("laptop", "", own),
        ("", "w/open", own),
        ("", "w/acme", all),
        ("", "w/nowhere", all),
        ("", "", all),
    ] {
        let client = Client::new(&house, token).at(instance);
        let request = GetCapabilitiesRequest {
            instance_name: instance.to_owned(),
        };
        let reply = client.call(GET_CAPABILITIES, &request).await;
        let capabilities: ServerCapabilities = reply.message();
        let said = capabilities.cache_capabilities.unwrap();
        let said = said.max_cas_blob_size_bytes;
        assert_eq!(said, expected.cast_signed(), "{token} at {instance}");
    }
}

#[tokio::test]
async fn every_call_that_is_refused_is_counted_with_its_reason() {
    let house = house();
    let laptop = Client::new(&house, "laptop");
    laptop.batch_update(&[(digest(BLOB), BLOB, 0)]).await;
    Client::new(&house, "").get_action(&digest(b"action")).await;
    let trunk = Client::new(&house, "trunk");
    trunk
        .write(&[part(&names(BLOB, false).0, 0, b"a", false)])
        .await;
    let metrics = house.metrics();
    for line in [
        r#"action="write",reason="read_only""#,
        r#"action="read",reason="anonymous""#,
        r#"tool="other",call="BatchUpdateBlobs",status="PERMISSION_DENIED""#,
        r#"tool="other",call="GetActionResult",status="NOT_FOUND""#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
