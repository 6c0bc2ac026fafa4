//! Any bytes as an object of a bucket, and as an index whose MAC fits.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    larder_bucket::read_anything(bytes);
});
