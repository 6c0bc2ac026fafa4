//! The rules of CI systems: what jobs get, and what no claims whatever can get.
//!
//! Each file `SYSTEM/NAME.json` beside this one has the claims of one kind of job, as the CI system documents them.
//! `rules.rs` has the rules of one repository on each system; `outcomes.txt` is what the jobs get under them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod outcomes;
mod problems;
mod rules;
mod scopes;
mod trunk;
