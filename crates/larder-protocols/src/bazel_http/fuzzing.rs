//! What must hold of any bytes that this folder reads; the targets of the fuzzer call it.

use larder_proto::{Message, reapi as re};

use super::json::{read_action_result, write_action_result};
use super::shape::{ACTION_RESULT, fits};

/// JSON that is an action result is one in protobuf, and survives the way back; so does protobuf that has JSON.
pub fn action_result_json(bytes: &[u8]) {
    if let Some(message) = read_action_result(bytes) {
        assert!(fits(&ACTION_RESULT, &message));
        survives(&message);
    }
    if fits(&ACTION_RESULT, bytes) {
        survives(bytes);
    }
}

fn survives(message: &[u8]) {
    let mut result = re::ActionResult::decode(message).expect("what fits the table");
    let Some(json) = write_action_result(message) else {
        return;
    };
    let again = read_action_result(&json).expect("the JSON of an action result");
    let again = re::ActionResult::decode(&again[..]).expect("its protobuf");
    // What has no JSON is left out of it.
    if let Some(metadata) = &mut result.execution_metadata {
        metadata.auxiliary_metadata.clear();
    }
    assert!(again == result, "{}", String::from_utf8_lossy(&json));
}
