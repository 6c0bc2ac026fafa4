//! What the authenticator answers to headers, friendly and hostile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use larder_auth::{Authenticator, BadCredential, Credential, Presented, TokenGrant, TokenSecret};
use larder_model::{Access, Principal, WriterId};
use proptest::prelude::*;

const NOW_MS: u64 = 1_800_000_000_000;
/// A fixed token for the properties, so that a failing case can be run again.
const TOKEN: &str = "lrd_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg0XKMrF";

fn presented(authorization: &[u8]) -> Presented<'_> {
    Presented {
        authorization: Some(authorization),
        certificate: None,
    }
}

fn grant(id: u64, token: &TokenSecret) -> TokenGrant {
    TokenGrant {
        id,
        hash: token.hash(),
        workspace: "acme".parse().unwrap(),
        access: Access::Trusted,
        expires_at_ms: None,
        revoked: false,
    }
}

fn principal(id: u64) -> Principal {
    Principal::new("acme".parse().unwrap(), Access::Trusted, WriterId(id))
}

fn known(id: u64) -> Credential {
    Credential::Known(principal(id))
}

/// An authenticator that knows one token, number 7.
fn with_one_token() -> (Authenticator, TokenSecret) {
    let token = TokenSecret::generate();
    let authenticator = Authenticator::new();
    authenticator.replace(vec![grant(7, &token)]);
    (authenticator, token)
}

#[derive(Clone, Copy, Debug)]
struct Base64 {
    url_alphabet: bool,
    padded: bool,
}

impl Base64 {
    const ALL: [Self; 4] = [
        Self {
            url_alphabet: false,
            padded: true,
        },
        Self {
            url_alphabet: false,
            padded: false,
        },
        Self {
            url_alphabet: true,
            padded: true,
        },
        Self {
            url_alphabet: true,
            padded: false,
        },
    ];

    fn encode(self, bytes: &[u8]) -> String {
        let last_two = if self.url_alphabet { "-_" } else { "+/" };
        let alphabet: Vec<char> = ('A'..='Z')
            .chain('a'..='z')
            .chain('0'..='9')
            .chain(last_two.chars())
            .collect();
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let bits = (0..3).fold(0, |bits, i| {
                bits << 8 | usize::from(*group.get(i).unwrap_or(&0))
            });
            for digit in 0..=group.len() {
                text.push(alphabet[bits >> (18 - 6 * digit) & 63]);
            }
        }
        while self.padded && !text.len().is_multiple_of(4) {
            text.push('=');
        }
        text
    }
}

/// What an authenticator that knows token 7 answers to the header that `write` makes of its text.
fn check(write: impl Fn(&str) -> Vec<u8>, expected: Result<Credential, BadCredential>) {
    let (authenticator, token) = with_one_token();
    let header = write(token.expose());
    let answer = authenticator.authenticate(&presented(&header), NOW_MS);
    assert_eq!(answer, expected, "{}", header.escape_ascii());
}

#[test]
fn a_bearer_token_is_known_whatever_the_case_of_the_scheme_and_the_spaces() {
    for scheme in [
        "Bearer ",
        "bearer ",
        "BEARER ",
        "Bearer    ",
        "Bearer\t",
        "  Bearer ",
    ] {
        check(|token| format!("{scheme}{token}").into(), Ok(known(7)));
        check(|token| format!("{scheme}{token}  ").into(), Ok(known(7)));
    }
}

#[test]
fn a_basic_token_is_known_as_password_or_as_user_in_both_base64_alphabets() {
    for base64 in Base64::ALL {
        // User names that make both alphabets differ: bytes that encode to the last two digits.
        for user in ["nx", "", "~~~???", "\u{fb}\u{ff}>?>?"] {
            let write = |token: &str| {
                format!(
                    "Basic {}",
                    base64.encode(format!("{user}:{token}").as_bytes())
                )
                .into()
            };
            check(write, Ok(known(7)));
        }
        let as_user = |token: &str| {
            format!("basic  {}", base64.encode(format!("{token}:").as_bytes())).into()
        };
        check(as_user, Ok(known(7)));
    }
}

