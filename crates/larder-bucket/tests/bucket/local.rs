//! A local store in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use larder_bucket::{FetchedEntry, Local, LocalEntry, Realm};
use parking_lot::Mutex;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) metadata: Bytes,
    pub(crate) check: u16,
    pub(crate) writer: u64,
    pub(crate) written_at_ms: u64,
    pub(crate) body: Bytes,
}

#[derive(Default)]
pub(crate) struct MemoryLocal {
    pub(crate) entries: Mutex<HashMap<(Realm, Bytes), Entry>>,
    pub(crate) lost: Mutex<Vec<Bytes>>,
    pub(crate) installed: Mutex<Vec<Bytes>>,
    /// How often it has been read.
    pub(crate) reads: AtomicUsize,
}

impl MemoryLocal {
    pub(crate) fn put(&self, realm: &Realm, key: &[u8], entry: Entry) {
        let name = (realm.clone(), Bytes::copy_from_slice(key));
        self.entries.lock().insert(name, entry);
    }

    pub(crate) fn get(&self, realm: &Realm, key: &[u8]) -> Option<Entry> {
        let name = (realm.clone(), Bytes::copy_from_slice(key));
        self.entries.lock().get(&name).cloned()
    }

    pub(crate) fn remove(&self, realm: &Realm, key: &[u8]) {
        let name = (realm.clone(), Bytes::copy_from_slice(key));
        self.entries.lock().remove(&name);
    }
}

impl Local for MemoryLocal {
    fn read(&self, realm: &Realm, key: &[u8]) -> Option<LocalEntry> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let entry = self.get(realm, key)?;
        // In parts whose ends are nobody else's.
        let parts: Vec<_> = entry
            .body
            .chunks(700_001)
            .map(Bytes::copy_from_slice)
            .map(Ok)
            .collect();
        Some(LocalEntry {
            metadata: entry.metadata,
            check: entry.check,
            writer: entry.writer,
            written_at_ms: entry.written_at_ms,
            body_bytes: entry.body.len() as u64,
            body: Box::new(parts.into_iter()),
        })
    }

    fn install(&self, realm: &Realm, entries: Vec<FetchedEntry>) {
        for fetched in entries {
            self.installed.lock().push(fetched.key.clone());
            let entry = Entry {
                metadata: fetched.metadata,
                check: fetched.check,
                writer: fetched.writer,
                written_at_ms: fetched.written_at_ms,
                body: fetched.body,
            };
            self.put(realm, &fetched.key, entry);
        }
    }

    fn lost(&self, realm: &Realm, key: &[u8]) {
        self.lost.lock().push(Bytes::copy_from_slice(key));
        self.remove(realm, key);
    }
}
