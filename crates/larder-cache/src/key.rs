//! The storage key: what the store calls an entry.
//!
//! `[version u8 = 1][dialect u8][len u8][workspace][len u8][scope][entry key]`. The two lengths
//! make the encoding injective: no two entries share a storage key, whatever their names contain.
//! It can be read back, because purge and stats find entries by workspace, scope, dialect and key.
//!
//! The layout is part of the files on disk. A change gets a new version number, and keys of an
//! unknown version belong to nobody: they are never served and only a purge of everything sees them.

use larder_model::{
    BlobHash, Dialect, DigestFunction, EntryKey, Scope, UntrustedScope, WorkspaceName,
};

/// The layout's version, the first byte of every key.
const VERSION: u8 = 1;

/// An entry's name for the store. On the stack: one is made for every lookup.
pub struct StorageKey {
    bytes: [u8; Self::BYTES_MAX],
    len: usize,
}

impl StorageKey {
    /// The most bytes of a storage key.
    pub const BYTES_MAX: usize =
        4 + WorkspaceName::BYTES_MAX + UntrustedScope::BYTES_MAX + EntryKey::BYTES_MAX;

    /// The storage key of an entry.
    pub fn encode(
        workspace: &WorkspaceName,
        scope: &Scope,
        dialect: Dialect,
        key: &EntryKey,
    ) -> Self {
        let mut encoded = Self::before_key(workspace, scope, dialect);
        encoded.append(key.as_bytes());
        encoded
    }

    /// The storage key of a blob.
    pub(crate) fn of_blob(
        workspace: &WorkspaceName,
        scope: &Scope,
        function: DigestFunction,
        hash: BlobHash,
    ) -> Self {
        let mut encoded = Self::before_key(workspace, scope, Dialect::Cas(function));
        encoded.append(&hash.0);
        encoded
    }

    /// Everything that comes before the entry's own key.
    fn before_key(workspace: &WorkspaceName, scope: &Scope, dialect: Dialect) -> Self {
        let mut encoded = Self {
            bytes: [0; Self::BYTES_MAX],
            len: 0,
        };
        encoded.append(&[VERSION, dialect.code()]);
        for name in [workspace.as_str(), scope.as_str()] {
            encoded.append(&[name.len() as u8]);
            encoded.append(name.as_bytes());
        }
        encoded
    }

    /// The storage key of another blob of the same workspace, scope and function.
    pub(crate) fn set_blob(&mut self, hash: BlobHash) {
        self.len -= BlobHash::BYTES;
        self.append(&hash.0);
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn append(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

/// A storage key read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedKey<'a> {
    /// The workspace's name.
    pub workspace: &'a str,
    /// The scope's text, `trusted` or an untrusted path.
    pub scope: &'a str,
    /// Whose key space the key belongs to.
    pub dialect: Dialect,
    /// The tool's own key.
    pub key: &'a [u8],
}

impl<'a> DecodedKey<'a> {
    /// Reads a storage key back; `None` if these bytes are none of this version.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let [VERSION, code, rest @ ..] = bytes else {
            return None;
        };
        let dialect = Dialect::from_code(*code)?;
        let (workspace, rest) = split_name(rest)?;
        let (scope, key) = split_name(rest)?;
        if workspace.is_empty() || scope.is_empty() || key.is_empty() {
            return None;
        }
        Some(Self {
            workspace,
            scope,
            dialect,
            key,
        })
    }
}

fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

// Both name lengths fit their one length byte.
const _: () = assert!(WorkspaceName::BYTES_MAX <= 255 && UntrustedScope::BYTES_MAX <= 255);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Name = (WorkspaceName, Scope, Dialect, EntryKey);

    fn name() -> impl Strategy<Value = Name> {
        // Short names over a small alphabet, so that two of them often nearly collide.
        let label = || proptest::collection::vec(prop_oneof![Just('a'), Just('1')], 1..4);
        let label = move || label().prop_map(|chars| chars.into_iter().collect::<String>());
        let scope = prop_oneof![
            Just("trusted".to_owned()),
            proptest::collection::vec(label(), 1..=3).prop_map(|labels| labels.join("/")),
        ];
        let key = prop_oneof![
            proptest::collection::vec(prop_oneof![Just(b'a'), Just(1), Just(b'/')], 1..6),
            proptest::collection::vec(any::<u8>(), 1..=EntryKey::BYTES_MAX),
        ];
        (label(), scope, key).prop_map(|(workspace, scope, key)| {
            let workspace = workspace.parse().unwrap();
            (
                workspace,
                scope.parse().unwrap(),
                Dialect::Nx,
                EntryKey::new(&key).unwrap(),
            )
        })
    }

    fn encode((workspace, scope, dialect, key): &Name) -> Vec<u8> {
        StorageKey::encode(workspace, scope, *dialect, key)
            .as_bytes()
            .to_vec()
    }

    proptest! {
        #[test]
        fn two_names_share_a_storage_key_only_if_they_are_equal(a in name(), b in name()) {
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }

        #[test]
        fn a_storage_key_reads_back_as_the_name_it_was_made_of(name in name()) {
            let bytes = encode(&name);
            let decoded = DecodedKey::decode(&bytes).unwrap();
            let (workspace, scope, dialect, key) = &name;
            prop_assert_eq!(decoded.workspace, workspace.as_str());
            prop_assert_eq!(decoded.scope, scope.as_str());
            prop_assert_eq!(decoded.dialect, *dialect);
            prop_assert_eq!(decoded.key, key.as_bytes());
        }

        #[test]
        fn reading_back_arbitrary_bytes_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = DecodedKey::decode(&bytes);
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = |len| "a".repeat(len);
        let label = longest(larder_model::ScopeLabel::BYTES_MAX);
        let name = (
            longest(WorkspaceName::BYTES_MAX).parse().unwrap(),
            format!("{label}/{label}/{label}").parse().unwrap(),
            Dialect::Nx,
            EntryKey::new(&[0xff; EntryKey::BYTES_MAX]).unwrap(),
        );
        let bytes = encode(&name);
        assert_eq!(bytes.len(), StorageKey::BYTES_MAX);
        assert_eq!(DecodedKey::decode(&bytes).unwrap().key, name.3.as_bytes());
    }

    #[test]
    fn the_layout_on_disk_is_the_documented_one() {
        let key = StorageKey::encode(
            &"acme".parse().unwrap(),
            &Scope::Trusted,
            Dialect::Nx,
            &EntryKey::new(b"123").unwrap(),
        );
        assert_eq!(key.as_bytes(), b"\x01\x01\x04acme\x07trusted123");
    }
}
