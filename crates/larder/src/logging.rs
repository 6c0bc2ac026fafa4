//! Log lines on standard error: for people on a terminal, JSON elsewhere.
//!
//! Always true: what a client sent reaches the log with its control characters escaped, in both
//! formats, so that no request can forge a line or move a terminal's cursor. Nothing logs a token;
//! should a client put one where something else belongs, it is cut out of the line. A field is cut
//! to a length that no client decides, and a message is never a client's.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use anyhow::Context as _;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::clock;
use crate::config::LogFormat;
use crate::log_queue::LogQueue;
use crate::terminal::escaped;

/// What every token begins with.
const TOKEN_PREFIX: &str = "lrd_";
/// What every JWT begins with: `{"` in base64.
const JWT_PREFIX: &str = "eyJ";
/// So many letters and digits in a row may be a token, or most of one, without its prefix.
const TOKEN_RUN_CHARS_MIN: usize = 43;
/// The longest text of a field. What is longer keeps its beginning and its end.
const FIELD_CHARS_MAX: usize = 200;
const FIELD_END_CHARS: usize = 50;

/// Changes the level of a running program.
#[derive(Clone)]
pub(crate) struct LevelSwitch(reload::Handle<LevelFilter, Registry>);

impl LevelSwitch {
    /// From now on logs lines of `level` and more important ones.
    pub(crate) fn set(&self, level: Level) {
        if let Err(error) = self
            .0
            .modify(|filter| *filter = LevelFilter::from_level(level))
        {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

/// Starts logging. Call once, and [`crate::log_queue::flush`] at the end.
pub(crate) fn start(format: LogFormat, level: Level) -> anyhow::Result<LevelSwitch> {
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let colour = human && std::io::stderr().is_terminal();
    let queue = LogQueue::to_standard_error(if human {
        |count| dropped_text(count, &Lines::Human { colour: false })
    } else {
        |count| dropped_text(count, &Lines::Json)
    });
    let queue = queue.context("cannot start a thread")?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || queue.clone())
        .event_format(if human {
            Lines::Human { colour }
        } else {
            Lines::Json
        });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    Ok(LevelSwitch(handle))
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The line that stands for `count` lines.
fn dropped_text(count: u64, lines: &Lines) -> String {
    let fields = Fields {
        message: "log lines were dropped because standard error was not read in time".to_owned(),
        named: vec![("lines", count.into())],
    };
    let mut line = String::new();
    // A string takes every write.
    let _ = lines.write(&mut line, Level::WARN, &fields);
    line
}

/// How an event becomes a line.
enum Lines {
    /// `2026-11-21T12:30:01Z WARN  message key=value`.
    Human { colour: bool },
    /// `{"time": …, "level": …, "message": …, "key": "value"}`.
    Json,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.write(&mut writer, *event.metadata().level(), &fields)
    }
}

impl Lines {
    fn write(&self, writer: &mut dyn fmt::Write, level: Level, fields: &Fields) -> fmt::Result {
        let time = clock::utc_text(clock::now_ms());
        match self {
            Self::Human { colour: true } => {
                let colour = match level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    Level::INFO => 32,
                    Level::DEBUG | Level::TRACE => 2,
                };
                write!(
                    writer,
                    "\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:<5}\x1b[0m"
                )?;
                fields.write_human(writer)
            }
            Self::Human { colour: false } => {
                write!(writer, "{time} {level:<5}")?;
                fields.write_human(writer)
            }
            Self::Json => fields.write_json(writer, &time, level),
        }
    }
}

/// What an event says: its message and its fields, in order.
#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(&'static str, Value)>,
}

impl Fields {
    fn write_human(&self, writer: &mut dyn fmt::Write) -> fmt::Result {
        let mut line = format!(" {}", self.message);
        for (name, value) in &self.named {
            match value {
                Value::String(text) => write!(line, " {name}={text}")?,
                other => write!(line, " {name}={other}")?,
            }
        }
        let line: String = line.chars().map(escaped).collect();
        writeln!(writer, "{line}")
    }

    fn write_json(&self, writer: &mut dyn fmt::Write, time: &str, level: Level) -> fmt::Result {
        let head = json!({ "time": time, "level": level.as_str(), "message": self.message });
        let Value::Object(mut line) = head else {
            return Err(fmt::Error);
        };
        line.extend(
            self.named
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        // JSON leaves DEL and the C1 controls as they are, which some terminals obey.
        for c in Value::Object(line).to_string().chars() {
            if c.is_control() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            } else {
                writer.write_char(c)?;
            }
        }
        writeln!(writer)
    }

