//! Every answer of the HTTP cache of the Remote Execution API, as Bazel, moon and ccache need it.

mod scopes;

use std::sync::atomic::Ordering;

use crate::house::{Answer, End, House, Pieces, bytes};
use aws_lc_rs::digest::{SHA256, digest};
use http::Request;
use http::header::AUTHORIZATION;
use larder_cache::CacheLimits;
use larder_model::{Access, BlobHash};
use larder_proto::{Message as _, reapi as re};
use larder_protocols::OPENAPI_JSON;
use serde_json::{Value, json};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ACTION: &str = "/ac/70f53d9c00000000000000000000000000000000000000000000000000000001";
const LARGE: usize = 3_000_000;
const JSON: (&str, &str) = ("accept", "application/json");
const AS_JSON: (&str, &str) = ("content-type", "application/json");
const READS_ZSTD: (&str, &str) = ("accept-encoding", "zstd,gzip");
const AS_ZSTD: (&str, &str) = ("content-encoding", "zstd");

type Headers<'a> = &'a [(&'a str, &'a str)];

fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("laptop", "acme", Access::Reader);
    house.token("admin", "acme", Access::Admin);
    house.isolated("pr", "acme", "pr/7");
    house.isolated("pr8", "acme", "pr/8");
    house.token("tenant", "other", Access::Trusted);
    house
}

fn sha256(body: &[u8]) -> String {
    let hash = digest(&SHA256, body);
    BlobHash(hash.as_ref().try_into().unwrap()).to_string()
}

fn cas(body: &[u8]) -> String {
    format!("/cas/{}", sha256(body))
}

fn zstd(body: &[u8]) -> Vec<u8> {
    let mut compressed = vec![0; zstd_safe::compress_bound(body.len())];
    let len = zstd_safe::compress(&mut compressed[..], body, 3).unwrap();
    compressed.truncate(len);
    compressed
}

fn decompressed(frame: &[u8], size: usize) -> Vec<u8> {
    let mut body = vec![0; size];
    let len = zstd_safe::decompress(&mut body[..], frame).unwrap();
    body.truncate(len);
    body
}

async fn send(
    house: &House,
    token: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Pieces,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header(AUTHORIZATION, house.bearer(token));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    house
        .exchange(crate::house::tcp(), request.body(body).unwrap())
        .await
}

async fn get(house: &House, token: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(house, token, ("GET", path), headers, Pieces::whole(b"")).await
}

async fn put(
    house: &House,
    token: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    send(house, token, ("PUT", path), headers, Pieces::whole(body)).await
}

fn check_bare(answer: &Answer, status: u16) {
    assert_eq!((answer.status.as_u16(), answer.text()), (status, ""));
    assert!(answer.headers.is_empty(), "{answer:?}");
}

fn check_line(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert!(answer.text().contains(text), "{answer:?}");
    assert_eq!(answer.text().lines().count(), 1);
}

#[tokio::test]
async fn a_blob_comes_back_as_it_was_whatever_its_size_and_its_prefix() {
    let house = house();
    for size in [1, 478, 100_000, LARGE] {
        let body = bytes(size, 1);
        let path = cas(&body);
        check_bare(&get(&house, "trunk", &path, &[]).await, 404);
        check_bare(&put(&house, "trunk", &path, &[], &body).await, 200);
        check_bare(&put(&house, "trunk", &path, &[], &body).await, 200);
        for path in [
            path.clone(),
            format!("/moon/out{path}"),
            format!("/w/acme/{path}"),
        ] {
            let hit = get(&house, "laptop", &path, &[READS_ZSTD]).await;
            assert_eq!(hit.brief(), (200, &body[..]), "{path}");
            assert_eq!(hit.header("content-encoding"), None, "never on the fly");
            assert_eq!(hit.header("vary"), Some("accept-encoding"));
            let size = size.to_string();
            assert_eq!(hit.header("content-length"), Some(size.as_str()));
            let (head, none) = (("HEAD", path.as_str()), Pieces::whole(b""));
            let head = send(&house, "laptop", head, &[], none).await;
            assert_eq!(
                (head.brief(), &head.headers),
                ((200, &b""[..]), &hit.headers)
            );
        }
    }
}

