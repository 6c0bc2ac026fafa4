//! Any bytes as the tree of an output directory, cut anywhere.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| fuzzing::tree(&input.0, &input.1));
