//! The names of a rule's untrusted scopes.
//!
//! A scope's name has two readers: people, who want to see the branch, and the store, for which two
//! things must never have one name. What is short and plain is in the name as it is (`pr-123`,
//! `run-4711`). Everything else is there as a few letters for people and a hash of the exact text.
//!
//! The hash has 96 bits: whoever opens pull requests chooses the names of branches, so a hash that
//! can be found by trying would let one branch write to another's scope.
//!
//! Always true: names of different kinds, texts or narrowings differ, as long as SHA-256 cut to 96 bits has no known
//! second text; and each is one label, so that a client's own label fits below.

use std::fmt::Write;

use aws_lc_rs::digest;
use larder_model::UntrustedScope;

use super::rule::RuleName;

/// The longest text that goes into a name as it is: a UUID. Longer ones are hashed.
const PLAIN_BYTES_MAX: usize = 36;
/// The letters of a text that people see in front of its hash.
const SLUG_BYTES_MAX: usize = 16;
/// The characters of a commit or run that people see in front of the hash.
const NARROWING_BYTES_MAX: usize = 12;
/// 96 bits.
const HASH_BYTES: usize = 12;

/// What a scope belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    PullRequest,
    MergeRequest,
    MergeQueue,
    Branch,
    Tag,
    Run,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::PullRequest => "pr",
            Self::MergeRequest => "mr",
            Self::MergeQueue => "mq",
            Self::Branch => "branch",
            Self::Tag => "tag",
            Self::Run => "run",
        }
    }

    /// Whether the text is an id that the CI system gave, not a name that somebody chose.
    fn is_numbered(self) -> bool {
        match self {
            Self::PullRequest | Self::MergeQueue | Self::Run => true,
            Self::MergeRequest | Self::Branch | Self::Tag => false,
        }
    }
}

