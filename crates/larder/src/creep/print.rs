//! A report for people: a table, what speaks against the cache, the verdict.

use std::fmt::Write as _;

use super::report::{Attempt, Outcome, Report, Step, Why};
use crate::config::size_text;
use crate::terminal;

/// How many characters of a digest are shown. All of it is in the JSON.
const DIGEST_CHARACTERS: usize = 12;

/// Why writing cannot fail.
const IN_MEMORY: &str = "a string takes every write";

/// The report as text; with the evidence for every attempt, or only where it speaks against the cache or explains a doubt.
pub(crate) fn text(report: &Report, all_evidence: bool) -> String {
    let rows: Vec<Vec<String>> = report.attempts.iter().map(cells).collect();
    let mut text = format!(
        "{} ({}), checked by {}\n\n",
        report.url, report.protocol, report.checked_by
    );
    if !rows.is_empty() {
        text += &terminal::table(&["RESULT", "ATTEMPT", "WHAT CAME OF IT"], &rows);
        text += "\n\n";
    }
    for attempt in &report.attempts {
        let telling = match attempt.outcome {
            Outcome::Fail(_) | Outcome::Untested(Why::Trouble) => true,
            Outcome::Pass | Outcome::Untested(_) => all_evidence,
        };
        if telling && !attempt.evidence.is_empty() {
            write_evidence(&mut text, attempt);
        }
    }
    let left = &report.left_behind;
    if left.stores > 0 {
        write!(
            text,
            "left behind: {} entries and blobs at most, {}, under random keys and marked `creep-check`\n\n",
            left.stores,
            size_text(left.bytes)
        ).expect(IN_MEMORY);
    }
    let because: String = report.because.chars().map(terminal::escaped).collect();
    write!(text, "{}: {because}.", report.verdict.word()).expect(IN_MEMORY);
    text
}

fn cells(attempt: &Attempt) -> Vec<String> {
    let result = match attempt.outcome {
        Outcome::Pass => "PASS",
        Outcome::Fail(_) => "FAIL",
        Outcome::Untested(_) => "UNTESTED",
    };
    vec![
        result.to_owned(),
        attempt.what.clone(),
        attempt.note.clone(),
    ]
}

fn write_evidence(text: &mut String, attempt: &Attempt) {
    writeln!(text, "{}", attempt.what).expect(IN_MEMORY);
    for step in &attempt.evidence {
        let line = line(step);
        let line: String = line.chars().map(terminal::escaped).collect();
        writeln!(text, "  {line}").expect(IN_MEMORY);
    }
    text.push('\n');
}

fn line(step: &Step) -> String {
    let short = |digest: &String| digest.chars().take(DIGEST_CHARACTERS).collect::<String>();
    let mut line = format!("{}: {}", step.who, step.asked);
    if let Some(sent) = &step.sent_sha256 {
        write!(line, ", sending sha256:{}", short(sent)).expect(IN_MEMORY);
    }
    write!(line, " -> {}", step.answered).expect(IN_MEMORY);
    if let Some(got) = &step.got_sha256 {
        write!(line, ", getting sha256:{}", short(got)).expect(IN_MEMORY);
    }
    if let Some(author) = step.stored_by {
        write!(line, ", stored by {author}").expect(IN_MEMORY);
    }
    line
}
