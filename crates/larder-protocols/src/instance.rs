//! Instance names of the Remote Execution API, and what Larder reads from them.
//!
//! `[w/WORKSPACE][/NAME][/scope/LABEL]`, in a gRPC message as well as in front of an HTTP path. The workspace is for callers
//! without a credential and must agree with a credential's; the name is any text, may have slashes and may be empty; the
//! label narrows an isolated credential's scope. The name partitions action results inside a workspace; blobs, which prove
//! what they are, are shared by all names.
//!
//! Always true:
//! - Empty segments do not count, so that `/a//b/` is `a/b`: moon sends `/blobs/…` for an empty name.
//! - `w` in front and `scope` anywhere are reserved. Where what follows is no workspace or no label, the whole text is refused
//!   and never taken for a name: whoever wrote it believes to be in a place of their own.

use larder_model::{BlobHash, DigestFunction, EntryKey, NameError, ScopeLabel, WorkspaceName};

/// The most bytes of a name.
const NAME_BYTES_MAX: usize = 256;

/// An instance name, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub workspace: Option<WorkspaceName>,
    pub label: Option<ScopeLabel>,
    name: Vec<u8>,
}

/// Why a text is no instance name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("an instance name has at most {NAME_BYTES_MAX} bytes")]
    TooLong,
    #[error("an instance name has no control characters")]
    Control,
    #[error("after \"w/\" an instance name has a workspace: {0}")]
    Workspace(NameError),
    #[error("after \"scope/\" an instance name has one label, and nothing behind it")]
    Scope,
    #[error("after \"scope/\" an instance name has a label: {0}")]
    Label(NameError),
}

impl Instance {
    /// Reads an instance name, percent-decoded if it comes from a path.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, InstanceError> {
        if text.iter().any(u8::is_ascii_control) {
            return Err(InstanceError::Control);
        }
        let mut segments = text
            .split(|byte| *byte == b'/')
            .filter(|segment| !segment.is_empty())
            .peekable();
        let (mut workspace, mut label) = (None, None);
        let mut name: Vec<u8> = Vec::with_capacity(text.len().min(NAME_BYTES_MAX));
        if segments.peek() == Some(&&b"w"[..]) {
            segments.next();
            match segments.next() {
                Some(segment) => {
                    let read = read_name(segment).map_err(InstanceError::Workspace)?;
                    workspace = Some(read);
                }
                None => name.extend_from_slice(b"w"),
            }
        }
        while let Some(segment) = segments.next() {
            if segment == b"scope" {
                let text = segments.next().ok_or(InstanceError::Scope)?;
                if segments.next().is_some() {
                    return Err(InstanceError::Scope);
                }
                label = Some(read_name(text).map_err(InstanceError::Label)?);
                break;
            }
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(segment);
            if name.len() > NAME_BYTES_MAX {
                return Err(InstanceError::TooLong);
            }
        }
        Ok(Self {
            workspace,
            label,
            name,
        })
    }

    /// The key of an action's result here. Its size is no part of it: the hash names the action.
    ///
    /// `[hash 32 bytes][function u8][instance name]`. The layout is part of the files on disk.
    pub(crate) fn action_key(&self, function: DigestFunction, hash: BlobHash) -> EntryKey {
        let mut key = Vec::with_capacity(BlobHash::BYTES + 1 + self.name.len());
        key.extend_from_slice(&hash.0);
        key.push(function_code(function));
        key.extend_from_slice(&self.name);
        EntryKey::new(&key).expect("a name's limit is below a key's")
    }
}

/// The function's number in the Remote Execution API.
fn function_code(function: DigestFunction) -> u8 {
    match function {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 9,
    }
}

/// The function with this number, if its results are kept here.
pub(crate) fn function_of_code(code: u8) -> Option<DigestFunction> {
    DigestFunction::ALL
        .into_iter()
        .find(|function| function_code(*function) == code)
}

