//! What the ledger promises, each ledger in a file of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod changes;
mod files;
mod house;
mod migration;
mod packs;
mod retention;
mod sessions;
mod tokens;
mod writers;
