//! Which credential a header meant, remembered by each thread.
//!
//! Nearly every request comes with the same few headers as the ones before it, and reading one (base64, checksum, SHA-256)
//! costs more than finding the entry it is about. What is kept is no secret: a hash of the whole header under a key that the
//! process drew at its start, and the credential's own hash. Whether that credential is still good is asked every time.

use std::cell::RefCell;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::header::Named;

/// Headers that a thread remembers: more than the kinds of callers that are at work at once.
const SLOTS: usize = 64;

thread_local! {
    static SEEN: RefCell<[Option<Seen>; SLOTS]> = const { RefCell::new([None; SLOTS]) };
}

#[derive(Clone, Copy)]
struct Seen {
    header: u128,
    named: Named,
}

/// From a header's bytes to the hash of the credential in it.
#[derive(Debug)]
pub(crate) struct HashMemo {
    key: [u8; 16],
}

impl Default for HashMemo {
    fn default() -> Self {
        let mut key = [0; 16];
        getrandom::fill(&mut key).expect("the operating system has a random number generator");
        Self { key }
    }
}

impl HashMemo {
    /// The credential in this header, if the header has been seen with it.
    pub(crate) fn recall(&self, header: &[u8]) -> Option<Named> {
        let header = self.fingerprint(header);
        let seen = SEEN.with_borrow(|seen| seen[slot(header)])?;
        (seen.header == header).then_some(seen.named)
    }

    /// This header has a known credential with this hash in it.
    pub(crate) fn remember(&self, header: &[u8], named: Named) {
        let header = self.fingerprint(header);
        SEEN.with_borrow_mut(|seen| seen[slot(header)] = Some(Seen { header, named }));
    }

    /// Nobody without the key finds two headers with one fingerprint.
    fn fingerprint(&self, header: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(header);
        hasher.finish128().as_u128()
    }
}

fn slot(header: u128) -> usize {
    (header % SLOTS as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenHash;

    fn token(byte: u8) -> Named {
        Named::Token(TokenHash([byte; 32]))
    }

    #[test]
    fn a_header_recalls_the_token_it_was_seen_with_and_no_other_header_does() {
        let memo = HashMemo::default();
        assert_eq!(memo.recall(b"Bearer a"), None);
        memo.remember(b"Bearer a", token(1));
        assert_eq!(memo.recall(b"Bearer a"), Some(token(1)));
        for other in [&b""[..], b"Bearer", b"bearer a", b"Bearer a ", b"Bearer b"] {
            assert_eq!(memo.recall(other), None);
        }
        // However many come between, none is mistaken for another.
        for number in 0..1000_u32 {
            memo.remember(&number.to_le_bytes(), token(number as u8));
            assert_eq!(
                memo.recall(&number.to_le_bytes()),
                Some(token(number as u8))
            );
        }
        assert!(memo.recall(b"Bearer a").is_none_or(|it| it == token(1)));
    }

    #[test]
    fn what_one_authenticator_saw_another_does_not_know() {
        let (one, other) = (HashMemo::default(), HashMemo::default());
        one.remember(b"Bearer a", token(1));
        assert_eq!(other.recall(b"Bearer a"), None);
    }
}