    fn take(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = without_tokens(&text),
            (name, Value::String(text)) => {
                // In this order: a token that is cut in two looks like none.
                let text = shortened(&without_tokens(&text));
                self.named.push((name, text.into()));
            }
            (name, value) => self.named.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
}

/// The text without what may be a token: what follows a token's prefix, JWTs, and every long run of
/// letters and digits, percent-encoded or not, that is no hexadecimal number.
fn without_tokens(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (run_bytes, run) = leading_run(rest, "");
        if run.starts_with(JWT_PREFIX) {
            let (jwt_bytes, jwt) = leading_run(rest, "-_.");
            if jwt.matches('.').count() >= 2 {
                clean.push_str(JWT_PREFIX);
                clean.push('…');
                rest = &rest[jwt_bytes..];
                continue;
            }
        }
        if run_bytes == 0 {
            let taken = percent_decoded(rest).map_or(next.len_utf8(), |_| 3);
            clean.push_str(&rest[..taken]);
            rest = &rest[taken..];
            continue;
        }
        let prefixed = clean.ends_with(TOKEN_PREFIX);
        if prefixed || (run.len() >= TOKEN_RUN_CHARS_MIN && !is_hexadecimal(&run)) {
            clean.push('…');
        } else {
            clean.push_str(&rest[..run_bytes]);
        }
        rest = &rest[run_bytes..];
    }
    clean
}

/// The letters and digits, and `others`, that `text` begins with, decoded, and how many bytes of it they are.
fn leading_run(text: &str, others: &str) -> (usize, String) {
    let bytes = text.as_bytes();
    let (mut at, mut run) = (0, String::new());
    while at < bytes.len() {
        let decoded = text.get(at..).and_then(percent_decoded);
        let byte = decoded.unwrap_or(bytes[at]);
        if !byte.is_ascii_alphanumeric() && !others.as_bytes().contains(&byte) {
            break;
        }
        run.push(char::from(byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    (at, run)
}

/// The byte that `%XX` at the beginning of `text` stands for.
fn percent_decoded(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// Keys are often hashes, written so; a token is so about never.
fn is_hexadecimal(run: &str) -> bool {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    run.bytes().all(lower) || run.bytes().all(upper)
}

fn shortened(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= FIELD_CHARS_MAX {
        return text.to_owned();
    }
    let start: String = text
        .chars()
        .take(FIELD_CHARS_MAX - FIELD_END_CHARS)
        .collect();
    let end: String = text.chars().skip(chars - FIELD_END_CHARS).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const HOSTILE: &str = "a\nFAKE line\u{1b}[2J\u{9b}31m\r\u{7f}";

    fn check(lines: Lines) {
        let written = Kept::default();
        let sink = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || sink.clone())
            .event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(path = %HOSTILE, note = HOSTILE, count = 7, "asked for {HOSTILE}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line = text.strip_suffix('\n').expect("a line has an end");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(
            line.matches("FAKE line").count() == 3 && line.contains('7'),
            "{line:?}"
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_for_people() {
        check(Lines::Human { colour: false });
    }

    #[test]
    fn a_client_cannot_forge_a_line_of_json() {
        check(Lines::Json);
    }

    #[test]
    fn a_token_that_a_client_put_in_the_wrong_place_is_cut_out() {
        let line = "key=lrd_0AbC9 and \"lrd_x\" but lrd_ alone";
        assert_eq!(
            without_tokens(line),
            "key=lrd_… and \"lrd_…\" but lrd_ alone"
        );
        let run = "aB3".repeat(15);
        let hex: Vec<String> = run.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let encoded = hex.concat();
        for (text, clean) in [
            (format!("/v1/cache/lrd%5F{run}?x"), "/v1/cache/lrd%5F…?x"),
            (format!("{run}/é"), "…/é"),
            (encoded, "…"),
            (
                "?token=eyJhbGci.eyJpc3Mi.a-b_c&x".to_owned(),
                "?token=eyJ…&x",
            ),
            ("eyJhbGci%2EeyJpc3Mi%2ea%2Db/x".to_owned(), "eyJ…/x"),
            (
                "eyJ.x and eyJhbGci/x.y.z".to_owned(),
                "eyJ.x and eyJhbGci/x.y.z",
            ),
            (
                "12345678901234567890 a%zz%".to_owned(),
                "12345678901234567890 a%zz%",
            ),
        ] {
            assert_eq!(without_tokens(&text), clean);
        }
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(without_tokens(&hash), hash, "a key that is a hash stays");
    }

    #[test]
    fn a_client_does_not_decide_how_long_a_line_is() {
        let mut fields = Fields::default();
        let long = format!("begin{}end", " é".repeat(5000));
        fields.named.push(("key", shortened(&long).into()));
        let mut line = String::new();
        Lines::Json.write(&mut line, Level::INFO, &fields).unwrap();
        assert!(line.len() < 1000, "{}", line.len());
        assert!(line.contains("begin") && line.contains("end\""), "{line}");
    }
}
