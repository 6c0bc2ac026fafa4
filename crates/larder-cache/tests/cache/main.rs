//! The cache over real pools in temporary directories.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod cold;
mod control;
mod entries;
mod pools;
