//! What is remembered of a CI job beside its entries, so that they can be found and removed by it.
//!
//! Nothing here decides. The values are the issuer's, but people choose some of them (a branch, an
//! actor's name), and they end in terminals and logs: each field is bounded and harmless to show.

use crate::claims::Claims;

use super::rule::word;

/// The most bytes of each field: a ref has at most 255, and a workflow's name contains one.
const FIELD_BYTES_MAX: usize = 512;

/// Where an entry comes from, as the issuer told. Each field is for people and for exact searches: at most 512 bytes,
/// without characters that a terminal obeys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// The issuer of the token.
    pub issuer: Option<String>,
    /// The name of the rule that fitted.
    pub rule: Option<String>,
    /// The repository's immutable id; for Buildkite and CircleCI the pipeline's or project's.
    pub repository_id: Option<String>,
    /// The repository's name at the time.
    pub repository: Option<String>,
    /// The git ref.
    pub git_ref: Option<String>,
    /// The commit.
    pub commit_sha: Option<String>,
    /// What started the run, in the CI system's own word.
    pub event: Option<String>,
    /// The workflow or pipeline.
    pub workflow: Option<String>,
    /// The run's id.
    pub run_id: Option<String>,
    /// Which attempt of the run it is.
    pub run_attempt: Option<String>,
    /// The job's id.
    pub job: Option<String>,
    /// Who started the run.
    pub actor: Option<String>,
    /// `sub`: noted, never read.
    pub subject: Option<String>,
    /// The deployment environment.
    pub environment: Option<String>,
}

/// The claim's value as a field.
pub(crate) fn field(claims: &Claims, claim: &str) -> Option<String> {
    clean(&word(claims, claim)?)
}

/// The text as a field; none if nothing is left.
pub(crate) fn clean(text: &str) -> Option<String> {
    let mut kept = String::new();
    for c in text.chars().filter(|&c| !is_obeyed(c)) {
        if kept.len() + c.len_utf8() > FIELD_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    (!kept.is_empty()).then_some(kept)
}

/// Characters that change how what is around them is shown: controls, line separators, marks of direction.
pub(crate) fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_short_and_has_nothing_that_a_terminal_obeys() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(clean(text).as_deref(), expected);
        check("refs/heads/größe", Some("refs/heads/größe"));
        check("a\u{1b}[31mb\n\u{7f}\u{202e}c\u{feff}", Some("a[31mbc"));
        check("", None);
        check("\n\u{200b}", None);
        check(&"x".repeat(513), Some(&"x".repeat(512)));
        check(&format!("{}é", "x".repeat(511)), Some(&"x".repeat(511)));
    }
}