#[tokio::test]
async fn bytes_that_are_not_the_blob_are_refused_and_stored_nowhere() {
    let house = house();
    let (body, other) = (bytes(LARGE, 1), bytes(LARGE, 2));
    let path = cas(&body);
    check_line(&put(&house, "trunk", &path, &[], &other).await, 400, "hash");
    check_line(&put(&house, "trunk", &path, &[], b"").await, 400, "hash");
    let empty = Pieces::new(&[], None, End::Clean).0;
    let unsaid = send(&house, "trunk", ("PUT", &path), &[], empty).await;
    check_line(&unsaid, 400, "hash");
    let size = [("x-digest-sizebytes", "7")];
    check_line(&put(&house, "trunk", &path, &size, &body).await, 400, "");
    let squeezed = zstd(&other);
    check_line(
        &put(&house, "trunk", &path, &[AS_ZSTD], &squeezed).await,
        400,
        "hash",
    );
    check_line(
        &put(&house, "trunk", &path, &[AS_ZSTD], &body).await,
        400,
        "zstd",
    );
    check_bare(&get(&house, "trunk", &path, &[]).await, 404);
    check_bare(&put(&house, "trunk", &path, &[], &body).await, 200);
}

#[tokio::test]
async fn the_empty_blob_is_always_there_and_is_taken_in_every_form() {
    let house = house();
    let path = format!("/cas/{EMPTY}");
    let hit = get(&house, "trunk", &path, &[READS_ZSTD]).await;
    assert_eq!(hit.brief(), (200, &b""[..]));
    assert_eq!(hit.header("content-length"), Some("0"));
    // moon sends it without any length.
    for declared in [Some(0), None] {
        let body = Pieces::new(&[], declared, End::Clean).0;
        let answer = send(&house, "trunk", ("PUT", &path), &[], body).await;
        check_bare(&answer, 200);
    }
    check_bare(
        &put(&house, "trunk", &path, &[AS_ZSTD], &zstd(b"")).await,
        200,
    );
    // As over gRPC it is there for everybody.
    for (token, path) in [
        ("", path.clone()),
        ("", format!("/w/nowhere{path}")),
        ("admin", path.clone()),
        ("trunk", format!("/w/other{path}")),
    ] {
        for method in ["GET", "HEAD"] {
            let hit = send(&house, token, (method, &path), &[], Pieces::whole(b"")).await;
            assert_eq!(hit.brief(), (200, &b""[..]), "{token} at {path}");
            assert_eq!(hit.header("content-length"), Some("0"));
        }
    }
}

#[tokio::test]
async fn a_blob_of_unsaid_length_is_stored() {
    let house = house();
    for size in [5, LARGE] {
        let body = bytes(size, 3);
        let pieces: Vec<&[u8]> = body.chunks(100_000).collect();
        let chunked = Pieces::new(&pieces, None, End::Clean).0;
        let answer = send(&house, "trunk", ("PUT", &cas(&body)), &[], chunked).await;
        check_bare(&answer, 200);
        let hit = get(&house, "trunk", &cas(&body), &[]).await;
        assert_eq!(hit.brief(), (200, &body[..]));
    }
}

