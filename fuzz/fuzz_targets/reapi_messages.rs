//! Any bytes as each message that comes from outside: in requests, in headers, and as blobs that are read as messages.

#![no_main]

use bytes::Bytes;
use larder_proto::{Message, bytestream, health, reapi, rpc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    check::<reapi::ActionResult>(&bytes);
    check::<reapi::Tree>(&bytes);
    check::<reapi::Directory>(&bytes);
    check::<reapi::RequestMetadata>(&bytes);
    check::<reapi::GetCapabilitiesRequest>(&bytes);
    check::<reapi::GetActionResultRequest>(&bytes);
    check::<reapi::UpdateActionResultRequest>(&bytes);
    check::<reapi::FindMissingBlobsRequest>(&bytes);
    check::<reapi::BatchUpdateBlobsRequest>(&bytes);
    check::<reapi::BatchReadBlobsRequest>(&bytes);
    check::<reapi::GetTreeRequest>(&bytes);
    check::<bytestream::ReadRequest>(&bytes);
    check::<bytestream::WriteRequest>(&bytes);
    check::<bytestream::QueryWriteStatusRequest>(&bytes);
    check::<health::HealthCheckRequest>(&bytes);
    check::<health::HealthListResponse>(&bytes);
    check::<rpc::Status>(&bytes);
});

/// What can be read is written as something that reads the same.
fn check<M: Message + Default + PartialEq>(bytes: &Bytes) {
    if let Ok(message) = M::decode(bytes.clone()) {
        let written = message.encode_to_vec();
        assert_eq!(written.len(), message.encoded_len());
        assert!(M::decode(&written[..]).as_ref() == Ok(&message));
    }
}
