//! The rules of trust as properties of every caller and every name, R1 to R5 of the trust model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use larder_model::{
    Access, AccessKind, Caller, Dialect, EntryKey, EntryKeyError, NameError, Policy, Principal,
    ReadGrant, Refusal, Scope, ScopeError, ScopeLabel, UntrustedScope, WorkspaceName, WriterId,
};
use proptest::prelude::*;

fn workspaces() -> impl Strategy<Value = WorkspaceName> {
    "[a-z0-9][a-z0-9._-]{0,8}".prop_map(|text| text.parse().unwrap())
}

/// Labels, `trusted` in its spellings often among them.
fn labels() -> impl Strategy<Value = ScopeLabel> {
    prop_oneof![
        3 => "[A-Za-z0-9][A-Za-z0-9._-]{0,8}",
        1 => prop::sample::select(vec!["trusted", "Trusted", "TRUSTED", "pr", "token", "7"])
            .prop_map(str::to_owned),
    ]
    .prop_map(|text| text.parse().unwrap())
}

fn scopes() -> impl Strategy<Value = UntrustedScope> {
    prop::collection::vec(labels(), 1..=UntrustedScope::LABEL_COUNT_MAX).prop_filter_map(
        "only the trusted scope is called trusted",
        |labels| {
            let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
            labels.join("/").parse().ok()
        },
    )
}

fn accesses() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Trusted),
        Just(Access::CleanRoom),
        scopes().prop_map(|scope| Access::Isolated { scope }),
        scopes().prop_map(|scope| Access::Gate { scope }),
        Just(Access::Reader),
        Just(Access::Admin),
    ]
}

fn callers() -> impl Strategy<Value = Caller> {
    let known = (workspaces(), accesses(), any::<u64>())
        .prop_map(|(workspace, access, id)| Principal::new(workspace, access, WriterId(id)));
    prop_oneof![
        1 => (workspaces(), any::<bool>())
            .prop_map(|(workspace, public)| Caller::Anonymous { workspace, public }),
        6 => known.prop_map(Caller::Known),
        1 => Just(Caller::LocalOperator),
    ]
}

fn requests() -> impl Strategy<Value = (Caller, Option<ScopeLabel>)> {
    (callers(), prop::option::of(labels()))
}

/// Texts that are nearly scopes: labels, slashes, dots, `trusted` and what might be taken for it.
fn near_scopes() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "trusted",
            "TrusTed",
            "/",
            "//",
            ".",
            "..",
            "%2f",
            "\\",
            " ",
            "\0",
            "\n",
            "pr",
            "7",
            "é",
            "tru\u{17f}ted",
            "\u{202e}",
            "-",
            "_",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    prop_oneof![
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat()),
        "[A-Za-z0-9._/-]{0,80}",
    ]
}

/// The untrusted scope a caller was born with.
fn own_scope(caller: &Caller) -> Option<&UntrustedScope> {
    match caller {
        Caller::Known(principal) => principal.access().scope(),
        Caller::Anonymous { .. } | Caller::LocalOperator => None,
    }
}

fn is_at_or_below(scope: &UntrustedScope, parent: &UntrustedScope) -> bool {
    let mut labels = scope.as_str().split('/');
    parent
        .as_str()
        .split('/')
        .all(|label| labels.next() == Some(label))
}

fn path(grant: &ReadGrant) -> Vec<Scope> {
    grant.path().scopes().collect()
}