#[test]
fn no_header_and_every_empty_credential_are_absent() {
    let (authenticator, _) = with_one_token();
    assert_eq!(
        authenticator.authenticate(&Presented::default(), NOW_MS),
        Ok(Credential::Absent)
    );
    for empty in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "bearer  \t",
        "Basic",
        "Basic ",
        "Basic Og==",
        "Basic Og",
    ] {
        check(|_| empty.into(), Ok(Credential::Absent));
    }
}

#[test]
fn a_header_in_no_known_form_is_unreadable() {
    for header in [
        "Digest x",
        "Bearerlrd_",
        "Basic !",
        "Basic Zm9v",
        "Basic Og===",
        "lrd_",
        ":",
        "\0",
    ] {
        check(|_| header.into(), Err(BadCredential::Unreadable));
    }
    check(|token| token.into(), Err(BadCredential::Unreadable));
    check(|_| b"\xff\xfe".to_vec(), Err(BadCredential::Unreadable));
    let long = Base64::ALL[0].encode(&[b':'; 5000]);
    check(
        |_| format!("Basic {long}").into(),
        Err(BadCredential::Unreadable),
    );
}

#[test]
fn a_typo_is_malformed_and_a_strange_token_unknown() {
    check(
        |token| format!("Bearer {}", &token[..token.len() - 1]).into(),
        Err(BadCredential::Malformed),
    );
    check(
        |token| format!("Bearer \"{token}\"").into(),
        Err(BadCredential::Malformed),
    );
    check(
        |token| format!("Bearer {token} {token}").into(),
        Err(BadCredential::Malformed),
    );
    check(
        |token| format!("Bearer {}", token.to_lowercase()).into(),
        Err(BadCredential::Malformed),
    );
    check(|_| "Bearer undefined".into(), Err(BadCredential::Malformed));
    check(
        |_| "Bearer lrd_\u{e9}".into(),
        Err(BadCredential::Malformed),
    );
    let strange = TokenSecret::generate();
    check(
        |_| format!("Bearer {}", strange.expose()).into(),
        Err(BadCredential::Unknown),
    );
}

#[test]
fn a_password_is_the_credential_even_when_the_user_is_a_good_token() {
    let write = |token: &str| {
        format!(
            "Basic {}",
            Base64::ALL[0].encode(format!("{token}:wrong").as_bytes())
        )
        .into()
    };
    check(write, Err(BadCredential::Malformed));
}

fn bearer(token: &TokenSecret) -> String {
    format!("Bearer {}", token.expose())
}

#[test]
fn a_token_expires_at_its_very_millisecond() {
    let token = TokenSecret::generate();
    let authenticator = Authenticator::new();
    authenticator.replace(vec![TokenGrant {
        expires_at_ms: Some(NOW_MS),
        ..grant(7, &token)
    }]);
    let at = |now_ms| authenticator.authenticate(&presented(bearer(&token).as_bytes()), now_ms);
    assert_eq!(at(NOW_MS - 1), Ok(known(7)));
    assert_eq!(at(NOW_MS), Err(BadCredential::Expired));
    assert_eq!(at(u64::MAX), Err(BadCredential::Expired));
}

#[test]
fn a_revoked_token_is_refused_from_the_next_request_on() {
    let (authenticator, token) = with_one_token();
    let header = bearer(&token);
    assert_eq!(
        authenticator.authenticate(&presented(header.as_bytes()), NOW_MS),
        Ok(known(7))
    );
    authenticator.replace(vec![TokenGrant {
        revoked: true,
        expires_at_ms: Some(0),
        ..grant(7, &token)
    }]);
    let answer = authenticator.authenticate(&presented(header.as_bytes()), NOW_MS);
    assert_eq!(answer, Err(BadCredential::Revoked));
    authenticator.replace(Vec::new());
    let answer = authenticator.authenticate(&presented(header.as_bytes()), NOW_MS);
    assert_eq!(answer, Err(BadCredential::Unknown));
}