#[tokio::test]
async fn a_compressed_blob_goes_out_as_it_came_to_those_who_can_read_it() {
    let house = house();
    for size in [400, LARGE] {
        let body = bytes(size, 4);
        let (path, squeezed, size) = (cas(&body), zstd(&body), size.to_string());
        let said = [AS_ZSTD, ("x-digest-sizebytes", size.as_str())];
        check_bare(&put(&house, "trunk", &path, &said, &squeezed).await, 200);
        let hit = get(&house, "trunk", &path, &[READS_ZSTD]).await;
        assert_eq!(hit.brief(), (200, &squeezed[..]));
        assert_eq!(hit.header("content-encoding"), Some("zstd"));
        assert_eq!(hit.header("vary"), Some("accept-encoding"));
        let length = squeezed.len().to_string();
        assert_eq!(hit.header("content-length"), Some(length.as_str()));
        for refuses in ["gzip", "zstd;q=0, gzip", "*"] {
            let plain = get(&house, "trunk", &path, &[("accept-encoding", refuses)]).await;
            assert_eq!(plain.brief(), (200, &body[..]), "{refuses}");
            assert_eq!(plain.header("content-encoding"), None);
            assert_eq!(plain.header("content-length"), Some(size.as_str()));
        }
    }
}

#[tokio::test]
async fn a_compressed_blob_whose_size_is_unsaid_is_found_as_well() {
    let house = house();
    let body = bytes(LARGE, 5);
    check_bare(
        &put(&house, "trunk", &cas(&body), &[AS_ZSTD], &zstd(&body)).await,
        200,
    );
    let hit = get(&house, "trunk", &cas(&body), &[READS_ZSTD]).await;
    let found = match hit.header("content-encoding") {
        Some("zstd") => decompressed(&hit.body.unwrap(), LARGE),
        _ => hit.body.unwrap().to_vec(),
    };
    assert!(found == body, "the same bytes");
}

