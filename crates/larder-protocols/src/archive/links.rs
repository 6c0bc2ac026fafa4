//! The symbolic links that an archive has made so far.
//!
//! An entry whose path goes through one of them lands where the link leads, and a link whose target goes through one and then up
//! again leads elsewhere than it says. Of each path only a hash is kept, with a key of this process: who sends an archive
//! cannot make two of them meet, and should they do so by chance, an archive is refused that was in order.
//!
//! Paths are compared as the file systems that differ least between names do it: without regard to case, to blanks and dots at
//! the end, to characters that are not seen. What links and turns there are is ASCII, and all other names are those of no link,
//! or it cannot be told ([`Fault::Ambiguous`]). Short names (`PROGRA~1`) are not known here.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher, RandomState};

use super::Fault;
use crate::paths::{BadTarget, check_target, components, is_parent};

#[derive(Default)]
pub(super) struct Links {
    key: RandomState,
    /// Where they are.
    made: HashSet<u64>,
    /// The paths from which a target goes up again.
    turns: HashSet<u64>,
}

impl Links {
    /// Whether a path is that of a link, or goes through one.
    pub(super) fn lead(&self, path: &[u8]) -> Result<bool, Fault> {
        if self.made.is_empty() {
            return Ok(false);
        }
        let mut hasher = self.key.build_hasher();
        for component in components(path) {
            match fold(component) {
                Folded::Ascii(folded) => add(&mut hasher, &folded),
                Folded::Never => return Ok(false),
                Folded::Unclear => return Err(Fault::Ambiguous),
            }
            if self.made.contains(&hasher.clone().finish()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds the link at `path`, of which there are to be `most`.
    pub(super) fn add(&mut self, path: &[u8], target: &[u8], most: usize) -> Result<(), Fault> {
        check_target(path, target).map_err(|why| match why {
            BadTarget::Empty => Fault::EmptyName,
            BadTarget::Nul => Fault::NulInName,
            BadTarget::Absolute | BadTarget::Outside => Fault::LinkLeavesRoot,
        })?;
        let mut way: Vec<&[u8]> = components(path).collect();
        way.pop();
        let mut named = 0_usize;
        for component in components(target) {
            if !is_parent(component) {
                way.push(component);
                named += 1;
            } else if let Some(left) = named.checked_sub(1) {
                let turn = self.hash(&way)?;
                if self.made.contains(&turn) {
                    return Err(Fault::LinkLeavesRoot);
                }
                self.turns.insert(turn);
                way.pop();
                named = left;
            } else {
                // Up from the link's own directory, which is none: nothing is made through links.
                way.pop();
            }
        }
        let link = self.hash(&components(path).collect::<Vec<_>>())?;
        self.made.insert(link);
        if self.turns.contains(&link) {
            return Err(Fault::LinkLeavesRoot);
        }
        if self.made.len() + self.turns.len() > most {
            return Err(Fault::TooManyLinks);
        }
        Ok(())
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> u64 {
        let places = self.made.capacity() + self.turns.capacity();
        places as u64 * (size_of::<u64>() as u64 + 2)
    }

    fn hash(&self, path: &[&[u8]]) -> Result<u64, Fault> {
        let mut hasher = self.key.build_hasher();
        for component in path {
            if !component.is_ascii() {
                return Err(Fault::Ambiguous);
            }
            match fold(component) {
                Folded::Ascii(folded) => add(&mut hasher, &folded),
                Folded::Never | Folded::Unclear => return Err(Fault::Ambiguous),
            }
        }
        Ok(hasher.finish())
    }
}

fn add(hasher: &mut impl Hasher, folded: &str) {
    hasher.write(folded.as_bytes());
    hasher.write_u8(b'/');
}

/// What a file system may make of a component's name when it looks for it.
enum Folded {
    Ascii(String),
    /// Nothing that is ASCII.
    Never,
    Unclear,
}

fn fold(component: &[u8]) -> Folded {
    let Ok(component) = std::str::from_utf8(component) else {
        return Folded::Unclear;
    };
    if component.chars().any(is_never_ascii) {
        return Folded::Never;
    }
    let mut folded = String::with_capacity(component.len());
    for character in component.chars() {
        match character {
            // What follows on Windows is the name of a stream.
            ':' => break,
            ascii if ascii.is_ascii() => folded.push(ascii.to_ascii_lowercase()),
            'ß' | 'ẞ' => folded.push_str("ss"),
            'ı' => folded.push('i'),
            'ſ' => folded.push('s'),
            '\u{212a}' => folded.push('k'),
            // What HFS+ does not see.
            '\u{200c}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}' => {}
            _ => return Folded::Unclear,
        }
    }
    let visible = folded.trim_end_matches(['.', ' ']).len();
    folded.truncate(visible);
    Folded::Ascii(folded)
}

/// Whether no form of Unicode and no case makes ASCII of the character. Of those that are so only the usual ones are known.
fn is_never_ascii(character: char) -> bool {
    match character {
        // Letters that are written as two, or fold to some.
        'ß' | 'ı' | 'Ĳ' | 'ĳ' | 'ŉ' | 'ſ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | '\u{37e}' => false,
        // Latin with marks, Greek, Cyrillic, Armenian, Hebrew, Arabic.
        'À'..='ɏ' | '\u{370}'..='\u{6ff}'
        // Indic scripts, Thai, and their neighbours.
        | '\u{900}'..='\u{fff}'
        // Kana, Han, Hangul.
        | '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        // Emoji.
        | '\u{1f300}'..='\u{1faff}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 100;

    #[test]
    fn a_path_through_a_link_is_seen_in_any_spelling() {
        let mut links = Links::default();
        assert_eq!(links.lead(b"a/b"), Ok(false));
        links.add(b"./a/Link", b"x", MOST).unwrap();
        for through in [
            "a/Link",
            "a/Link/x",
            "a//link\\x/y",
            "A/LINK",
            "a/lınk. ",
            "a/lin\u{212a}",
        ] {
            assert_eq!(links.lead(through.as_bytes()), Ok(true), "{through}");
        }
        for beside in ["a", "a/linked", "b/link", "Link", "a/b/link", "a/línk"] {
            assert_eq!(links.lead(beside.as_bytes()), Ok(false), "{beside}");
        }
        for unclear in ["a/e\u{301}", "a/ｌｉｎｋ", "a/ﬁ"] {
            assert_eq!(links.lead(unclear.as_bytes()), Err(Fault::Ambiguous));
        }
        let not_ascii = links.add("é".as_bytes(), b"x", MOST);
        assert_eq!(not_ascii, Err(Fault::Ambiguous));
    }

    #[test]
    fn links_that_leave_the_root_together_are_seen_in_either_order() {
        // By its text `out` leads to `p`; through `up` it leads to the directory above the root.
        let (up, out) = ((b"p/q/up", b"../.."), (b"out", b"p/q/up/../.."));
        let mut links = Links::default();
        links.add(up.0, up.1, MOST).unwrap();
        assert_eq!(links.add(out.0, out.1, MOST), Err(Fault::LinkLeavesRoot));
        let mut links = Links::default();
        links.add(out.0, out.1, MOST).unwrap();
        assert_eq!(links.add(up.0, up.1, MOST), Err(Fault::LinkLeavesRoot));
        // Up from a directory is what it says.
        let mut links = Links::default();
        links
            .add(b"bin/tsc", b"../lib/../typescript/tsc", MOST)
            .unwrap();
        links.add(b"bin/other", b"../typescript/tsc", MOST).unwrap();
    }

    #[test]
    fn links_are_counted() {
        let mut links = Links::default();
        links.add(b"a", b"x", 1).unwrap();
        assert_eq!(links.add(b"b", b"x", 1), Err(Fault::TooManyLinks));
    }
}
