//! JSON as moon writes it, JSON as it may be, and that every action result survives both ways.

#![expect(
    clippy::unnecessary_wraps,
    reason = "the fields of messages are options"
)]

use larder_proto::protobuf::{Duration, Timestamp};
use larder_proto::{Message as _, reapi as re};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::bazel_http::shape::fits;
use crate::reapi::action_result::check;
use larder_model::DigestFunction;

fn read(json: &serde_json::Value) -> Option<re::ActionResult> {
    let message = read_action_result(json.to_string().as_bytes())?;
    assert!(fits(&ACTION_RESULT, &message), "{json}");
    Some(re::ActionResult::decode(&message[..]).expect("protobuf"))
}

fn hash(digit: &str) -> String {
    digit.repeat(64)
}

fn digest(digit: &str, size_bytes: i64) -> Option<re::Digest> {
    let hash = hash(digit);
    Some(re::Digest { hash, size_bytes })
}

fn time(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

/// What moon 1.41.7, 2.3.4 and 2.5.5 send: an empty file's digest without a size, numbers as texts, offsets with digits.
fn of_moon() -> serde_json::Value {
    let properties = json!({"mtime": "2026-11-21T02:09:57.257788457+00:00", "unixMode": 33188});
    json!({
        "outputFiles": [
            {"path": "app/dist/empty.txt", "digest": {"hash": hash("e")}, "nodeProperties": properties},
            {
                "path": "app/dist/out.txt",
                "digest": {"hash": hash("1"), "sizeBytes": "10"},
                "isExecutable": true,
                "nodeProperties": properties,
            },
        ],
        "stdoutDigest": {"hash": hash("2"), "sizeBytes": "16"},
        "stderrDigest": {"hash": hash("3"), "sizeBytes": "15"},
        "executionMetadata": {
            "worker": "moon",
            "executionStartTimestamp": "2026-11-21T02:09:35.752931955+00:00",
            "outputUploadCompletedTimestamp": "2026-11-21T02:09:35.83+00:00",
        },
    })
}

fn of_moon_in_protobuf() -> re::ActionResult {
    let node_properties = Some(re::NodeProperties {
        mtime: time(1_795_226_997, 257_788_457),
        unix_mode: Some(33188),
        ..Default::default()
    });
    let file = |path: &str, digest| re::OutputFile {
        path: path.to_owned(),
        digest,
        node_properties: node_properties.clone(),
        ..Default::default()
    };
    let executable = re::OutputFile {
        is_executable: true,
        ..file("app/dist/out.txt", digest("1", 10))
    };
    re::ActionResult {
        output_files: vec![file("app/dist/empty.txt", digest("e", 0)), executable],
        stdout_digest: digest("2", 16),
        stderr_digest: digest("3", 15),
        execution_metadata: Some(re::ExecutedActionMetadata {
            worker: "moon".to_owned(),
            execution_start_timestamp: time(1_795_226_975, 752_931_955),
            output_upload_completed_timestamp: time(1_795_226_975, 830_000_000),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn what_moon_sends_becomes_the_action_result_it_means() {
    assert_eq!(read(&of_moon()), Some(of_moon_in_protobuf()));
}

#[test]
fn what_is_written_is_the_canonical_form() {
    let written = write_action_result(&of_moon_in_protobuf().encode_to_vec()).unwrap();
    let written = String::from_utf8(written).unwrap();
    let expected = of_moon()
        .to_string()
        .replace("+00:00", "Z")
        .replace(".83Z", ".830Z");
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let found: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(found, expected);
    assert!(written.starts_with("{\"outputFiles\":["), "{written}");
}

#[test]
fn every_spelling_that_protobuf_allows_is_read_alike() {
    let expected = read(&json!({
        "outputFiles": [{"path": "a", "digest": {"hash": hash("1"), "sizeBytes": "10"}, "contents": "+/8="}],
        "exitCode": -1,
        "executionMetadata": {"virtualExecutionDuration": "1.5s"},
    }));
    assert!(expected.is_some());
    let other = read(&json!({
        "output_files": [{"path": "a", "digest": {"hash": hash("1"), "size_bytes": 10}, "contents": "-_8"}],
        "exit_code": "-1",
        "output_symlinks": null,
        "stdoutDigest": null,
        "stdoutRaw": "",
        "execution_metadata": {"virtual_execution_duration": "1.500000s", "worker": null},
    }));
    assert_eq!(other, expected);
    // Absent, and present with nothing in it, are two things for a message.
    let present = read(&json!({"executionMetadata": {"queuedTimestamp": "1970-01-01T00:00:00Z"}}));
    let queued = present
        .unwrap()
        .execution_metadata
        .unwrap()
        .queued_timestamp;
    assert_eq!(queued, time(0, 0));
}

#[test]
fn what_is_no_action_result_is_none() {
    let digest = json!({"hash": hash("1"), "size": 12});
    let moon_2_4_3 = json!({
        "files": [{
            "digest": digest, "is_executable": false, "path": "app/dist/out.txt", "unix_mode": 33188,
            "modified_at": {"secs_since_epoch": 1_795_226_992, "nanos_since_epoch": 99_090_714},
        }],
        "symlinks": [], "exit_code": 0, "stderr_digest": digest, "stdout_digest": digest,
        "upload_started_at": {"secs_since_epoch": 1_795_226_992, "nanos_since_epoch": 467_919_099},
    });
    for json in [
        moon_2_4_3,
        json!([]),
        json!(null),
        json!({"exitCode": 0, "unknown": null}),
        json!({"exitCode": 2_147_483_648_i64}),
        json!({"exitCode": 1.5}),
        json!({"exitCode": true}),
        json!({"exitCode": [1]}),
        json!({"exitCode": 1, "exit_code": 1}),
        json!({"outputFiles": {}}),
        json!({"outputFiles": [null]}),
        json!({"outputFiles": [[]]}),
        json!({"outputFiles": [{"path": 1}]}),
        json!({"outputFiles": [{"isExecutable": 1}]}),
        json!({"outputFiles": [{"nodeProperties": {"unixMode": -1}}]}),
        json!({"outputFiles": [{"nodeProperties": {"mtime": "yesterday"}}]}),
        json!({"outputFiles": [{"nodeProperties": {"mtime": {"seconds": 1}}}]}),
        json!({"stdoutRaw": "="}),
        json!({"stdoutRaw": "+-"}),
        json!({"stdoutDigest": {"sizeBytes": "9223372036854775808"}}),
        json!({"stdoutDigest": {"sizeBytes": u64::MAX}}),
        json!({"stdoutDigest": []}),
        json!({"executionMetadata": {"auxiliaryMetadata": [{"@type": "x"}]}}),
    ] {
        assert_eq!(read(&json), None, "{json}");
    }
    for text in [
        &b""[..],
        b"{",
        b"{}x",
        b"{\"exitCode\":1,}",
        b"{\"exitCode\":1,\"exitCode\":1}",
        b"\xff",
    ] {
        assert_eq!(read_action_result(text), None, "{text:?}");
    }
    let deep = "{\"executionMetadata\":".repeat(100_000);
    assert_eq!(read_action_result(deep.as_bytes()), None);
}

#[test]
fn bytes_that_are_no_action_result_have_no_json() {
    for message in [
        &b"\xff"[..],
        b"\x10\x01",
        b"\x22\x01x",
        b"\x12\x03\x0a\x01\xff",
        b"\x4a\x04\x12\x02\x10\x01\x00",
        b"\x4a\x0a\x12\x08\x10\x80\x94\xeb\xdc\x03\x08\x00",
    ] {
        assert_eq!(write_action_result(message), None, "{message:?}");
    }
}

#[test]
fn a_message_that_comes_in_parts_is_merged_as_protobuf_does() {
    let whole = re::ActionResult {
        stdout_digest: digest("2", 16),
        exit_code: 3,
        ..Default::default()
    };
    let hash = re::ActionResult {
        stdout_digest: digest("2", 1),
        exit_code: 7,
        ..Default::default()
    };
    let size = re::ActionResult {
        stdout_digest: Some(re::Digest {
            size_bytes: 16,
            ..Default::default()
        }),
        exit_code: 3,
        ..Default::default()
    };
    let parts = [hash.encode_to_vec(), size.encode_to_vec()].concat();
    assert_eq!(re::ActionResult::decode(&parts[..]).unwrap(), whole);
    let written = write_action_result(&parts);
    assert_eq!(written, write_action_result(&whole.encode_to_vec()));
}

fn some_digest() -> impl Strategy<Value = Option<re::Digest>> {
    let digest = ("[0-9a-f]{64}", 1..i64::MAX);
    proptest::option::of(digest.prop_map(|(hash, size_bytes)| re::Digest { hash, size_bytes }))
}

fn some_time() -> impl Strategy<Value = Option<Timestamp>> {
    let time = (-62_135_596_800..=253_402_300_799_i64, 0..1_000_000_000);
    let time = time.prop_map(|(seconds, nanos)| Timestamp { seconds, nanos });
    proptest::option::of(time)
}

fn some_properties() -> impl Strategy<Value = Option<re::NodeProperties>> {
    let property = ("\\PC{0,5}", "\\PC{0,5}");
    let property = property.prop_map(|(name, value)| re::NodeProperty { name, value });
    let properties = proptest::collection::vec(property, 0..3);
    let all = (properties, some_time(), any::<Option<u32>>());
    proptest::option::of(
        all.prop_map(|(properties, mtime, unix_mode)| re::NodeProperties {
            properties,
            mtime,
            unix_mode,
        }),
    )
}

fn some_symlinks() -> impl Strategy<Value = Vec<re::OutputSymlink>> {
    let link = ("\\PC{0,9}", "\\PC{0,9}", some_properties());
    let link = link.prop_map(|(path, target, node_properties)| re::OutputSymlink {
        path,
        target,
        node_properties,
    });
    proptest::collection::vec(link, 0..3)
}

fn some_bytes() -> impl Strategy<Value = bytes::Bytes> {
    proptest::collection::vec(any::<u8>(), 0..9).prop_map(Into::into)
}

fn some_result() -> impl Strategy<Value = re::ActionResult> {
    let file = (
        "\\PC{0,9}",
        some_digest(),
        any::<bool>(),
        some_bytes(),
        some_properties(),
    );
    let file =
        file.prop_map(
            |(path, digest, is_executable, contents, node_properties)| re::OutputFile {
                path,
                digest,
                is_executable,
                contents,
                node_properties,
            },
        );
    let directory = ("\\PC{0,9}", some_digest(), any::<bool>(), some_digest()).prop_map(
        |(path, tree_digest, is_topologically_sorted, root_directory_digest)| re::OutputDirectory {
            path,
            tree_digest,
            is_topologically_sorted,
            root_directory_digest,
        },
    );
    let span = (0..315_576_000_000_i64, 0..1_000_000_000, any::<bool>());
    let span = span.prop_map(|(seconds, nanos, past)| {
        let sign = if past { -1 } else { 1 };
        Duration {
            seconds: seconds * sign,
            nanos: nanos * sign as i32,
        }
    });
    let metadata = (
        "\\PC{0,9}",
        some_time(),
        some_time(),
        proptest::option::of(span),
    )
        .prop_map(
            |(
                worker,
                queued_timestamp,
                output_upload_start_timestamp,
                virtual_execution_duration,
            )| {
                re::ExecutedActionMetadata {
                    worker,
                    queued_timestamp,
                    output_upload_start_timestamp,
                    virtual_execution_duration,
                    ..Default::default()
                }
            },
        );
    (
        proptest::collection::vec(file, 0..3),
        proptest::collection::vec(directory, 0..3),
        (some_symlinks(), some_symlinks()),
        any::<i32>(),
        (some_bytes(), some_bytes()),
        (some_digest(), some_digest()),
        proptest::option::of(metadata),
    )
        .prop_map(
            |(files, directories, links, exit_code, raw, digests, metadata)| re::ActionResult {
                output_files: files,
                output_directories: directories,
                output_symlinks: links.0,
                output_file_symlinks: links.1,
                output_directory_symlinks: Vec::new(),
                exit_code,
                stdout_raw: raw.0,
                stderr_raw: raw.1,
                stdout_digest: digests.0,
                stderr_digest: digests.1,
                execution_metadata: metadata,
            },
        )
}

proptest! {
    #[test]
    fn every_action_result_survives_json_and_back(result in some_result()) {
        let message = result.encode_to_vec();
        prop_assert!(fits(&ACTION_RESULT, &message));
        let json = write_action_result(&message).expect("an action result");
        let again = read_action_result(&json).expect("its JSON");
        let again = re::ActionResult::decode(&again[..]).expect("protobuf");
        prop_assert_eq!(again, result);
    }

    #[test]
    fn what_fits_the_table_is_what_the_generated_code_decodes(
        result in some_result(), at in any::<usize>(), to in any::<u8>(),
    ) {
        let mut message = result.encode_to_vec();
        if !message.is_empty() {
            let at = at % message.len();
            message[at] = to;
        }
        if fits(&ACTION_RESULT, &message) {
            prop_assert!(re::ActionResult::decode(&message[..]).is_ok());
        }
        let _ = (write_action_result(&message), check(DigestFunction::Sha256, &message));
    }

    #[test]
    fn no_text_panics(text in "[{}\\[\\]:,\"a-zA-Z0-9]{0,60}") {
        let _ = read_action_result(text.as_bytes());
    }
}
