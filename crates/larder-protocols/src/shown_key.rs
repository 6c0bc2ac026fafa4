//! An entry's key as people see it, in the audit, in commands and on pages.
//!
//! Nx's keys are text. The key of an action's result is bytes: its hash is shown as the hexadecimal digits that its tool prints, and
//! what else is in it, the digest function and the instance name, beside it.

use larder_model::{BlobHash, Dialect, EntryKey};

use crate::instance::function_of_code;

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownKey {
    /// What a tool prints: a task's hash, the hexadecimal digits of an action's or a blob's. Without control characters.
    pub text: String,
    /// The digest function of an action, in the words of the Remote Execution API.
    pub function: Option<&'static str>,
    /// The instance name under which an action's result is stored, if it is not empty. Without control characters.
    pub instance: Option<String>,
}

impl ShownKey {
    /// The key of an entry in `dialect`. Bytes that are no key of that dialect, which only another version can have stored, are
    /// shown as they are, escaped.
    pub fn of(dialect: Dialect, key: &EntryKey) -> Self {
        let bytes = key.as_bytes();
        let plain = |text| Self {
            text,
            function: None,
            instance: None,
        };
        match dialect {
            Dialect::Nx => plain(key.to_string()),
            Dialect::Cas(_) => match bytes.try_into() {
                Ok(hash) => plain(BlobHash(hash).to_string()),
                Err(_) => plain(key.to_string()),
            },
            Dialect::ActionResult | Dialect::OpaqueActionResult => {
                action(bytes).unwrap_or_else(|| plain(key.to_string()))
            }
        }
    }
}

/// `[hash 32 bytes][function u8][instance name]`, as `Instance::action_key` makes it.
fn action(bytes: &[u8]) -> Option<ShownKey> {
    let (hash, rest) = bytes.split_first_chunk::<{ BlobHash::BYTES }>()?;
    let (&code, instance) = rest.split_first()?;
    let instance = String::from_utf8_lossy(instance);
    Some(ShownKey {
        text: BlobHash(*hash).to_string(),
        function: Some(function_of_code(code)?.name()),
        instance: (!instance.is_empty()).then(|| instance.escape_debug().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Instance;
    use larder_model::DigestFunction;

    fn check(dialect: Dialect, key: &[u8], text: &str, rest: Option<(&'static str, Option<&str>)>) {
        let shown = ShownKey::of(dialect, &EntryKey::new(key).unwrap());
        let expected = ShownKey {
            text: text.to_owned(),
            function: rest.map(|(function, _)| function),
            instance: rest.and_then(|(_, instance)| instance.map(str::to_owned)),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_key_is_shown_as_its_tool_prints_it() {
        check(
            Dialect::Nx,
            b"17723469234776321346",
            "17723469234776321346",
            None,
        );
        let hash = "07".repeat(32);
        check(Dialect::Cas(DigestFunction::Sha256), &[7; 32], &hash, None);
        for (function, name) in [
            (DigestFunction::Sha256, "sha256"),
            (DigestFunction::Blake3, "blake3"),
        ] {
            for (text, instance) in [("", None), ("acme/web", Some("acme/web"))] {
                let place = Instance::parse(text.as_bytes()).unwrap();
                let key = place.action_key(function, BlobHash([7; 32]));
                for dialect in [Dialect::ActionResult, Dialect::OpaqueActionResult] {
                    check(dialect, key.as_bytes(), &hash, Some((name, instance)));
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_key_of_their_dialect_are_shown_escaped() {
        check(Dialect::Nx, b"a\x1b[2J\n", r"a\x1b[2J\n", None);
        check(Dialect::ActionResult, b"short\0", r"short\x00", None);
        let unknown = [&[b'a'; 32][..], b"\x77"].concat();
        check(
            Dialect::ActionResult,
            &unknown,
            &format!("{}w", "a".repeat(32)),
            None,
        );
        let mut hostile = [&[7; 32][..], b"\x01"].concat();
        hostile.extend_from_slice("x\u{1b}]0;\u{202e}\u{7}".as_bytes());
        let shown = ShownKey::of(Dialect::ActionResult, &EntryKey::new(&hostile).unwrap());
        let instance = shown.instance.unwrap();
        assert!(!instance.chars().any(char::is_control), "{instance:?}");
    }
}
