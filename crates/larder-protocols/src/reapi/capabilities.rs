//! `Capabilities.GetCapabilities`: what this server does, and what it does for this caller.
//!
//! The one answer at which clients show what is wrong: moon and Bazel print the message of a refusal here and ignore most others.
//! So what no later call could make good is refused here already: a bad credential, one for administration, an instance
//! name that cannot be meant. To have no credential is in order; the caller is told that it may not write.

use larder_cache::Encoding;
use larder_model::{Caller, DigestFunction, Policy, Refusal};
use larder_proto::{Message, reapi, semver};

use super::call::{Call, Common};
use super::status::Refused;
use crate::caller::{NoCaller, default_workspace};

/// The most bytes of blobs in a batch. Clients count blobs and receive messages: what is left of 4 MiB, the default limit of
/// gRPC's libraries, is for what is around the blobs.
pub(super) const BATCH_BYTES_MAX: usize = (4 << 20) - (64 << 10);

/// Answers with `ServerCapabilities`.
pub(super) fn get(call: &Call<'_>, message: &[u8]) -> Result<Vec<u8>, Refused> {
    let instance = Common::read(message, u32::MAX, "GetCapabilitiesRequest")?.instance;
    let caller = match call.caller(&instance) {
        Ok(caller) => caller,
        // The build goes on without the cache: nothing is found and nothing stored.
        Err(NoCaller::Expired) => {
            let update_enabled = call.client.update_enabled(Refusal::ReadOnly);
            let bytes_max = call.gateway.cache.entry_bytes_max(&default_workspace());
            return Ok(capabilities(update_enabled, false, bytes_max).encode_to_vec());
        }
        Err(no_caller) => return Err(Refused::of_no_caller(no_caller)),
    };
    let label = instance.label.as_ref();
    let readable = Policy::read(&caller, label);
    let update_enabled = match Policy::write(&caller, label) {
        Ok(_) => true,
        Err(refusal @ (Refusal::Anonymous | Refusal::ReadOnly)) => {
            call.client.update_enabled(refusal)
        }
        Err(
            refusal @ (Refusal::ControlPlaneOnly
            | Refusal::NotAdmin
            | Refusal::LabelNeedsIsolated
            | Refusal::TooDeep),
        ) => return Err(Refused::Policy(refusal)),
    };
    match readable {
        Ok(_) | Err(Refusal::Anonymous) => {}
        Err(refusal) => return Err(Refused::Policy(refusal)),
    }
    let nobodys = default_workspace();
    let workspace = match &caller {
        Caller::Known(principal) => principal.workspace(),
        Caller::Anonymous { workspace, public } if *public => workspace,
        // A workspace that has a limit of its own exists, and that is nobody's business.
        Caller::Anonymous { .. } => &nobodys,
        Caller::LocalOperator => return Err(Refused::Policy(Refusal::ControlPlaneOnly)),
    };
    let blob_bytes_max = call.gateway.cache.entry_bytes_max(workspace);
    let trusted = caller.kind().writes_trusted();
    Ok(capabilities(update_enabled, trusted, blob_bytes_max).encode_to_vec())
}

fn capabilities(
    update_enabled: bool,
    trusted: bool,
    blob_bytes_max: u64,
) -> reapi::ServerCapabilities {
    // Whoever may store none is told before: newer versions of Bazel then name the output that is one.
    let absolute_symlinks = if trusted {
        reapi::symlink_absolute_path_strategy::Value::Allowed
    } else {
        reapi::symlink_absolute_path_strategy::Value::Disallowed
    };
    let zstd = vec![compressor(Encoding::Zstd)];
    let version = |minor| {
        Some(semver::SemVer {
            major: 2,
            minor,
            ..semver::SemVer::default()
        })
    };
    let any_priority = reapi::priority_capabilities::PriorityRange {
        min_priority: 0,
        max_priority: 0,
    };
    reapi::ServerCapabilities {
        cache_capabilities: Some(reapi::CacheCapabilities {
            digest_functions: DigestFunction::ALL.map(number).to_vec(),
            action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities {
                update_enabled,
            }),
            cache_priority_capabilities: Some(reapi::PriorityCapabilities {
                priorities: vec![any_priority],
            }),
            max_batch_total_size_bytes: i64::try_from(BATCH_BYTES_MAX).unwrap_or(i64::MAX),
            symlink_absolute_path_strategy: absolute_symlinks as i32,
            supported_compressors: zstd.clone(),
            supported_batch_update_compressors: zstd,
            max_cas_blob_size_bytes: i64::try_from(blob_bytes_max).unwrap_or(i64::MAX),
            ..reapi::CacheCapabilities::default()
        }),
        low_api_version: version(0),
        high_api_version: version(3),
        ..reapi::ServerCapabilities::default()
    }
}

fn number(function: DigestFunction) -> i32 {
    match function {
        DigestFunction::Sha256 => reapi::digest_function::Value::Sha256 as i32,
        DigestFunction::Blake3 => reapi::digest_function::Value::Blake3 as i32,
    }
}

fn compressor(encoding: Encoding) -> i32 {
    match encoding {
        Encoding::Identity => reapi::compressor::Value::Identity as i32,
        Encoding::Zstd => reapi::compressor::Value::Zstd as i32,
    }
}
