//! Any bytes as a message of an upload, cut anywhere.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| fuzzing::write_request(&input.0, &input.1));