fn read_name<T: std::str::FromStr<Err = NameError>>(segment: &[u8]) -> Result<T, NameError> {
    // What is not UTF-8 cannot be in a name either; the replacement is refused as a character.
    String::from_utf8_lossy(segment).parse()
}

const _: () = assert!(BlobHash::BYTES + 1 + NAME_BYTES_MAX <= EntryKey::BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, workspace: Option<&str>, name: &str, label: Option<&str>) {
        let expected = Instance {
            workspace: workspace.map(|name| name.parse().unwrap()),
            label: label.map(|label| label.parse().unwrap()),
            name: name.as_bytes().to_vec(),
        };
        assert_eq!(Instance::parse(text.as_bytes()), Ok(expected), "{text}");
    }

    #[test]
    fn a_name_is_any_text_and_spare_slashes_do_not_count() {
        check("", None, "", None);
        check("/", None, "", None);
        check("moon-outputs", None, "moon-outputs", None);
        check("/acme//web/", None, "acme/web", None);
        check("Größe 1/../x", None, "Größe 1/../x", None);
        check("w", None, "w", None);
        check("a/w/b", None, "a/w/b", None);
        check("scopes/ws", None, "scopes/ws", None);
        check(&"n".repeat(256), None, &"n".repeat(256), None);
    }

    #[test]
    fn a_workspace_stands_in_front_and_a_label_behind() {
        check("w/acme", Some("acme"), "", None);
        check("/w/acme/", Some("acme"), "", None);
        check("w/acme/a/b", Some("acme"), "a/b", None);
        check("w/w/w", Some("w"), "w", None);
        check("scope/linux", None, "", Some("linux"));
        check("a/b/scope/Linux", None, "a/b", Some("Linux"));
        check("w/acme/a/scope/pr-7", Some("acme"), "a", Some("pr-7"));
    }

    fn refused(text: &[u8], expected: InstanceError) {
        let text_shown = String::from_utf8_lossy(text);
        assert_eq!(Instance::parse(text), Err(expected), "{text_shown}");
    }

    #[test]
    fn what_looks_like_a_place_and_is_none_is_refused() {
        for text in [
            "scope",
            "a/scope",
            "a/scope/",
            "scope/a/b",
            "scope/a/scope/b",
        ] {
            refused(text.as_bytes(), InstanceError::Scope);
        }
        for text in [&b"scope/.."[..], b"scope/\xff", b"a/scope/%41"] {
            assert!(matches!(
                Instance::parse(text),
                Err(InstanceError::Label(NameError::Character { .. }))
            ));
        }
        for text in [&b"w/ACME"[..], b"w/../a", b"w/\xff"] {
            assert!(matches!(
                Instance::parse(text),
                Err(InstanceError::Workspace(NameError::Character { .. }))
            ));
        }
        refused(b"a\nb", InstanceError::Control);
        refused(b"a\x7f", InstanceError::Control);
        refused("n".repeat(257).as_bytes(), InstanceError::TooLong);
    }

    #[test]
    fn the_key_of_an_action_is_the_documented_one() {
        let key = |text: &[u8], function| {
            let instance = Instance::parse(text).unwrap();
            let key = instance.action_key(function, BlobHash([7; 32]));
            key.as_bytes().to_vec()
        };
        let sha256 = [&[7; 32][..], b"\x01acme/web"].concat();
        assert_eq!(key(b"/acme/web/", DigestFunction::Sha256), sha256);
        let blake3 = [&[7; 32][..], b"\x09"].concat();
        assert_eq!(key(b"w/acme/scope/x", DigestFunction::Blake3), blake3);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_name_that_is_read_reads_back(
            text in proptest::collection::vec(prop_oneof![
                Just(b"w/".to_vec()), Just(b"scope/".to_vec()), Just(b"/".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..9),
            ], 0..8),
        ) {
            let text = text.concat();
            if let Ok(instance) = Instance::parse(&text)
                && !instance.name.starts_with(b"w/")
            {
                let again = Instance::parse(&instance.name).unwrap();
                prop_assert_eq!(again.name, instance.name);
            }
        }
    }
}