#[test]
fn each_token_leads_to_its_own_principal() {
    let tokens: Vec<TokenSecret> = (0..100).map(|_| TokenSecret::generate()).collect();
    let access = |id: u64| match id % 4 {
        0 => Access::Trusted,
        1 => Access::Isolated {
            scope: format!("token/{id}").parse().unwrap(),
        },
        2 => Access::Reader,
        _ => Access::Admin,
    };
    let workspace = |id: u64| format!("w{}", id % 3).parse().unwrap();
    let authenticator = Authenticator::new();
    authenticator.replace(
        (0..)
            .zip(&tokens)
            .map(|(id, token)| TokenGrant {
                workspace: workspace(id),
                access: access(id),
                ..grant(id, token)
            })
            .collect(),
    );
    for (id, token) in (0..).zip(&tokens) {
        let expected = Principal::new(workspace(id), access(id), WriterId(id));
        let answer = authenticator.authenticate(&presented(bearer(token).as_bytes()), NOW_MS);
        assert_eq!(answer, Ok(Credential::Known(expected)));
    }
}

#[test]
fn last_use_is_taken_once_and_survives_a_replacement() {
    let (authenticator, token) = with_one_token();
    let use_at = |now_ms| {
        authenticator
            .authenticate(&presented(bearer(&token).as_bytes()), now_ms)
            .unwrap();
    };
    assert_eq!(authenticator.take_last_used(), []);
    use_at(NOW_MS);
    use_at(NOW_MS + 5_000);
    use_at(NOW_MS + 2_000);
    let other = TokenSecret::generate();
    authenticator.replace(vec![grant(8, &other), grant(7, &token)]);
    assert_eq!(authenticator.take_last_used(), [(7, NOW_MS + 5_000)]);
    assert_eq!(authenticator.take_last_used(), []);
    use_at(NOW_MS + 6_000);
    assert_eq!(authenticator.take_last_used(), [(7, NOW_MS + 6_000)]);
}

#[test]
fn uses_within_a_second_are_one_use() {
    let (authenticator, token) = with_one_token();
    for (later_ms, noted_ms) in [(999, 0), (1_000, 1_000)] {
        for now_ms in [NOW_MS, NOW_MS + later_ms] {
            authenticator
                .authenticate(&presented(bearer(&token).as_bytes()), now_ms)
                .unwrap();
        }
        assert_eq!(authenticator.take_last_used(), [(7, NOW_MS + noted_ms)]);
    }
}

#[test]
fn a_refused_token_is_not_used() {
    let token = TokenSecret::generate();
    let authenticator = Authenticator::new();
    for bad in [
        TokenGrant {
            revoked: true,
            ..grant(7, &token)
        },
        TokenGrant {
            expires_at_ms: Some(NOW_MS),
            ..grant(7, &token)
        },
    ] {
        authenticator.replace(vec![bad]);
        authenticator
            .authenticate(&presented(bearer(&token).as_bytes()), NOW_MS)
            .unwrap_err();
        assert_eq!(authenticator.take_last_used(), []);
    }
}

#[test]
fn requests_during_replacements_see_the_old_table_or_the_new_one() {
    let (authenticator, token) = with_one_token();
    let header = bearer(&token);
    let moved = TokenGrant {
        access: Access::Reader,
        ..grant(7, &token)
    };
    let as_reader = Principal::new("acme".parse().unwrap(), Access::Reader, WriterId(7));
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                for _ in 0..2_000 {
                    let answer = authenticator.authenticate(&presented(header.as_bytes()), NOW_MS);
                    let Ok(Credential::Known(principal)) = answer else {
                        panic!("{answer:?}")
                    };
                    assert!(principal == as_reader || known(7) == Credential::Known(principal));
                }
            });
        }
        for _ in 0..200 {
            authenticator.replace(vec![moved.clone()]);
            authenticator.replace(vec![grant(7, &token)]);
        }
    });
}

