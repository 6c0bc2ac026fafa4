//! Any bytes as an action result whose blobs are looked for.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| fuzzing::action_result(message));