/// The part of a scope that outlives neither its commit nor its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrowing<'a> {
    None,
    Commit(&'a str),
    Run(&'a str),
}

/// The scope of `text`, the exact id or name of something of this kind, below the rule's own label.
pub(crate) fn scope(
    rule: &RuleName,
    kind: Kind,
    text: &str,
    narrowing: Narrowing<'_>,
) -> UntrustedScope {
    let word = kind.word();
    let (letter, narrow) = match narrowing {
        Narrowing::None if kind.is_numbered() && is_plain(text) => {
            return parse(rule, &format!("{word}-{text}"));
        }
        Narrowing::None => ("", ""),
        Narrowing::Commit(commit) => (".c", commit),
        Narrowing::Run(run) => (".r", run),
    };
    let shown = slug(last_part(text), SLUG_BYTES_MAX);
    let narrowed = slug(narrow, NARROWING_BYTES_MAX);
    let hash = hash(&[word, text, letter, narrow]);
    parse(rule, &format!("{word}-{shown}{letter}{narrowed}-{hash}"))
}

fn parse(rule: &RuleName, label: &str) -> UntrustedScope {
    format!("ci.{rule}/{label}")
        .parse()
        .expect("a rule's name and a label made of a-z, 0-9, '-' and '.' are a scope")
}

/// Whether the text can be in a name as it is, and cannot be taken for a hash.
fn is_plain(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let last = text.rsplit('-').next().unwrap_or(text);
    (1..=PLAIN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(good)
        && last.len() != 2 * HASH_BYTES
}

/// A ref without its first two segments.
fn last_part(text: &str) -> &str {
    text.strip_prefix("refs/heads/")
        .or_else(|| text.strip_prefix("refs/tags/"))
        .unwrap_or(text)
}

/// What of a text is letters and digits, for people: never the whole name.
fn slug(text: &str, bytes_max: usize) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if slug.len() == bytes_max {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

fn hash(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let mut text = String::with_capacity(2 * HASH_BYTES);
    for byte in &digest.as_ref()[..HASH_BYTES] {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::ScopeLabel;
    use proptest::prelude::*;

    const KINDS: [Kind; 6] = [
        Kind::PullRequest,
        Kind::MergeRequest,
        Kind::MergeQueue,
        Kind::Branch,
        Kind::Tag,
        Kind::Run,
    ];

    fn check(kind: Kind, text: &str, narrowing: Narrowing<'_>, expected: &str) {
        let rule = "web".parse().unwrap();
        assert_eq!(scope(&rule, kind, text, narrowing).as_str(), expected);
    }

    /// Entries are kept under these names: they must not change.
    #[test]
    fn the_names_of_scopes_do_not_change() {
        let commit = Narrowing::Commit("0123456789abcdef0123456789abcdef01234567");
        check(Kind::PullRequest, "123", Narrowing::None, "ci.web/pr-123");
        check(Kind::MergeQueue, "91", Narrowing::None, "ci.web/mq-91");
        let uuid = "0184990a-477b-4fa8-9968-496074483cee";
        check(
            Kind::Run,
            uuid,
            Narrowing::None,
            &format!("ci.web/run-{uuid}"),
        );
        for (kind, text, narrowing, expected) in [
            (
                Kind::Branch,
                "refs/heads/main",
                Narrowing::None,
                "ci.web/branch-main-",
            ),
            (
                Kind::Branch,
                "refs/heads/Größe/../x",
                Narrowing::None,
                "ci.web/branch-gr-e-x-",
            ),
            (
                Kind::Branch,
                "refs/heads/ünü",
                Narrowing::None,
                "ci.web/branch-n-",
            ),
            (
                Kind::Branch,
                "refs/heads/---",
                Narrowing::None,
                "ci.web/branch--",
            ),
            (
                Kind::Branch,
                "refs/heads/a-very-long-name-of-a-branch",
                Narrowing::None,
                "ci.web/branch-a-very-long-name-",
            ),
            (
                Kind::Tag,
                "refs/tags/v1.2",
                Narrowing::None,
                "ci.web/tag-v1-2-",
            ),
            (
                Kind::PullRequest,
                "123",
                commit,
                "ci.web/pr-123.c0123456789ab-",
            ),
            (
                Kind::PullRequest,
                "123",
                Narrowing::Run("4711"),
                "ci.web/pr-123.r4711-",
            ),
            (Kind::Run, "A", Narrowing::None, "ci.web/run-a-"),
            (
                Kind::Run,
                "0123456789abcdef01234567",
                Narrowing::None,
                "ci.web/run-0123456789abcdef-",
            ),
        ] {
            let name = scope(&"web".parse().unwrap(), kind, text, narrowing);
            let hash = name
                .as_str()
                .strip_prefix(expected)
                .unwrap_or_else(|| panic!("{name}"));
            assert_eq!(hash.len(), 24, "{name}");
            assert!(
                hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{name}"
            );
        }
        check(
            Kind::Branch,
            "refs/heads/main",
            Narrowing::None,
            "ci.web/branch-main-510215d1750400b58888df75",
        );
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(KINDS.to_vec())
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9/-]{0,6}",
            "refs/heads/[a-zA-Z0-9/._-]{1,40}",
            "[0-9a-f]{24}",
            "[a-z]-[0-9a-f]{24}",
            any::<String>(),
        ]
    }

    /// A name is told from every other by kind, text and narrowing.
    #[derive(Debug, Clone, PartialEq)]
    struct Thing(Kind, String, Option<(bool, String)>);

    fn thing() -> impl Strategy<Value = Thing> {
        (kind(), text(), prop::option::of((any::<bool>(), text())))
            .prop_map(|(kind, text, narrowing)| Thing(kind, text, narrowing))
    }

    fn name(thing: &Thing) -> UntrustedScope {
        let narrowing = match &thing.2 {
            None => Narrowing::None,
            Some((true, commit)) => Narrowing::Commit(commit),
            Some((false, run)) => Narrowing::Run(run),
        };
        let longest: RuleName = "a".repeat(RuleName::BYTES_MAX).parse().unwrap();
        scope(&longest, thing.0, &thing.1, narrowing)
    }

    proptest! {
        #[test]
        fn two_things_never_share_a_scope(one in thing(), other in thing()) {
            prop_assert_eq!(one == other, name(&one) == name(&other));
        }

        #[test]
        fn a_text_that_looks_like_the_name_of_another_is_told_from_it(one in thing(), kind in kind()) {
            let shown = name(&one);
            let label = shown.as_str().split('/').nth(1).unwrap();
            let text = label.split_once('-').unwrap().1.to_owned();
            let other = Thing(kind, text, None);
            prop_assert_eq!(one == other, shown == name(&other));
        }

        #[test]
        fn a_scope_is_one_label_below_the_rules_own(thing in thing()) {
            let name = name(&thing);
            let (rule, label) = name.as_str().split_once('/').unwrap();
            prop_assert!(rule.starts_with("ci.aaa"));
            prop_assert!(label.parse::<ScopeLabel>().is_ok());
            prop_assert!(label.starts_with(thing.0.word()));
            let client: ScopeLabel = "linux".parse().unwrap();
            prop_assert!(name.child(&client).is_ok());
        }
    }
}