fn check_read(caller: &Caller, label: Option<&ScopeLabel>, grant: &ReadGrant) {
    let path = path(grant);
    let access = match caller {
        Caller::Known(principal) => Some(principal.access()),
        Caller::Anonymous { .. } | Caller::LocalOperator => None,
    };
    let nothing = matches!(access, Some(Access::CleanRoom));
    assert_eq!(path.first(), (!nothing).then_some(&Scope::Trusted), "R2");
    assert!(path.len() <= 2, "{path:?}");
    match (path.get(1), own_scope(caller)) {
        (None, None) => {}
        (None, Some(_)) => assert!(matches!(access, Some(Access::Gate { .. }))),
        (Some(Scope::Untrusted(scope)), Some(own)) => {
            assert!(matches!(access, Some(Access::Isolated { .. })));
            let narrowed = label.map_or(Ok(own.clone()), |label| own.child(label));
            assert_eq!(Ok(scope), narrowed.as_ref());
            assert!(is_at_or_below(scope, own), "{scope} is not below {own}");
        }
        (second, own) => panic!("{second:?} is read by a caller whose own scope is {own:?}"),
    }
    assert!(
        label.is_none() || own_scope(caller).is_some(),
        "a label was ignored"
    );
    let workspace = match caller {
        Caller::Known(principal) => Some(principal.workspace()),
        Caller::Anonymous {
            workspace,
            public: true,
        } => Some(workspace),
        Caller::Anonymous { public: false, .. } | Caller::LocalOperator => None,
    };
    assert_eq!(workspace, Some(grant.workspace()), "tenants are apart");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn reads_ask_trusted_first_and_then_at_most_the_callers_own_scope((caller, label) in requests()) {
        if let Ok(grant) = Policy::read(&caller, label.as_ref()) {
            check_read(&caller, label.as_ref(), &grant);
        }
    }

    #[test]
    fn writes_land_in_the_callers_own_scope_or_below_it((caller, label) in requests()) {
        let Ok(grant) = Policy::write(&caller, label.as_ref()) else { return Ok(()) };
        let Caller::Known(principal) = &caller else { panic!("{caller:?} may write") };
        prop_assert_eq!(grant.writer(), principal.writer());
        match (grant.scope(), principal.access()) {
            (Scope::Trusted, Access::Trusted | Access::CleanRoom) => prop_assert_eq!(&label, &None),
            (Scope::Untrusted(scope), Access::Isolated { scope: own } | Access::Gate { scope: own }) => {
                prop_assert!(is_at_or_below(scope, own), "R1: {} is not below {}", scope, own);
            }
            (scope, access) => panic!("R1: {access:?} writes {scope}"),
        }
    }

    #[test]
    fn a_write_sees_what_a_read_of_the_same_request_sees((caller, label) in requests()) {
        let Ok(grant) = Policy::write(&caller, label.as_ref()) else { return Ok(()) };
        check_read(&caller, label.as_ref(), grant.visible());
        let visible = path(grant.visible());
        match grant.kind() {
            AccessKind::CleanRoom => prop_assert_eq!(visible, []),
            AccessKind::Gate => prop_assert_eq!(visible, [Scope::Trusted], "what a gate writes it does not read"),
            _ => {
                prop_assert_eq!(visible.last(), Some(grant.scope()), "a writer sees its own entries");
                if grant.scope().is_trusted() {
                    prop_assert_eq!(visible, [Scope::Trusted], "R5: no untrusted entry is in its way");
                }
            }
        }
    }

    #[test]
    fn what_touches_entries_never_administers_and_the_reverse((caller, label) in requests()) {
        let entries = Policy::read(&caller, label.as_ref()).is_ok()
            || Policy::write(&caller, label.as_ref()).is_ok();
        match Policy::admin(&caller) {
            Err(_) => prop_assert_ne!(caller.kind(), AccessKind::Admin),
            Ok(grant) => {
                prop_assert!(!entries);
                let own = match &caller {
                    Caller::Known(principal) => Some(principal.workspace()),
                    _ => None,
                };
                prop_assert_eq!(grant.workspace(), own, "an administrator has one workspace");
            }
        }
    }

    #[test]
    fn no_text_of_an_untrusted_scope_reads_like_trusted(text in near_scopes()) {
        let Ok(scope) = text.parse::<UntrustedScope>() else { return Ok(()) };
        let shown = scope.to_string();
        prop_assert_eq!(&shown, &text, "one spelling per scope");
        prop_assert!(shown.is_ascii());
        prop_assert!(shown.len() <= UntrustedScope::BYTES_MAX);
        let first = shown.split('/').next().unwrap().to_ascii_lowercase();
        prop_assert_ne!(first, "trusted");
        prop_assert!(shown.split('/').all(|label| label.parse::<ScopeLabel>().is_ok()));
    }

    #[test]
    fn a_scope_is_its_text(text in near_scopes()) {
        let Ok(scope) = text.parse::<Scope>() else { return Ok(()) };
        prop_assert_eq!(scope.to_string(), text.clone());
        prop_assert_eq!(scope.is_trusted(), text == "trusted");
    }

    #[test]
    fn a_child_stays_below_its_parent_and_different_labels_make_different_children(
        parent in scopes(),
        label in labels(),
        other in labels(),
    ) {
        let depth = parent.as_str().split('/').count();
        let Ok(child) = parent.child(&label) else {
            prop_assert_eq!(depth, UntrustedScope::LABEL_COUNT_MAX);
            return Ok(());
        };
        prop_assert_eq!(child.as_str().split('/').count(), depth + 1);
        prop_assert!(is_at_or_below(&child, &parent));
        prop_assert!(!is_at_or_below(&parent, &child));
        prop_assert_eq!(child.as_str().parse::<UntrustedScope>(), Ok(child.clone()));
        prop_assert_eq!(parent.child(&other) == Ok(child), label == other);
    }

    #[test]
    fn names_have_one_spelling_and_nothing_to_escape(text in near_scopes()) {
        let plain = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && name.as_bytes()[0].is_ascii_alphanumeric()
        };
        if let Ok(name) = text.parse::<ScopeLabel>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(plain(&text) && text.len() <= ScopeLabel::BYTES_MAX);
        }
        if let Ok(name) = text.parse::<WorkspaceName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(plain(&text) && text.len() <= WorkspaceName::BYTES_MAX);
            prop_assert!(!text.bytes().any(|b| b.is_ascii_uppercase()));
        }
    }

    #[test]
    fn a_key_is_any_bytes_within_its_limit_and_shows_no_control_characters(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        match EntryKey::new(&bytes) {
            Ok(key) => {
                prop_assert_eq!(key.as_bytes(), &bytes);
                prop_assert!(key.to_string().bytes().all(|b| matches!(b, b' '..=b'~')));
            }
            Err(EntryKeyError::Empty) => prop_assert!(bytes.is_empty()),
            Err(EntryKeyError::TooLong { limit }) => prop_assert!(bytes.len() > limit),
        }
    }
}

