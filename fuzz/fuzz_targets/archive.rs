//! Any bytes as an archive of task outputs, cut anywhere.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| fuzzing::archive(&input.0, &input.1));
