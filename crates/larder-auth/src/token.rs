//! Tokens and sessions: a prefix, 43 random characters, 6 characters of checksum.
//!
//! The random part is 43 letters and digits, each drawn uniformly from 62: 62^43 > 2^256. The
//! checksum is the CRC-32C of everything before it, so that a token that was cut or mistyped is
//! told apart from one that the server does not know, and the prefix lets secret scanners find
//! tokens in code. Letters and digits alone survive URLs, shells and a double click.
//!
//! A session is what a CI job gets for its JWT. Its prefix is a token's and more, but a token has no second underscore and
//! another length: no text is both.
//!
//! Always true: a [`TokenSecret`] and a [`SessionSecret`] have the right shape, and neither they nor a [`TokenHash`] show
//! themselves through `Debug`.

use std::fmt;

use aws_lc_rs::digest;

/// What tokens and sessions begin with, and nothing else does.
pub(crate) const TOKEN_PREFIX: &[u8] = b"lrd_";
const SESSION_PREFIX: &[u8] = b"lrd_s_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The fewest letters and digits with at least 256 bits.
const RANDOM_BYTES: usize = 43;
/// The fewest letters and digits that hold 32 bits.
const CHECKSUM_BYTES: usize = 6;
const TOKEN_BYTES: usize = TOKEN_PREFIX.len() + RANDOM_BYTES + CHECKSUM_BYTES;
const SESSION_BYTES: usize = SESSION_PREFIX.len() + RANDOM_BYTES + CHECKSUM_BYTES;

/// A text that is no token: the wrong prefix, length or characters, or a checksum that does not
/// fit. It says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a whole token: it begins with \"lrd_\", has {TOKEN_BYTES} characters and ends \
     with their checksum; copy it again"
)]
pub struct MalformedToken;

/// The text of a token. Only its holder keeps it; everything else keeps its [`TokenHash`].
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; TOKEN_BYTES]);

impl TokenSecret {
    /// A new token from the operating system's random numbers.
    pub fn generate() -> Self {
        Self(generate(TOKEN_PREFIX))
    }

    /// The token that `text` spells, exactly: no white space around it.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        Self::from_bytes(text.as_bytes())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedToken> {
        read(TOKEN_PREFIX, bytes).map(Self)
    }

    /// What the server keeps of this token.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// The token's text, to be shown once, to whom it was made for.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a token consists of ASCII characters")
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(lrd_…)")
    }
}

/// The text of a session, which is kept like a token's.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret([u8; SESSION_BYTES]);

impl SessionSecret {
    /// A new session from the operating system's random numbers.
    pub fn generate() -> Self {
        Self(generate(SESSION_PREFIX))
    }

    /// The session that `text` spells, exactly: no white space around it.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        Self::from_bytes(text.as_bytes())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedToken> {
        read(SESSION_PREFIX, bytes).map(Self)
    }

    /// What the server keeps of this session.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// The session's text, to be shown once, to whom it was made for.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a session consists of ASCII characters")
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(lrd_s_…)")
    }
}

fn generate<const BYTES: usize>(prefix: &[u8]) -> [u8; BYTES] {
    let mut text = [0; BYTES];
    let checksum_start = BYTES - CHECKSUM_BYTES;
    text[..prefix.len()].copy_from_slice(prefix);
    for slot in &mut text[prefix.len()..checksum_start] {
        *slot = random_character();
    }
    let checksum = checksum(&text[..checksum_start]);
    text[checksum_start..].copy_from_slice(&checksum);
    text
}

fn read<const BYTES: usize>(prefix: &[u8], bytes: &[u8]) -> Result<[u8; BYTES], MalformedToken> {
    let text: [u8; BYTES] = bytes.try_into().map_err(|_| MalformedToken)?;
    let checksum_start = BYTES - CHECKSUM_BYTES;
    let well_formed = text.starts_with(prefix)
        && text[prefix.len()..].iter().all(u8::is_ascii_alphanumeric)
        && text[checksum_start..] == checksum(&text[..checksum_start]);
    if well_formed {
        Ok(text)
    } else {
        Err(MalformedToken)
    }
}

/// The SHA-256 of the text of a token, a session or a JWT. The first two have 256 random bits and a JWT a signature, so the
/// hash needs no salt and no slow function to be useless to a thief.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of this text.
    pub fn of(text: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, text);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// Enough to tell two tokens apart in a log.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(
            f,
            "TokenHash({first:02x}{second:02x}{third:02x}{fourth:02x}…)"
        )
    }
}

fn random_character() -> u8 {
    // Bytes from the incomplete last run of 62 are drawn again: each character stays equally likely.
    const FAIR_END: u8 = (256 / ALPHABET.len() * ALPHABET.len()) as u8;
    loop {
        let mut byte = [0];
        getrandom::fill(&mut byte).expect("the operating system has a random number generator");
        if byte[0] < FAIR_END {
            return ALPHABET[usize::from(byte[0]) % ALPHABET.len()];
        }
    }
}

