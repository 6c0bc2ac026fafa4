//! What is so for every call: methods, credentials, framing, deadlines, health, and what capabilities say.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use larder_proto::{Message, health, reapi};

use crate::house::{End, Pieces, bytes};
use crate::reapi::*;

/// All of these at once.
async fn futures_of<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

async fn capabilities(client: &Client<'_>) -> Reply {
    let request = reapi::GetCapabilitiesRequest {
        instance_name: client.instance.to_owned(),
    };
    client.call(GET_CAPABILITIES, &request).await
}

async fn update_enabled(client: &Client<'_>) -> bool {
    let capabilities: reapi::ServerCapabilities = capabilities(client).await.message();
    let cache = capabilities.cache_capabilities.unwrap();
    cache
        .action_cache_update_capabilities
        .unwrap()
        .update_enabled
}

#[tokio::test]
async fn capabilities_say_what_the_server_does() {
    let house = house();
    let reply: reapi::ServerCapabilities =
        capabilities(&Client::new(&house, "trunk")).await.message();
    let version = |version: Option<larder_proto::semver::SemVer>| {
        let version = version.unwrap();
        (version.major, version.minor)
    };
    assert_eq!(version(reply.low_api_version), (2, 0));
    assert_eq!(version(reply.high_api_version), (2, 3));
    assert_eq!(reply.execution_capabilities, None);
    let cache = reply.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions, [1, BLAKE3]);
    assert_eq!(cache.supported_compressors, [ZSTD]);
    assert_eq!(cache.supported_batch_update_compressors, [ZSTD]);
    assert_eq!(cache.max_batch_total_size_bytes, (4 << 20) - (64 << 10));
    assert_eq!(cache.max_cas_blob_size_bytes, 2 << 30);
    assert_eq!(cache.symlink_absolute_path_strategy, 2);
    let reply: reapi::ServerCapabilities =
        capabilities(&Client::new(&house, "pr7")).await.message();
    let of_request = reply.cache_capabilities.unwrap();
    assert_eq!(of_request.symlink_absolute_path_strategy, 1);
    let priorities = cache.cache_priority_capabilities.unwrap().priorities;
    assert_eq!(
        (priorities[0].min_priority, priorities[0].max_priority),
        (0, 0)
    );
}

#[tokio::test]
async fn a_caller_is_told_whether_it_may_write_and_what_is_wrong() {
    let house = house();
    for (token, instance, expected) in [
        ("trunk", "", true),
        ("trunk", "w/acme/a/b", true),
        ("pr7", "x/scope/linux", true),
        ("laptop", "x", false),
        ("", "x", false),
        ("", "w/open", false),
    ] {
        let client = Client::new(&house, token).at(instance);
        assert_eq!(
            update_enabled(&client).await,
            expected,
            "{token} {instance}"
        );
    }
    for (token, instance, code, text) in [
        (
            "?nonsense",
            "x",
            UNAUTHENTICATED,
            "not a whole Larder token",
        ),
        ("admin", "x", PERMISSION_DENIED, "administration"),
        ("trunk", "w/other", PERMISSION_DENIED, "another workspace"),
        ("trunk", "x/scope/linux", PERMISSION_DENIED, "isolated"),
        ("laptop", "x/scope/linux", PERMISSION_DENIED, "isolated"),
        ("trunk", "x/scope", INVALID_ARGUMENT, "instance name"),
        ("trunk", "w/ACME", INVALID_ARGUMENT, "instance name"),
    ] {
        let client = Client::new(&house, token).at(instance);
        capabilities(&client).await.refused(code, text);
    }
}

#[tokio::test]
async fn bazel_before_six_is_told_that_it_may_write_and_is_refused_all_the_same() {
    let house = house();
    // Debian's Bazel 4.2.3 has no version.
    for (version, expected) in [("4.2.3", true), ("", true), ("6.0.0", false)] {
        let tool = [&b"\x0a\x05bazel\x12"[..], &[version.len() as u8]].concat();
        let details = [&tool, version.as_bytes()].concat();
        let message = [&[0x0a, details.len() as u8][..], &details].concat();
        let mut client = Client::new(&house, "laptop");
        let value = HeaderValue::try_from(base64(&message)).unwrap();
        let name = "build.bazel.remote.execution.v2.requestmetadata-bin";
        client.headers.insert(name, value);
        assert_eq!(update_enabled(&client).await, expected, "{version}");
        let (name, _) = names(b"blob", false);
        client
            .upload(&name, b"blob")
            .await
            .refused(PERMISSION_DENIED, "may only read");
    }
    let metrics = house.metrics();
    assert!(metrics.contains(r#"tool="bazel""#), "{metrics}");
}

#[tokio::test]
async fn moon_1_is_told_that_it_may_write_because_it_would_not_read_otherwise() {
    let house = house();
    for (agent, expected) in [("moon tonic/0.14.2", true), ("moon tonic/0.14.6", false)] {
        let mut client = Client::new(&house, "laptop");
        let agent_value = HeaderValue::from_static(agent);
        client.headers.insert("user-agent", agent_value);
        assert_eq!(update_enabled(&client).await, expected, "{agent}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|group| {
        let bits = group.iter().enumerate();
        let bits = bits.fold(0, |bits, (at, byte)| {
            bits | u32::from(*byte) << (16 - 8 * at)
        });
        (0..=group.len()).map(move |at| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]))
    });
    digits.collect()
}

