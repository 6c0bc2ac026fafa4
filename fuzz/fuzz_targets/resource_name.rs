//! Any text as the name of a blob in `ByteStream` calls.

#![no_main]

use larder_protocols::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fuzzing::resource_name(text));