#[tokio::test]
async fn every_refused_write_is_read_to_its_end_and_says_why() {
    let house = house();
    let body = bytes(LARGE, 6);
    let (blob, gzip) = (cas(&body), [("content-encoding", "gzip")]);
    let unread = [("x-digest-sizebytes", "many")];
    let nowhere = format!("/w/nowhere{blob}");
    let cases: [(&str, &str, Headers<'_>, u16, &str); 12] = [
        ("laptop", &blob, &[], 403, "only read"),
        ("laptop", ACTION, &[], 403, "only read"),
        ("admin", &blob, &[], 403, "administration"),
        ("", &blob, &[], 403, "credential"),
        ("trunk", &nowhere, &[], 403, "another workspace"),
        (
            "trunk",
            &format!("/scope/linux{blob}"),
            &[],
            403,
            "isolated",
        ),
        ("trunk", "/cas/ABC", &[], 400, "names no entry"),
        (
            "trunk",
            &format!("/scope/..{blob}"),
            &[],
            400,
            "names no entry",
        ),
        ("trunk", &blob, &gzip, 415, "encoding"),
        ("trunk", ACTION, &[AS_ZSTD], 415, "encoding"),
        ("trunk", &blob, &unread, 400, "number"),
        ("trunk", &cas(b"other"), &[], 400, "hash"),
    ];
    for (token, path, headers, status, text) in cases {
        let (pieces, read) = Pieces::new(&[&body], Some(LARGE as u64), End::Clean);
        let answer = send(&house, token, ("PUT", path), headers, pieces).await;
        check_line(&answer, status, text);
        assert_eq!(
            read.load(Ordering::Relaxed),
            LARGE,
            "drained before {answer:?}"
        );
    }
    house.cache.set_limits(CacheLimits {
        entry_bytes_max: 1000,
        ..CacheLimits::default()
    });
    check_line(&put(&house, "trunk", &blob, &[], &body).await, 413, "1000");
    check_bare(&get(&house, "trunk", &blob, &[]).await, 404);
}

#[tokio::test]
async fn what_is_beyond_its_limit_is_refused_with_and_without_a_length() {
    let house = house();
    let piece = vec![b'x'; 1 << 20];
    let pieces: Vec<&[u8]> = vec![&piece; 17];
    for declared in [Some(17 << 20), None] {
        let (body, read) = Pieces::new(&pieces, declared, End::Clean);
        let answer = send(&house, "trunk", ("PUT", ACTION), &[], body).await;
        check_line(&answer, 413, "entries under /ac/ are limited to 16777216");
        assert_eq!(read.load(Ordering::Relaxed), 17 << 20);
        let (body, _) = Pieces::new(
            &pieces[1..],
            declared.map(|it| it - piece.len() as u64),
            End::Clean,
        );
        let answer = send(&house, "trunk", ("PUT", ACTION), &[], body).await;
        check_bare(&answer, 200);
    }
}

/// It would not fit what clients of gRPC receive.
#[tokio::test]
async fn an_action_result_of_four_mebibytes_is_refused() {
    let house = house();
    put_blobs(&house, "trunk", &[b"file"]).await;
    let limit = (4 << 20) - (64 << 10);
    let mut large = result(b"file", b"");
    large.stdout_raw = vec![b'x'; limit].into();
    let rest = large.encoded_len() - limit;
    for (len, status) in [(limit, 200), (limit + 1, 413)] {
        large.stdout_raw = vec![b'x'; len - rest].into();
        let message = large.encode_to_vec();
        assert_eq!(message.len(), len);
        let digest = |body: &[u8]| json!({"hash": sha256(body), "sizeBytes": body.len()});
        use base64::Engine as _;
        let json = json!({
            "outputFiles": [{"path": "dist/out.txt", "digest": digest(b"file")}],
            "stdoutRaw": base64::prelude::BASE64_STANDARD.encode(&large.stdout_raw),
            "stdoutDigest": digest(b""),
        });
        for (path, headers, body) in [
            (format!("/protobuf{ACTION}"), &[][..], message),
            (
                format!("/json{ACTION}"),
                &[AS_JSON],
                json.to_string().into_bytes(),
            ),
        ] {
            let answer = put(&house, "trunk", &path, headers, &body).await;
            if status == 200 {
                check_bare(&answer, 200);
                assert_eq!(get(&house, "trunk", &path, &[]).await.status, 200);
            } else {
                check_line(&answer, 413, "action results are limited to 4128768 bytes");
            }
        }
    }
}

#[tokio::test]
async fn a_bad_credential_is_loud_everywhere_and_everything_else_is_a_miss() {
    let mut house = house();
    house.token("gone", "acme", Access::Trusted);
    house.revoke("gone");
    for path in [ACTION, &format!("/cas/{EMPTY}"), "/cas/ABC"] {
        for method in ["GET", "PUT"] {
            let answer = send(&house, "gone", (method, path), &[], Pieces::whole(b"x")).await;
            check_line(&answer, 401, "revoked");
            let schemes = answer.headers.get_all("www-authenticate").iter();
            let schemes: Vec<&str> = schemes.map(|value| value.to_str().unwrap()).collect();
            assert_eq!(schemes, ["Bearer", "Basic realm=\"larder\""]);
        }
    }
    let body = b"blob";
    check_bare(&put(&house, "trunk", &cas(body), &[], body).await, 200);
    for (token, path) in [
        ("", cas(body)),
        ("admin", cas(body)),
        ("tenant", cas(body)),
        ("trunk", format!("/w/other{}", cas(body))),
        ("trunk", "/cas/ABC".to_owned()),
        ("trunk", format!("/scope/linux{ACTION}")),
    ] {
        check_bare(&get(&house, token, &path, &[]).await, 404);
    }
}

/// Bazel writes the user information of its URL in the URL's alphabet.
#[tokio::test]
async fn basic_credentials_are_read_in_both_alphabets() {
    let house = house();
    let body = b"blob";
    check_bare(&put(&house, "trunk", &cas(body), &[], body).await, 200);
    let token = house.bearer("laptop").replace("Bearer ", "");
    // Such a user name that the two alphabets differ.
    let pair = format!("~~~???>>>:{token}");
    use base64::Engine as _;
    for encoded in [
        base64::prelude::BASE64_STANDARD.encode(&pair),
        base64::prelude::BASE64_URL_SAFE.encode(&pair),
    ] {
        let auth = [format!("Basic {encoded}")];
        let none = Pieces::whole(b"");
        let hit = house.send("GET", &cas(body), &auth, none).await;
        assert_eq!(hit.brief(), (200, &body[..]), "{encoded}");
    }
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let house = house();
    for method in ["POST", "DELETE", "PATCH"] {
        let answer = send(&house, "trunk", (method, ACTION), &[], Pieces::whole(b"x")).await;
        assert_eq!(answer.status.as_u16(), 405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD, PUT"));
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_during_its_upload_stores_nothing() {
    let house = house();
    let body = bytes(LARGE, 7);
    for path in [cas(&body), ACTION.to_owned()] {
        let revoke = house.change("trunk", |grant| grant.revoked = true);
        let (pieces, _) = Pieces::new(&[&body[..10], &body[10..]], None, End::Clean);
        let pieces = pieces.before_last(revoke);
        let answer = send(&house, "trunk", ("PUT", &path), &[], pieces).await;
        check_line(&answer, 401, "revoked");
        house.change("trunk", |grant| grant.revoked = false)();
        check_bare(&get(&house, "trunk", &path, &[]).await, 404);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let house = house();
    let body = bytes(LARGE, 8);
    for path in [cas(&body), ACTION.to_owned()] {
        let pieces = Pieces::new(&[&body[..10]], None, End::Broken).0;
        let answer = send(&house, "trunk", ("PUT", &path), &[], pieces).await;
        check_line(&answer, 400, "did not arrive");
        check_bare(&get(&house, "trunk", &path, &[]).await, 404);
    }
}

fn digest_of(body: &[u8]) -> re::Digest {
    re::Digest {
        hash: sha256(body),
        size_bytes: body.len().try_into().unwrap(),
    }
}

/// A result with one file and standard output.
fn result(file: &[u8], stdout: &[u8]) -> re::ActionResult {
    re::ActionResult {
        output_files: vec![re::OutputFile {
            path: "dist/out.txt".to_owned(),
            digest: Some(digest_of(file)),
            ..Default::default()
        }],
        stdout_digest: Some(digest_of(stdout)),
        ..Default::default()
    }
}

/// The same, as moon 1.41.7, 2.3.4 and 2.5.5 write it: no size for an empty file, numbers as texts.
fn result_of_moon(file: &[u8], stdout: &[u8]) -> Value {
    let properties = json!({"mtime": "2026-11-21T02:09:57.257788457+00:00", "unixMode": 33188});
    json!({
        "outputFiles": [
            {"path": "dist/empty.txt", "digest": {"hash": EMPTY}, "nodeProperties": properties},
            {
                "path": "dist/out.txt",
                "digest": {"hash": sha256(file), "sizeBytes": file.len().to_string()},
                "nodeProperties": properties,
            },
        ],
        "stdoutDigest": {"hash": sha256(stdout), "sizeBytes": stdout.len().to_string()},
        "executionMetadata": {
            "worker": "moon",
            "outputUploadStartTimestamp": "2026-11-21T02:09:57.303401057+00:00",
        },
    })
}

async fn put_blobs(house: &House, token: &str, blobs: &[&[u8]]) {
    for blob in blobs {
        check_bare(&put(house, token, &cas(blob), &[], blob).await, 200);
    }
}

#[tokio::test]
async fn an_action_result_is_found_while_all_its_blobs_are_there() {
    let house = house();
    let message = result(b"file", b"stdout").encode_to_vec();
    check_bare(&put(&house, "trunk", ACTION, &[], &message).await, 200);
    check_bare(&get(&house, "trunk", ACTION, &[]).await, 404);
    put_blobs(&house, "trunk", &[b"file"]).await;
    check_bare(&get(&house, "trunk", ACTION, &[]).await, 404);
    put_blobs(&house, "trunk", &[b"stdout"]).await;
    let hit = get(&house, "laptop", ACTION, &[]).await;
    assert_eq!(hit.brief(), (200, &message[..]));
    assert_eq!(hit.header("content-type"), Some("application/octet-stream"));
    assert_eq!(hit.header("vary"), Some("accept"));
    let head = send(&house, "laptop", ("HEAD", ACTION), &[], Pieces::whole(b"")).await;
    assert_eq!(
        (head.brief(), &head.headers),
        ((200, &b""[..]), &hit.headers)
    );
}

#[tokio::test]
async fn a_newer_action_result_takes_the_place_of_an_older_one() {
    let house = house();
    put_blobs(&house, "trunk", &[b"1", b"2", b""]).await;
    for file in [b"1", b"2"] {
        let message = result(file, b"").encode_to_vec();
        check_bare(&put(&house, "trunk", ACTION, &[], &message).await, 200);
        let hit = get(&house, "trunk", ACTION, &[]).await;
        assert_eq!(hit.brief(), (200, &message[..]));
    }
}

#[tokio::test]
async fn what_moon_stores_as_json_is_an_action_result_to_everybody() {
    let house = house();
    put_blobs(&house, "trunk", &[b"file", b"stdout"]).await;
    let (sent, path) = (
        result_of_moon(b"file", b"stdout"),
        format!("/moon-outputs{ACTION}"),
    );
    let body = sent.to_string();
    check_bare(
        &put(&house, "trunk", &path, &[AS_JSON], body.as_bytes()).await,
        200,
    );
    let hit = get(&house, "laptop", &path, &[JSON]).await;
    assert_eq!(hit.header("content-type"), Some("application/json"));
    let utc = body.replace("+00:00", "Z");
    let (found, utc): (Value, Value) = (
        serde_json::from_str(hit.text()).unwrap(),
        serde_json::from_str(&utc).unwrap(),
    );
    assert_eq!(found, utc);
    let protobuf = get(&house, "laptop", &path, &[]).await;
    let found = re::ActionResult::decode(protobuf.body.unwrap()).unwrap();
    assert_eq!(found.output_files.len(), 2);
    assert_eq!(found.stdout_digest, Some(digest_of(b"stdout")));
    // An instance's action results are its own.
    check_bare(&get(&house, "laptop", ACTION, &[JSON]).await, 404);
}

#[tokio::test]
async fn json_is_asked_for_and_not_assumed() {
    let house = house();
    put_blobs(&house, "trunk", &[b"file"]).await;
    let message = result(b"file", b"").encode_to_vec();
    check_bare(&put(&house, "trunk", ACTION, &[], &message).await, 200);
    let hit = get(&house, "trunk", ACTION, &[JSON]).await;
    let digest = json!({"hash": sha256(b"file"), "sizeBytes": "4"});
    let expected = json!({
        "outputFiles": [{"path": "dist/out.txt", "digest": digest}],
        "stdoutDigest": {"hash": EMPTY},
    });
    assert_eq!(serde_json::from_str::<Value>(hit.text()).unwrap(), expected);
    for accept in ["*/*", "application/octet-stream"] {
        let hit = get(&house, "trunk", ACTION, &[("accept", accept)]).await;
        assert_eq!(hit.brief(), (200, &message[..]));
    }
}

/// moon 2.4.0 to 2.4.3: a manifest of their own, with the media type of JSON.
#[tokio::test]
async fn json_that_is_no_action_result_comes_back_byte_for_byte() {
    let house = house();
    let digest = json!({"hash": sha256(b"file"), "size": 4});
    let manifest = json!({
        "files": [{
            "digest": digest, "is_executable": false, "path": "dist/out.txt", "unix_mode": 33188,
            "modified_at": {"secs_since_epoch": 1_795_226_992, "nanos_since_epoch": 99_090_714},
        }],
        "symlinks": [], "exit_code": 0, "stderr_digest": digest, "stdout_digest": digest,
    });
    let body = format!(" {manifest}\n");
    check_bare(
        &put(&house, "trunk", ACTION, &[AS_JSON], body.as_bytes()).await,
        200,
    );
    for accept in [&[JSON][..], &[]] {
        let hit = get(&house, "laptop", ACTION, accept).await;
        assert_eq!(hit.brief(), (200, body.as_bytes()));
        assert_eq!(hit.header("content-type"), Some("application/json"));
        assert_eq!(hit.header("x-content-type-options"), Some("nosniff"));
    }
    // A later moon stores what it means.
    put_blobs(&house, "trunk", &[b"file"]).await;
    let newer = result_of_moon(b"file", b"file").to_string();
    check_bare(
        &put(&house, "trunk", ACTION, &[AS_JSON], newer.as_bytes()).await,
        200,
    );
    let hit = get(&house, "laptop", ACTION, &[JSON]).await;
    assert!(hit.text().contains("outputFiles"), "{hit:?}");
}

/// ccache with `layout=bazel` keeps its own results under `ac`.
#[tokio::test]
async fn arbitrary_bytes_come_back_byte_for_byte_and_are_replaced() {
    let house = house();
    let octets = ("content-type", "application/octet-stream");
    // No browser shows what anybody wrote as a page.
    let page = ("content-type", "text/html");
    for (seed, headers) in [(1, &[][..]), (2, &[octets]), (3, &[page])] {
        let body = [b"cC\x01\x00", &bytes(LARGE, seed)[..]].concat();
        check_bare(&put(&house, "trunk", ACTION, headers, &body).await, 200);
        let hit = get(&house, "laptop", ACTION, &[]).await;
        assert_eq!(hit.brief(), (200, &body[..]));
        assert_eq!(hit.header("content-type"), Some("application/octet-stream"));
        assert_eq!(hit.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn bytes_that_are_a_message_by_chance_come_back_as_well() {
    let house = house();
    // An exit code, standard output, nothing known, and a digest that is none.
    for body in [
        &b" 5"[..],
        b"*\x02hi",
        b"hello",
        b"2\x02\x0a\x00",
        b"\xff\xff",
    ] {
        check_bare(&put(&house, "trunk", ACTION, &[], body).await, 200);
        let hit = get(&house, "trunk", ACTION, &[JSON]).await;
        assert_eq!(hit.brief(), (200, body), "{body:?}");
    }
}

#[tokio::test]
async fn no_bytes_are_no_action_result() {
    let house = house();
    for headers in [&[][..], &[AS_JSON]] {
        let answer = put(&house, "trunk", ACTION, headers, b"").await;
        check_line(&answer, 400, "empty");
    }
    check_bare(&get(&house, "trunk", ACTION, &[]).await, 404);
}

#[tokio::test]
async fn an_action_result_is_complete_with_its_trees_and_directories() {
    let house = house();
    let node = |name: &str, body: &[u8]| re::FileNode {
        name: name.to_owned(),
        digest: Some(digest_of(body)),
        ..Default::default()
    };
    let below = re::Directory {
        files: vec![node("below", b"below")],
        ..Default::default()
    };
    let below_bytes = below.encode_to_vec();
    let root = re::Directory {
        files: vec![node("a", b"a"), node("empty", b"")],
        directories: vec![re::DirectoryNode {
            name: "sub".to_owned(),
            digest: Some(digest_of(&below_bytes)),
        }],
        ..Default::default()
    };
    let root_bytes = root.encode_to_vec();
    let tree = re::Tree {
        root: Some(root),
        children: vec![below],
    };
    let tree = tree.encode_to_vec();
    let of_tree = re::OutputDirectory {
        tree_digest: Some(digest_of(&tree)),
        ..Default::default()
    };
    let of_root = re::OutputDirectory {
        root_directory_digest: Some(digest_of(&root_bytes)),
        ..Default::default()
    };
    let of_both = re::OutputDirectory {
        tree_digest: of_tree.tree_digest.clone(),
        ..of_root.clone()
    };
    let blobs: [(_, &[&[u8]]); 3] = [
        (of_tree, &[&tree, b"a", b"below"]),
        (of_root, &[&root_bytes, &below_bytes, b"a", b"below"]),
        (of_both, &[&tree, &root_bytes, &below_bytes, b"a", b"below"]),
    ];
    for (directory, blobs) in blobs {
        let result = re::ActionResult {
            output_directories: vec![directory],
            ..Default::default()
        };
        let message = result.encode_to_vec();
        let instance = |missing: usize| format!("/{missing}{ACTION}");
        for missing in 0..=blobs.len() {
            // Each time in a workspace of its own, with one blob missing, and at last with none.
            let mut house = House::new();
            house.token("trunk", "acme", Access::Trusted);
            let path = instance(missing);
            check_bare(&put(&house, "trunk", &path, &[], &message).await, 200);
            for (at, blob) in blobs.iter().enumerate() {
                if at != missing {
                    put_blobs(&house, "trunk", &[blob]).await;
                }
            }
            let expected = if missing == blobs.len() { 200 } else { 404 };
            let found = get(&house, "trunk", &path, &[]).await;
            assert_eq!(found.status.as_u16(), expected, "without blob {missing}");
        }
    }
    // A tree that is none is a miss.
    let no_tree = b"\xff no tree";
    put_blobs(&house, "trunk", &[no_tree]).await;
    let result = re::ActionResult {
        output_directories: vec![re::OutputDirectory {
            tree_digest: Some(digest_of(no_tree)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = result.encode_to_vec();
    check_bare(&put(&house, "trunk", ACTION, &[], &message).await, 200);
    check_bare(&get(&house, "trunk", ACTION, &[]).await, 404);
}

async fn reads(house: &House, token: &str, path: &str, expected: Option<&[u8]>) {
    let answer = get(house, token, path, &[]).await;
    let expected = expected.map_or((404, &b""[..]), |body| (200, body));
    assert_eq!(answer.brief(), expected, "what {token} reads at {path}");
}

#[tokio::test]
async fn a_blob_that_rotted_is_a_miss_and_the_next_upload_heals_it() {
    let house = house();
    let body = b"a body that is long enough to be found in a file";
    let message = result(body, b"").encode_to_vec();
    put_blobs(&house, "trunk", &[body]).await;
    check_bare(&put(&house, "trunk", ACTION, &[], &message).await, 200);
    reads(&house, "trunk", ACTION, Some(&message)).await;
    house.rot("trusted", body);
    reads(&house, "trunk", &cas(body), None).await;
    reads(&house, "trunk", ACTION, None).await;
    put_blobs(&house, "trunk", &[body]).await;
    reads(&house, "trunk", &cas(body), Some(body)).await;
    reads(&house, "trunk", ACTION, Some(&message)).await;
}

#[test]
fn the_openapi_document_names_every_status_of_this_protocol_and_no_other() {
    let document: Value = serde_json::from_str(OPENAPI_JSON).unwrap();
    let puts = ["200", "400", "401", "403", "413", "415", "503", "507"];
    for path in ["/ac/{hash}", "/cas/{hash}"] {
        let statuses = |method: &str| -> Vec<String> {
            let responses = document["paths"][path][method]["responses"].as_object();
            responses.unwrap().keys().cloned().collect()
        };
        assert_eq!(statuses("get"), ["200", "401", "404"]);
        assert_eq!(statuses("head"), ["200", "401", "404"]);
        assert_eq!(statuses("put"), puts);
    }
}
