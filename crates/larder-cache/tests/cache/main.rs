//! The cache over real pools in temporary directories.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod action_results;
mod blob_calls;
mod blobs;
mod bounds;
mod cold;
mod control;
mod encodings;
mod entries;
mod pools;
mod presence;
mod quarantine;
mod site;
mod tier;
mod tier_outage;