#[tokio::test]
async fn a_bad_credential_is_said_at_every_call() {
    let house = house();
    for path in [
        GET_CAPABILITIES,
        GET_ACTION_RESULT,
        UPDATE_ACTION_RESULT,
        FIND_MISSING_BLOBS,
        BATCH_UPDATE_BLOBS,
        BATCH_READ_BLOBS,
        GET_TREE,
        READ,
        WRITE,
        QUERY_WRITE_STATUS,
    ] {
        let client = Client::new(&house, "?nonsense");
        let reply = client
            .send(path, Pieces::whole(&larder_grpc::frame(b"")))
            .await;
        reply.refused(UNAUTHENTICATED, "not a whole Larder token");
    }
}

#[tokio::test]
async fn what_is_no_method_here_is_unimplemented() {
    let house = house();
    let client = Client::new(&house, "trunk");
    for path in [
        "/build.bazel.remote.execution.v2.Execution/Execute",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob",
        "/grpc.health.v1.Health/Watch",
        "/v1/cache/10452039173495807818",
        "/",
    ] {
        let reply = client.send(path, Pieces::whole(b"")).await;
        reply.refused(UNIMPLEMENTED, "no such method");
    }
}

#[tokio::test]
async fn health_is_told_without_a_credential() {
    let house = house();
    for (token, service, expected) in [
        ("", "", OK),
        ("?nonsense", "", OK),
        ("", "build.bazel.remote.execution.v2.ActionCache", OK),
        ("", "google.bytestream.ByteStream", OK),
        ("", "build.bazel.remote.execution.v2.Execution", NOT_FOUND),
    ] {
        let request = health::HealthCheckRequest {
            service: service.to_owned(),
        };
        let client = Client::new(&house, token);
        let reply = client.call(health::health::CHECK, &request).await;
        assert_eq!(reply.code, expected, "{service}");
        if expected == OK {
            assert_eq!(reply.message::<health::HealthCheckResponse>().status, 1);
        }
    }
}

