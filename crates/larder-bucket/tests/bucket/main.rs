//! The bucket as its users see it: nodes that share a store and a catalogue.
//!
//! The store is `object_store`'s in memory or a folder, behind injected faults where a test wants them; the catalogue and the
//! local stores are small ones in memory. Time stands still unless everybody waits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "seeds and figures")]

mod catalogue;
mod crashes;
mod edicts;
mod entries;
mod expiry;
mod faults;
mod first;
mod forgery;
mod local;
mod nodes;
mod requests;
