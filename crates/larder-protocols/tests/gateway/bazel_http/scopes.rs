//! The law of scopes over HTTP: who reads what of whom.

use super::*;

/// The rows of CVE-2025-36852 for action results, opaque ones and blobs.
#[tokio::test]
async fn a_pull_request_never_feeds_trunk() {
    let house = house();
    put_blobs(&house, "trunk", &[b"good"]).await;
    put_blobs(&house, "pr", &[b"evil"]).await;
    reads(&house, "trunk", &cas(b"evil"), None).await;
    reads(&house, "pr8", &cas(b"evil"), None).await;
    reads(&house, "pr", &cas(b"evil"), Some(b"evil")).await;
    let (evil, good) = (
        result(b"evil", b"").encode_to_vec(),
        result(b"good", b"").encode_to_vec(),
    );
    for (poison, trunks) in [(&evil[..], &good[..]), (b"cC evil", b"cC good")] {
        let path = format!("/{}{ACTION}", poison.len());
        check_bare(&put(&house, "pr", &path, &[], poison).await, 200);
        for token in ["trunk", "laptop", "pr8", "tenant", ""] {
            reads(&house, token, &path, None).await;
        }
        reads(&house, "pr", &path, Some(poison)).await;
        // Trunk's stands in front of the pull request's own, and no pull request writes over it.
        check_bare(&put(&house, "trunk", &path, &[], trunks).await, 200);
        check_bare(&put(&house, "pr", &path, &[], poison).await, 200);
        for token in ["trunk", "laptop", "pr", "pr8"] {
            reads(&house, token, &path, Some(trunks)).await;
        }
    }
}

/// A result whose blobs only a pull request has is complete for that pull request alone.
#[tokio::test]
async fn what_is_incomplete_for_trunk_is_looked_for_in_the_callers_own_scope() {
    let house = house();
    put_blobs(&house, "pr", &[b"own"]).await;
    let (gone, own) = (
        result(b"gone", b"").encode_to_vec(),
        result(b"own", b"").encode_to_vec(),
    );
    check_bare(&put(&house, "trunk", ACTION, &[], &gone).await, 200);
    check_bare(&put(&house, "pr", ACTION, &[], &own).await, 200);
    reads(&house, "trunk", ACTION, None).await;
    reads(&house, "pr8", ACTION, None).await;
    reads(&house, "pr", ACTION, Some(&own)).await;
    // Trunk's result that only the pull request could complete is not served to others.
    check_bare(&put(&house, "trunk", ACTION, &[], &own).await, 200);
    reads(&house, "trunk", ACTION, None).await;
    reads(&house, "pr", ACTION, Some(&own)).await;
}

#[tokio::test]
async fn nothing_of_a_pull_request_stands_in_front_of_what_trunk_keeps() {
    let house = house();
    put_blobs(&house, "pr", &[b"own"]).await;
    let own = result(b"own", b"").encode_to_vec();
    check_bare(&put(&house, "pr", ACTION, &[], &own).await, 200);
    reads(&house, "pr", ACTION, Some(&own)).await;
    check_bare(&put(&house, "trunk", ACTION, &[], b"cC trunk").await, 200);
    reads(&house, "pr", ACTION, Some(b"cC trunk")).await;
    let json = get(&house, "pr", ACTION, &[JSON]).await;
    assert_eq!(json.brief(), (200, &b"cC trunk"[..]));
    // In one scope a result counts more than what is none.
    put_blobs(&house, "trunk", &[b"good"]).await;
    let good = result(b"good", b"").encode_to_vec();
    check_bare(&put(&house, "trunk", ACTION, &[], &good).await, 200);
    reads(&house, "pr", ACTION, Some(&good)).await;
}

#[tokio::test]
async fn a_label_is_a_scope_below_the_pull_requests_own() {
    let house = house();
    let (labelled, message) = (format!("/name/scope/linux{ACTION}"), b"cC labelled");
    let plain = format!("/name{ACTION}");
    check_bare(&put(&house, "pr", &labelled, &[], message).await, 200);
    reads(&house, "pr", &labelled, Some(message)).await;
    for (token, path) in [
        ("pr", &plain),
        ("trunk", &plain),
        ("trunk", &labelled),
        ("pr8", &labelled),
    ] {
        reads(&house, token, path, None).await;
    }
}

#[tokio::test]
async fn a_public_workspace_is_read_without_a_credential() {
    let mut house = House::new();
    house.token("writer", "open", Access::Trusted);
    put_blobs(&house, "writer", &[b"blob"]).await;
    let path = format!("/w/open{}", cas(b"blob"));
    reads(&house, "", &path, Some(b"blob")).await;
    reads(&house, "", &cas(b"blob"), None).await;
    check_line(
        &put(&house, "", &path, &[], b"blob").await,
        403,
        "credential",
    );
}
