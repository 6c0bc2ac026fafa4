//! The store on local disk, as the bucket sees it: where bodies come from, and where what is fetched goes.

use bytes::Bytes;

use crate::realm::Realm;

/// An entry of the local store.
pub struct LocalEntry {
    /// What the protocol stored with it.
    pub metadata: Bytes,
    /// What the index knows of it.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When it was first written, on whatever node, unix milliseconds.
    pub written_at_ms: u64,
    /// The body's length.
    pub body_bytes: u64,
    /// The body, verified, in parts of at most a few MiB. An error ends it. Called where it may block.
    pub body: Box<dyn Iterator<Item = std::io::Result<Bytes>> + Send>,
}

/// An entry that came from the bucket, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedEntry {
    /// Its key.
    pub key: Bytes,
    /// What the protocol stored with it.
    pub metadata: Bytes,
    /// What the index knows of it.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When it was first written, unix milliseconds.
    pub written_at_ms: u64,
    /// Which of several entries of this key counts.
    pub rule: crate::Rule,
    /// The body.
    pub body: Bytes,
}

/// The local store. Every method is called where it may block, and from several threads.
pub trait Local: Send + Sync + 'static {
    /// The entry of a key; `None`: it is no longer there.
    fn read(&self, realm: &Realm, key: &[u8]) -> Option<LocalEntry>;

    /// Takes what was fetched together, neighbours included; what is there already or does not fit is passed over.
    fn install(&self, realm: &Realm, entries: Vec<FetchedEntry>);

    /// Another node's write of this key was first ([`crate::Rule::First`]). The local entry is to be dropped, so that the
    /// next reader gets the bucket's, which is known by now.
    fn lost(&self, realm: &Realm, key: &[u8]);
}
