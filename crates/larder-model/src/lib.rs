//! The nouns and the law of a build cache.
//!
//! Everything Larder keeps is an **entry**: immutable bytes under
//! `Workspace / Scope / Dialect / EntryKey`. This crate names those four, says who a caller is
//! ([`Principal`]), and decides what a caller may do ([`Policy`]). It is pure: no clock, no
//! files, no network, no protocol.
//!
//! Always true:
//! - A name from outside is a type from here before anything else sees it.
//! - A [`ReadGrant`], [`WriteGrant`] or [`AdminGrant`] can be made by [`Policy`] alone; whoever
//!   holds one has been allowed, and whoever does not cannot call the cache.
//! - The write scope of a grant is the credential's own. A request can only narrow it, and only
//!   below an untrusted scope (R1). Reads consult `trusted` first, then the own scope (R2).

#![forbid(unsafe_code)]

mod digest;
mod entry;
mod name;
mod policy;
mod principal;
mod scope;

pub use digest::{BlobHash, Digest, DigestError, DigestFunction};
pub use entry::{Dialect, EntryKey, EntryKeyError, WriterId};
pub use name::{NameError, ScopeLabel, WorkspaceName};
pub use policy::{AdminGrant, Policy, ReadGrant, Refusal, WriteGrant};
pub use principal::{Access, AccessKind, Caller, Principal};
pub use scope::{ReadPath, Scope, ScopeError, UntrustedScope};
