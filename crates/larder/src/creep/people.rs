//! Those who ask the cache something, each with a credential and connections of their own.
//!
//! Connections are not shared because a proxy may take whoever opened one for whoever uses it.
//!
//! Always true: a token is in no text that this program prints, and in no argument that lists of processes show.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use larder_client::{Client, ClientOptions, OptionsError};

use super::exchange::{hex, random_bytes};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// A build of the branch that everybody takes results from.
    Trunk,
    /// A build of a change that nobody has reviewed.
    PullRequest,
    /// The build of another such change.
    OtherPullRequest,
    /// Someone who only reads: a developer's machine.
    Reader,
    /// Someone without a credential.
    Nobody,
    /// Someone whose credential this program has made up: what anybody gets who is not known.
    Stranger,
}

impl Who {
    /// How tables name them.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trunk => "trunk",
            Self::PullRequest => "pull request",
            Self::OtherPullRequest => "other pull request",
            Self::Reader => "reader",
            Self::Nobody => "nobody",
            Self::Stranger => "stranger",
        }
    }
}

/// A credential's text. It does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

/// Shorter texts are no secrets, and may be words.
const SECRET_BYTES_MIN: usize = 16;

/// A text that cannot be sent as a credential. It says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is one line of visible ASCII characters")]
pub(crate) struct NotAToken;

impl Token {
    /// The token that is the one line of `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAToken> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAToken);
        }
        Ok(Self(token.to_owned()))
    }

    /// The bytes of `Basic` with this token as the password of `user`, before they are encoded.
    pub(super) fn with_user(&self, user: &str) -> Vec<u8> {
        format!("{user}:{}", self.0).into_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The credentials of a check.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) trunk: Token,
    pub(crate) pull_request: Token,
    pub(crate) other_pull_request: Option<Token>,
    pub(crate) reader: Option<Token>,
    /// The header that takes a token as it is, where it is not `Authorization: Bearer`.
    pub(crate) header: Option<HeaderName>,
}

impl Tokens {
    fn of(&self, who: Who) -> Option<&Token> {
        match who {
            Who::Trunk => Some(&self.trunk),
            Who::PullRequest => Some(&self.pull_request),
            Who::OtherPullRequest => self.other_pull_request.as_ref(),
            Who::Reader => self.reader.as_ref(),
            Who::Nobody | Who::Stranger => None,
        }
    }
}

/// Everybody, with a client each.
pub(super) struct People {
    tokens: Tokens,
    made_up: Token,
    clients: [Client; 6],
}

impl People {
    pub(super) fn new(tokens: Tokens, options: &ClientOptions) -> Result<Self, OptionsError> {
        let client = || Client::new(options.clone());
        Ok(Self {
            tokens,
            made_up: Token(format!("creep-check-{}", hex(&random_bytes::<16>()))),
            clients: [
                client()?,
                client()?,
                client()?,
                client()?,
                client()?,
                client()?,
            ],
        })
    }

    /// Whether `who` can be asked to do anything.
    pub(super) fn has(&self, who: Who) -> bool {
        who == Who::Nobody || self.token(who).is_some()
    }

    pub(super) fn token(&self, who: Who) -> Option<&Token> {
        match who {
            Who::Stranger => Some(&self.made_up),
            who => self.tokens.of(who),
        }
    }

    pub(super) fn client(&self, who: Who) -> &Client {
        &self.clients[who as usize]
    }

    /// `text`, which a server wrote, without the tokens that it may repeat.
    pub(super) fn redact(&self, text: &str) -> String {
        let everybody = [
            Who::Trunk,
            Who::PullRequest,
            Who::OtherPullRequest,
            Who::Reader,
        ];
        let tokens = everybody.into_iter().filter_map(|who| self.tokens.of(who));
        tokens
            .filter(|Token(token)| token.len() >= SECRET_BYTES_MIN)
            .fold(text.to_owned(), |text, Token(token)| {
                text.replace(token, "(a token)")
            })
    }

    /// Adds the credential of `who`, if there is one and no other is there already.
    pub(super) fn sign(&self, who: Who, headers: &mut HeaderMap) {
        let Some(Token(token)) = self.token(who) else {
            return;
        };
        let (name, value) = match &self.tokens.header {
            Some(name) => (name.clone(), token.clone()),
            None => (header::AUTHORIZATION, format!("Bearer {token}")),
        };
        let mut value = HeaderValue::try_from(value).expect("a token is visible ASCII");
        value.set_sensitive(true);
        headers.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_a_server_repeats_is_not_shown() {
        let tokens = Tokens {
            trunk: Token::parse("trunk-0123456789abcdef").unwrap(),
            pull_request: Token::parse("pull-0123456789abcdef").unwrap(),
            other_pull_request: None,
            reader: None,
            header: None,
        };
        let people = People::new(tokens, &ClientOptions::default()).unwrap();
        assert_eq!(
            people.redact("no entry for pull-0123456789abcdef here"),
            "no entry for (a token) here"
        );
    }

    #[test]
    fn a_token_is_one_line_and_does_not_show_itself() {
        let token = Token::parse(" secret-token\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!(token.with_user("trunk"), b"trunk:secret-token");
        for text in ["", "\n", "two words", "two\nlines", "täst"] {
            assert_eq!(Token::parse(text), Err(NotAToken), "{text:?}");
        }
    }
}
