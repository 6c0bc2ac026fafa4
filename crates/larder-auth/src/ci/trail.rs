//! What was looked at on the way to a decision, a line each, for people.
//!
//! A claim's value is shown in quotation marks, shortened, and without characters that a terminal
//! obeys: branches are named by whoever opens pull requests.

use crate::claims::Claims;

use super::provenance::is_obeyed;
use super::rule::ExactClaims;

/// The most characters of a claim's value in a line.
const SHOWN_CHARACTERS_MAX: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct Trail(Vec<String>);

impl Trail {
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.0
    }

    /// Notes what the claim is.
    pub(crate) fn found(&mut self, claim: &str, claims: &Claims) {
        self.note(format!("{claim} is {}", value(claims, claim)));
    }

    /// Whether the claim is this text, and no other type.
    pub(crate) fn is(&mut self, claims: &Claims, claim: &str, expected: &str) -> bool {
        let is = claims.text(claim) == Some(expected);
        self.compared(is, claims, claim, &quoted(expected));
        is
    }

    /// Whether the claim is this truth value, and no text.
    pub(crate) fn is_truth(&mut self, claims: &Claims, claim: &str, expected: bool) -> bool {
        let is = claims.truth(claim) == Some(expected);
        self.compared(is, claims, claim, if expected { "true" } else { "false" });
        is
    }

    /// Whether all hold.
    pub(crate) fn all(&mut self, claims: &Claims, expected: &ExactClaims) -> bool {
        let mut all = !expected.is_vacuous();
        for (claim, values) in expected.iter() {
            let is = expected.holds(claim, claims);
            let words: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            self.compared(is, claims, claim, &words.join(" or "));
            all &= is;
        }
        all
    }

    /// Notes a condition for `trusted` that holds or not.
    pub(crate) fn condition(&mut self, holds: bool, met: &str, unmet: &str) -> bool {
        self.note(if holds { met } else { unmet });
        holds
    }

    /// Notes that the repository has another name than the rule knows: allowed, because ids decide.
    pub(crate) fn renamed(&mut self, claims: &Claims, claim: &str, expected: Option<&str>) {
        if let Some(expected) = expected
            && claims.text(claim) != Some(expected)
        {
            self.note(format!(
                "{claim} is {}, and {} in the rule: it was renamed; the id decides",
                value(claims, claim),
                quoted(expected)
            ));
        }
    }

    fn compared(&mut self, is: bool, claims: &Claims, claim: &str, expected: &str) {
        let found = value(claims, claim);
        self.note(if is {
            format!("{claim} is {found}, as it has to be")
        } else {
            format!("{claim} is {found}, and has to be {expected}")
        });
    }
}

fn value(claims: &Claims, claim: &str) -> String {
    match claims.get(claim) {
        None => "absent".to_owned(),
        Some(serde_json::Value::String(text)) => quoted(text),
        Some(other) => shortened(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

pub(crate) fn shortened(text: &str) -> String {
    let mut characters = text.chars().filter(|&c| !is_obeyed(c));
    let mut shown: String = characters.by_ref().take(SHOWN_CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, look: impl FnOnce(&mut Trail, &Claims) -> bool, expected: (bool, &str)) {
        let claims = Claims::parse(json.as_bytes()).unwrap();
        let mut trail = Trail::default();
        let held = look(&mut trail, &claims);
        assert_eq!((held, trail.into_lines().join("\n").as_str()), expected);
    }

    #[test]
    fn a_claim_is_what_it_has_to_be_or_the_line_says_what_it_is() {
        let is = |trail: &mut Trail, claims: &Claims| trail.is(claims, "a", "x");
        check(r#"{"a":"x"}"#, is, (true, "a is \"x\", as it has to be"));
        check(
            r#"{"a":"X"}"#,
            is,
            (false, "a is \"X\", and has to be \"x\""),
        );
        check(r"{}", is, (false, "a is absent, and has to be \"x\""));
        check(
            r#"{"a":["x"]}"#,
            is,
            (false, "a is [\"x\"], and has to be \"x\""),
        );
        let truth = |trail: &mut Trail, claims: &Claims| trail.is_truth(claims, "a", false);
        check(
            r#"{"a":false}"#,
            truth,
            (true, "a is false, as it has to be"),
        );
        check(
            r#"{"a":"false"}"#,
            truth,
            (false, "a is \"false\", and has to be false"),
        );
        check(
            r#"{"a":null}"#,
            truth,
            (false, "a is null, and has to be false"),
        );
    }

    #[test]
    fn a_value_cannot_fill_or_command_a_terminal() {
        let found = |trail: &mut Trail, claims: &Claims| {
            trail.found("a", claims);
            true
        };
        check(r#"{"a":"x\u001b[2J\ny"}"#, found, (true, "a is \"x[2Jy\""));
        let long = format!(r#"{{"a":"{}"}}"#, "é".repeat(101));
        check(
            &long,
            found,
            (true, &format!("a is \"{}…\"", "é".repeat(100))),
        );
        let full = format!(r#"{{"a":"{}"}}"#, "é".repeat(100));
        check(
            &full,
            found,
            (true, &format!("a is \"{}\"", "é".repeat(100))),
        );
    }

    #[test]
    fn nothing_to_compare_never_holds() {
        check(
            "{}",
            |trail, claims| trail.all(claims, &ExactClaims::default()),
            (false, ""),
        );
    }
}
