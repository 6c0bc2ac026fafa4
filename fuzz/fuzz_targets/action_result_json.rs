//! Any bytes as an action result, in JSON and in protobuf.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::action_result_json(bytes));
