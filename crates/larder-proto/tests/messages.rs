//! What the rest of the program counts on when it uses the generated messages.

use bytes::Bytes;
use larder_proto::{Message as _, Name as _, bytestream, health, protobuf, reapi, rpc};

/// A digest as other programs write it.
const DIGEST: &[u8] = b"\x0a\x02ab\x10\x03";

#[test]
fn bytes_are_slices_of_what_was_received_and_no_copies() {
    let sent = bytestream::WriteRequest {
        resource_name: "uploads/1/blobs/ab/3".into(),
        data: Bytes::from_static(b"xyz"),
        ..Default::default()
    };
    let received = Bytes::from(sent.encode_to_vec());
    let request = bytestream::WriteRequest::decode(received.clone()).unwrap();
    assert_eq!(request, sent);
    let start = received.len() - 3;
    assert_eq!(request.data.as_ptr(), received[start..].as_ptr());
}

#[test]
fn messages_are_on_the_wire_what_the_specifications_say() {
    let digest = reapi::Digest {
        hash: "ab".into(),
        size_bytes: 3,
    };
    assert_eq!(digest.encode_to_vec(), DIGEST);
    let result = reapi::ActionResult {
        output_files: vec![reapi::OutputFile {
            path: "a".into(),
            digest: Some(digest.clone()),
            is_executable: true,
            ..Default::default()
        }],
        exit_code: -1,
        stdout_digest: Some(digest.clone()),
        execution_metadata: Some(reapi::ExecutedActionMetadata {
            queued_timestamp: Some(protobuf::Timestamp {
                seconds: 1,
                nanos: 2,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let expected = [
        b"\x12\x0d\x0a\x01a\x12\x06",
        DIGEST,
        b"\x20\x01",
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x32\x06",
        DIGEST,
        b"\x4a\x06\x12\x04\x08\x01\x10\x02",
    ];
    assert_eq!(result.encode_to_vec(), expected.concat());
    let tree = reapi::Tree {
        root: Some(reapi::Directory {
            node_properties: Some(reapi::NodeProperties {
                unix_mode: Some(0o755),
                ..Default::default()
            }),
            ..Default::default()
        }),
        children: vec![reapi::Directory::default()],
    };
    assert_eq!(
        tree.encode_to_vec(),
        b"\x0a\x07\x2a\x05\x1a\x03\x08\xed\x03\x12\x00"
    );
    // An enumeration that a later version has more values of is kept as the number.
    let capabilities = reapi::CacheCapabilities {
        digest_functions: vec![reapi::digest_function::Value::Blake3.into(), 77],
        ..Default::default()
    };
    assert_eq!(capabilities.encode_to_vec(), b"\x0a\x02\x09\x4d");
}

#[test]
fn a_status_can_hold_details_that_other_programs_can_name() {
    let detail = protobuf::Any::from_msg(&reapi::Digest::default()).unwrap();
    assert_eq!(
        detail.type_url,
        "type.googleapis.com/build.bazel.remote.execution.v2.Digest"
    );
    let status = rpc::Status {
        code: 9,
        message: "missing".into(),
        details: vec![detail],
    };
    let decoded = rpc::Status::decode(&status.encode_to_vec()[..]).unwrap();
    let digest: reapi::Digest = decoded.details[0].to_msg().unwrap();
    assert_eq!(digest, reapi::Digest::default());
}

#[test]
fn the_paths_of_methods_are_those_that_clients_ask_for() {
    let found = [
        reapi::action_cache::GET_ACTION_RESULT,
        reapi::action_cache::UPDATE_ACTION_RESULT,
        reapi::capabilities::GET_CAPABILITIES,
        reapi::content_addressable_storage::BATCH_READ_BLOBS,
        reapi::content_addressable_storage::BATCH_UPDATE_BLOBS,
        reapi::content_addressable_storage::FIND_MISSING_BLOBS,
        reapi::content_addressable_storage::GET_TREE,
        bytestream::byte_stream::QUERY_WRITE_STATUS,
        bytestream::byte_stream::READ,
        bytestream::byte_stream::WRITE,
        health::health::CHECK,
        health::health::LIST,
        health::health::WATCH,
    ];
    let expected = [
        "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
        "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
        "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
        "/google.bytestream.ByteStream/QueryWriteStatus",
        "/google.bytestream.ByteStream/Read",
        "/google.bytestream.ByteStream/Write",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        bytestream::byte_stream::NAME,
        "google.bytestream.ByteStream"
    );
    assert_eq!(
        reapi::RequestMetadata::full_name(),
        "build.bazel.remote.execution.v2.RequestMetadata"
    );
}
