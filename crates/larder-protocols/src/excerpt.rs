//! What a client sent, as it may stand in a log line: escaped, and not longer than a line.

use std::fmt::{self, Display, Formatter, Write};

/// The most characters of a client's text in one field of the log.
const EXCERPT_CHARS_MAX: usize = 200;

/// Displays the beginning of a text, escaped; `…` stands for the rest.
pub(crate) struct Excerpt<T>(pub T);

impl<T: Display> Display for Excerpt<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut cut = Cut {
            out: f,
            left: EXCERPT_CHARS_MAX,
        };
        // An error is the sign that the text was cut off.
        match write!(cut, "{}", self.0) {
            Err(_) if cut.left == 0 => f.write_char('…'),
            written => written,
        }
    }
}

struct Cut<'a, 'f> {
    out: &'a mut Formatter<'f>,
    left: usize,
}

impl Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars().flat_map(char::escape_debug) {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.out.write_char(char)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_text_is_escaped_and_cut() {
        assert_eq!(Excerpt("/v1/a\n\u{1b}").to_string(), r"/v1/a\n\u{1b}");
        assert_eq!(Excerpt("x".repeat(200)).to_string(), "x".repeat(200));
        let cut = Excerpt("\n".repeat(10_000)).to_string();
        assert_eq!(cut.chars().count(), 201);
        assert!(cut.ends_with('…'));
    }
}