#[tokio::test]
async fn a_unary_call_has_one_whole_message_within_the_limit() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let frame = larder_grpc::frame(b"");
    let twice = [&frame[..], &frame].concat();
    let send = async |pieces: &[&[u8]]| {
        let body = Pieces::new(pieces, None, End::Clean).0;
        client.send(FIND_MISSING_BLOBS, body).await
    };
    send(&[]).await.refused(UNIMPLEMENTED, "no message");
    send(&[&twice])
        .await
        .refused(UNIMPLEMENTED, "more than one");
    send(&[b"\x01\0\0\0\0"])
        .await
        .refused(UNIMPLEMENTED, "compressed");
    send(&[b"\0\0\0\0\x05abc"])
        .await
        .refused(13, "inside a message");
    send(&[b"\0\x7f\0\0\0"])
        .await
        .refused(INVALID_ARGUMENT, "at most 8388608 bytes");
    let body = Pieces::new(&[b"\0\x7f\0\0\0"], None, End::Clean).0;
    let reply = client.send(WRITE, body).await;
    reply.refused(INVALID_ARGUMENT, "at most 268435456 bytes");
    send(&[b"\0\0\0\0\x02\x12\x05"])
        .await
        .refused(INVALID_ARGUMENT, "FindMissingBlobsRequest");
    // However it is cut, a message is a message.
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: vec![digest(b"a"), digest(b"b")],
        ..Default::default()
    };
    let framed = larder_grpc::frame(&request.encode_to_vec());
    let pieces: Vec<&[u8]> = framed.chunks(3).collect();
    let response: reapi::FindMissingBlobsResponse = send(&pieces).await.message();
    assert_eq!(
        sorted(response.missing_blob_digests),
        sorted(request.blob_digests)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_a_stalled_one_in_time() {
    let house = house();
    let mut client = Client::new(&house, "trunk");
    let stalled = || Pieces::new(&[b"\0\0\0"], None, End::Never).0;
    let started = tokio::time::Instant::now();
    client
        .send(READ, stalled())
        .await
        .refused(10, "did not arrive");
    assert_eq!(started.elapsed(), Duration::from_mins(1));
    client
        .headers
        .insert("grpc-timeout", HeaderValue::from_static("1500m"));
    client.send(WRITE, stalled()).await.refused(4, "deadline");
    assert_eq!(started.elapsed(), Duration::from_millis(61_500));
    client.headers.clear();
    let broken = Pieces::new(&[b"\0\0\0"], None, End::Broken).0;
    client.send(READ, broken).await.refused(1, "did not arrive");
}

#[tokio::test]
async fn a_call_that_panics_is_answered_with_what_hurts_its_client_least() {
    let house = house();
    let client = Client::new(&house, "trunk");
    for (path, code, text) in [
        (GET_ACTION_RESULT, NOT_FOUND, "no such action result"),
        (UPDATE_ACTION_RESULT, INTERNAL, "defect"),
        (FIND_MISSING_BLOBS, INTERNAL, "defect"),
        (BATCH_READ_BLOBS, INTERNAL, "defect"),
        (READ, INTERNAL, "defect"),
        (WRITE, INTERNAL, "defect"),
    ] {
        let (first, last) = (b"\0\0\0\0\x05", b"abcde");
        let body = Pieces::new(&[first, last], None, End::Clean).0;
        let body = body.before_last(|| panic!("on purpose"));
        client.send(path, body).await.refused(code, text);
    }
    let metrics = house.metrics();
    let counted = r#"call="Write",status="INTERNAL""#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_holds_memory_must_send_or_go() {
    let house = house();
    let client = Client::new(&house, "");
    let started = tokio::time::Instant::now();
    let begun = || Pieces::new(&[b"\0\0\x40\0\0abc"], None, End::Never).0;
    // Eight times 4 MiB are all that anonymous callers have.
    let stalled = (0..8).map(|_| client.send(FIND_MISSING_BLOBS, begun()));
    let stalled = futures_of(stalled);
    let others = async {
        let waiting = client.send(FIND_MISSING_BLOBS, begun());
        let trunk = Client::new(&house, "trunk");
        let large = vec![digest(b"absent"); 40_000];
        assert_eq!(trunk.find_missing(&large, 0).await.code, OK);
        assert_eq!(started.elapsed(), Duration::ZERO, "trunk waits for nobody");
        assert_eq!(waiting.await.code, 10);
        assert_eq!(started.elapsed(), Duration::from_secs(20));
    };
    let (stalled, ()) = tokio::join!(stalled, others);
    assert!(stalled.iter().all(|reply| reply.code == 10));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_keeps_its_memory() {
    let house = house();
    let client = Client::new(&house, "trunk");
    let blob = bytes(3 << 20, 1);
    client.store(&[&blob]).await;
    let request = reapi::BatchReadBlobsRequest {
        instance_name: "w/acme/main".to_owned(),
        digests: vec![digest(&blob)],
        ..Default::default()
    };
    let framed = larder_grpc::frame(&request.encode_to_vec());
    let ask = || {
        let request = http::Request::post(BATCH_READ_BLOBS)
            .header("content-type", "application/grpc")
            .header("authorization", house.bearer("laptop"))
            .header("grpc-timeout", "10m")
            .body(Pieces::whole(&framed))
            .unwrap();
        house.gateway.handle(request, crate::house::tcp())
    };
    let mut unread = Vec::new();
    loop {
        let answer = ask().await;
        if http_body::Body::is_end_stream(answer.body()) {
            assert_eq!(answer.headers()["grpc-status"], "4");
            break;
        }
        unread.push(answer);
        assert!(unread.len() < 100);
    }
    assert!(unread.len() > 20, "{}", unread.len());
    // Others read on, and so does who has read.
    let trunk = client.batch_read(&[digest(&blob)], false).await;
    assert_eq!(trunk.code, OK);
    unread.pop();
    assert!(!http_body::Body::is_end_stream(ask().await.body()));
}

#[tokio::test]
async fn a_path_of_grpc_with_another_content_type_is_no_call() {
    let house = house();
    let answer = house.send("POST", READ, &[], Pieces::whole(b"")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let large = Bytes::from(bytes(100, 1));
    assert_eq!(
        house.put("trunk", "/v1/cache/1", &large).await.status,
        StatusCode::OK
    );
}