/// The CRC-32C in base 62, most significant digit first.
fn checksum(text: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut rest = crc32c::crc32c(text) as usize;
    let mut digits = [0; CHECKSUM_BYTES];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are kept by their holders for years: this one must stay a token.
    const GOLDEN: &str = "lrd_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg0XKMrF";

    #[test]
    fn the_format_of_tokens_does_not_change() {
        let token = TokenSecret::parse(GOLDEN).expect("the golden token parses");
        assert_eq!(token.expose(), GOLDEN);
        let hex = token.hash().0.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(
            hex,
            "1351d13a134926ffb4e07db053224671419044bd811e45ffb4a0e1f1d65faa96"
        );
    }

    #[test]
    fn a_generated_token_parses_to_itself() {
        let token = TokenSecret::generate();
        assert_eq!(TokenSecret::parse(token.expose()), Ok(token));
    }

    #[test]
    fn generated_tokens_differ_and_use_the_whole_alphabet() {
        let mut tokens: Vec<TokenSecret> = (0..200).map(|_| TokenSecret::generate()).collect();
        let mut seen: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.0[TOKEN_PREFIX.len()..][..RANDOM_BYTES].to_vec())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        // 8,600 draws miss one given character of 62 with a probability below 10^-60.
        assert_eq!(seen, ALPHABET);
        tokens.sort_unstable_by_key(|token| token.0);
        tokens.dedup();
        assert_eq!(tokens.len(), 200);
    }

    #[test]
    fn every_typo_swap_and_cut_is_malformed() {
        let token = TokenSecret::generate();
        let text = token.expose().as_bytes();
        for end in 0..text.len() {
            assert_eq!(
                TokenSecret::from_bytes(&text[..end]),
                Err(MalformedToken),
                "cut at {end}"
            );
            for replacement in ALPHABET.iter().chain(b" _-\n\0\xff") {
                let mut typo = text.to_vec();
                typo[end] = *replacement;
                let expected = if typo == text {
                    Ok(token.clone())
                } else {
                    Err(MalformedToken)
                };
                assert_eq!(
                    TokenSecret::from_bytes(&typo),
                    expected,
                    "{replacement} at {end}"
                );
            }
            let mut swapped = text.to_vec();
            swapped.swap(end, (end + 1) % text.len());
            if swapped != text {
                assert_eq!(TokenSecret::from_bytes(&swapped), Err(MalformedToken));
            }
        }
        let longer = [text, b"0"].concat();
        assert_eq!(TokenSecret::from_bytes(&longer), Err(MalformedToken));
    }

    #[test]
    fn another_prefix_is_malformed_even_with_the_right_checksum() {
        let mut text = TokenSecret::generate().0;
        text[..TOKEN_PREFIX.len()].copy_from_slice(b"lard");
        let checksum_start = TOKEN_BYTES - CHECKSUM_BYTES;
        let checksum = checksum(&text[..checksum_start]);
        text[checksum_start..].copy_from_slice(&checksum);
        assert_eq!(TokenSecret::from_bytes(&text), Err(MalformedToken));
    }

    #[test]
    fn a_session_parses_to_itself_and_no_text_is_both_a_session_and_a_token() {
        const GOLDEN: &str = "lrd_s_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg4UYSfW";
        let session = SessionSecret::parse(GOLDEN).expect("the golden session parses");
        assert_eq!(session.expose(), GOLDEN);
        let session = SessionSecret::generate();
        assert_eq!(SessionSecret::parse(session.expose()), Ok(session.clone()));
        assert_eq!(
            TokenSecret::from_bytes(session.expose().as_bytes()),
            Err(MalformedToken)
        );
        let token = TokenSecret::generate();
        assert_eq!(
            SessionSecret::from_bytes(token.expose().as_bytes()),
            Err(MalformedToken)
        );
        // Of a session's length, with a token's prefix and the right checksum, and the other way round.
        let stretched: [u8; SESSION_BYTES] = generate(b"lrd_");
        let shrunk: [u8; TOKEN_BYTES] = generate(SESSION_PREFIX);
        for text in [&stretched[..], &shrunk[..]] {
            assert_eq!(TokenSecret::from_bytes(text), Err(MalformedToken));
            assert_eq!(SessionSecret::from_bytes(text), Err(MalformedToken));
        }
        assert_eq!(format!("{session:?}"), "SessionSecret(lrd_s_…)");
    }

    #[test]
    fn neither_a_token_nor_its_hash_shows_itself() {
        let token = TokenSecret::parse(GOLDEN).expect("the golden token parses");
        assert_eq!(format!("{token:?}"), "TokenSecret(lrd_…)");
        assert_eq!(
            format!("{:?}", TokenHash([0xab; 32])),
            "TokenHash(abababab…)"
        );
        assert!(!MalformedToken.to_string().contains(GOLDEN));
    }
}