#[test]
fn names_are_refused_for_the_reason_that_helps() {
    let check = |text: &str, workspace: Option<NameError>, label: Option<NameError>| {
        assert_eq!(text.parse::<WorkspaceName>().err(), workspace, "{text:?}");
        assert_eq!(text.parse::<ScopeLabel>().err(), label, "{text:?}");
    };
    let lower = NameError::Character {
        allowed: "a-z, 0-9, '.', '_' and '-'",
    };
    let mixed = NameError::Character {
        allowed: "a-z, A-Z, 0-9, '.', '_' and '-'",
    };
    check("acme-web.2_x", None, None);
    check("", Some(NameError::Empty), Some(NameError::Empty));
    check("Acme", Some(lower), None);
    for text in [
        ".", "..", "-a", "_a", "a/b", "a b", "a%2fb", "a\0", "ä", "a\n", "ａ",
    ] {
        check(text, Some(lower), Some(mixed));
    }
    let too_long = |limit| Some(NameError::TooLong { limit });
    check(&"a".repeat(63), None, None);
    check(&"a".repeat(64), too_long(63), None);
    check(&"a".repeat(65), too_long(63), too_long(64));
}

#[test]
fn scopes_are_refused_for_the_reason_that_helps() {
    let check = |text: &str, expected: Result<&str, ScopeError>| {
        let scope = text
            .parse::<UntrustedScope>()
            .map(|scope| scope.to_string());
        assert_eq!(scope, expected.map(str::to_owned), "{text:?}");
    };
    for text in [
        "pr",
        "pr/7",
        "token/12/linux",
        "pr/trusted",
        "trusted-not",
        "not-trusted",
    ] {
        check(text, Ok(text));
    }
    for text in ["trusted", "Trusted", "TRUSTED/7", "trusted/a/b", "trusted/"] {
        check(text, Err(ScopeError::Reserved));
    }
    for text in ["", "/", "pr/", "/pr", "pr//7"] {
        check(text, Err(ScopeError::Label(NameError::Empty)));
    }
    check("a/b/c/d", Err(ScopeError::TooDeep { limit: 3 }));
    let longest = ["a"; 3].map(|label| label.repeat(64)).join("/");
    assert_eq!(longest.len(), UntrustedScope::BYTES_MAX);
    check(&longest, Ok(&longest));
}

#[test]
fn a_label_too_many_is_refused_for_reading_and_for_writing() {
    let access = Access::Isolated {
        scope: "a/b/c".parse().unwrap(),
    };
    let caller = Caller::Known(Principal::new("acme".parse().unwrap(), access, WriterId(1)));
    let label: ScopeLabel = "d".parse().unwrap();
    assert_eq!(Policy::read(&caller, Some(&label)), Err(Refusal::TooDeep));
    assert_eq!(Policy::write(&caller, Some(&label)), Err(Refusal::TooDeep));
    assert!(Policy::write(&caller, None).is_ok());
}

#[test]
fn dialects_have_numbers_and_names_of_their_own() {
    for dialect in Dialect::ALL {
        assert_eq!(Dialect::from_code(dialect.code()), Some(dialect));
        assert_eq!(Dialect::from_name(dialect.name()), Some(dialect));
    }
    let dialects = Dialect::ALL.map(|each| (each.code(), each.name(), each.is_replaceable()));
    let table = [
        (1, "nx", false),
        (2, "cas.sha256", false),
        (3, "cas.blake3", false),
        (4, "ac", true),
        (5, "ac.opaque", true),
    ];
    assert_eq!(dialects, table, "numbers are on disk");
    assert_eq!(Dialect::from_code(0), None);
    assert_eq!(Dialect::from_name("NX"), None);
}

#[test]
fn the_kinds_of_access_have_names_of_their_own() {
    let mut names = AccessKind::ALL.map(AccessKind::name).to_vec();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "admin",
            "anonymous",
            "clean-room",
            "gate",
            "isolated",
            "reader",
            "trusted"
        ]
    );
}
