//! Names of objects, and the key that makes them and what is in them believable.
//!
//! | name | object |
//! |---|---|
//! | `v1/WORKSPACE/TRUST/packs/ID-TAG` | a pack |
//! | `v1/WORKSPACE/TRUST/bodies/ID-TAG` | a large body, its raw bytes |
//! | `v1/WORKSPACE/TRUST/first/HASH-TAG` | the pack of one entry whose first write wins |
//!
//! `ID` is 32 hex digits: 6 bytes of unix milliseconds, so that names sort by time, and 10 random ones. `HASH` is 64 hex
//! digits, a keyed hash of realm and key: every node makes the same name for a key, and nobody without the key does.
//! `TAG` is 8 hex digits, a keyed hash of all before it: whoever cleans up deletes nothing that carries another
//! deployment's tag or none. A tag says whose an object is, not that it is genuine: that is what MACs of indexes are for.

use std::fmt;
use std::fmt::Write as _;

use crate::realm::Realm;

/// What every object's name begins with.
pub(crate) const PREFIX: &str = "v1/";

const TAG_BYTES: usize = 4;

/// The secret that all nodes of a deployment share. It comes from their ledger and is never in the bucket.
#[derive(Clone)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// The key of these bytes, which should be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A keyed hash for one purpose; parts are told apart by their lengths.
    pub(crate) fn hash(&self, purpose: &'static str, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [purpose.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// The name of a pack.
    pub(crate) fn pack_name(&self, realm: &Realm, id: ObjectId) -> String {
        self.tagged(format!("{PREFIX}{realm}/packs/{id}"))
    }

    /// The name of a large body.
    pub(crate) fn body_name(&self, realm: &Realm, id: ObjectId) -> String {
        self.tagged(format!("{PREFIX}{realm}/bodies/{id}"))
    }

    /// The name under which the first write of a key wins.
    pub(crate) fn first_name(&self, realm: &Realm, key: &[u8]) -> String {
        let parts: [&[u8]; 3] = [
            realm.workspace().as_bytes(),
            realm.trust().as_str().as_bytes(),
            key,
        ];
        let hash = self.hash("larder bucket 1 first", &parts);
        self.tagged(format!("{PREFIX}{realm}/first/{hash}"))
    }

    /// Whether this deployment made the name.
    pub(crate) fn made(&self, name: &str) -> bool {
        let untagged = name.rsplit_once('-').map(|(untagged, _)| untagged);
        untagged.is_some_and(|untagged| self.tagged(untagged.to_owned()) == name)
    }

    fn tagged(&self, mut name: String) -> String {
        let tag = self.hash("larder bucket 1 name", &[name.as_bytes()]);
        name.push('-');
        for byte in &tag.as_bytes()[..TAG_BYTES] {
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

/// What tells objects of one kind apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId(pub(crate) [u8; ObjectId::BYTES]);

impl ObjectId {
    pub(crate) const BYTES: usize = 16;

    /// An id that no other object has.
    pub(crate) fn unique(now_ms: u64) -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        getrandom::fill(&mut bytes[6..]).expect("the system has random numbers");
        Self(bytes)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realm::Trust;

    #[test]
    fn names_are_told_from_another_deployments_and_from_altered_ones() {
        let (ours, other) = (MacKey::new([1; 32]), MacKey::new([2; 32]));
        let realm = Realm::new("acme", Trust::Trusted).unwrap();
        let id = ObjectId::unique(5);
        let names = [
            ours.pack_name(&realm, id),
            ours.body_name(&realm, id),
            ours.first_name(&realm, b"k"),
        ];
        for name in &names {
            assert!(ours.made(name), "{name}");
            assert!(!other.made(name), "{name}");
            assert!(!ours.made(&name.replace("/trusted/", "/untrusted/")));
        }
        assert!(!ours.made("v1/acme/trusted/packs/backup-2026.tar"));
        assert!(!ours.made("notes"));
    }

    #[test]
    fn ids_sort_by_time() {
        assert!(ObjectId::unique(255).to_string() < ObjectId::unique(256).to_string());
        assert_ne!(ObjectId::unique(9), ObjectId::unique(9));
    }
}