#[test]
fn nothing_that_can_be_printed_contains_the_token() {
    let (authenticator, token) = with_one_token();
    let header = bearer(&token);
    let credential = authenticator.authenticate(&presented(header.as_bytes()), NOW_MS);
    let whole_hash = format!("{:?}", token.hash().0);
    let hex = token.hash().0.map(|byte| format!("{byte:02x}")).concat();
    let printed = format!(
        "{authenticator:?} {authenticator:#?} {token:?} {:?} {credential:?} {:?}",
        token.hash(),
        grant(7, &token)
    );
    assert!(
        printed.contains("TokenHash("),
        "the table itself should be in: {printed}"
    );
    for secret in [
        &token.expose()[4..],
        &token.expose()[4..12],
        &whole_hash,
        &hex,
    ] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

#[test]
fn every_bad_credential_is_one_line_that_says_what_to_do() {
    for bad in [
        BadCredential::Unreadable,
        BadCredential::Malformed,
        BadCredential::Unknown,
        BadCredential::Expired,
        BadCredential::Revoked,
        BadCredential::UnknownSession,
        BadCredential::Jwt,
        BadCredential::Certificate,
    ] {
        let text = bad.to_string();
        assert!(
            text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{text:?}"
        );
        assert!(!text.contains("  "), "{text:?}");
        let advice = [
            "send it as",
            "copy it again",
            "larder token create",
            "exchange the CI's token again",
            "Check that",
            "leave one",
        ];
        assert!(
            advice.iter().any(|advice| text.contains(advice)),
            "{text:?}"
        );
    }
}

/// The token, whole or damaged, among what else a client could send.
fn hostile_bytes(token: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let token = token.as_bytes().to_vec();
    let len = token.len();
    let (cut, damaged) = (token.clone(), token.clone());
    let words = [
        "Bearer ", "bearer", "Basic ", "BASIC\t", ":", "=", " ", "\0", "\"", ",", "lrd_",
    ];
    let piece = prop_oneof![
        3 => Just(token),
        1 => (0..=len).prop_map(move |end| cut[..end].to_vec()),
        1 => (0..len, any::<u8>()).prop_map(move |(at, byte)| {
            let mut damaged = damaged.clone();
            damaged[at] = byte;
            damaged
        }),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        3 => prop::sample::select(words.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_header_is_known_but_the_exact_token_as_bearer(
        scheme in prop::sample::select(vec!["", "Bearer "]),
        credential in hostile_bytes(TOKEN),
    ) {
        let token = TokenSecret::parse(TOKEN).unwrap();
        let bytes = [scheme.as_bytes(), &credential].concat();
        let authenticator = Authenticator::new();
        authenticator.replace(vec![grant(7, &token)]);
        let answer = authenticator.authenticate(&presented(&bytes), NOW_MS);
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let exact = words.len() == 2
            && words[0].eq_ignore_ascii_case("bearer")
            && words[1] == TOKEN;
        prop_assert_eq!(answer == Ok(known(7)), exact, "{:?}", answer);
    }

    #[test]
    fn no_user_and_password_are_known_but_the_exact_token_as_one_of_them(
        pair in hostile_bytes(TOKEN),
        base64 in prop::sample::select(Base64::ALL.to_vec()),
    ) {
        let token = TokenSecret::parse(TOKEN).unwrap();
        let authenticator = Authenticator::new();
        authenticator.replace(vec![grant(7, &token)]);
        let header = format!("Basic {}", base64.encode(&pair));
        let answer = authenticator.authenticate(&presented(header.as_bytes()), NOW_MS);
        let mut parts = pair.splitn(2, |&byte| byte == b':');
        let (user, password) = (parts.next().unwrap_or_default(), parts.next());
        let token = TOKEN.as_bytes();
        let exact = match password {
            None => false,
            Some(b"") => user == token,
            Some(password) => password == token,
        };
        prop_assert_eq!(answer == Ok(known(7)), exact, "{:?}", answer);
    }

    #[test]
    fn any_bytes_at_all_are_answered(
        scheme in prop::sample::select(vec!["", "Bearer ", "Basic "]),
        bytes in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        let (authenticator, _) = with_one_token();
        let header = [scheme.as_bytes(), &bytes].concat();
        let answer = authenticator.authenticate(&presented(&header), NOW_MS);
        prop_assert!(!matches!(answer, Ok(Credential::Known(_))));
    }
}
