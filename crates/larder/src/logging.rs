//! Log lines on standard error: for people on a terminal, JSON elsewhere.
//!
//! Always true: what a client sent reaches the log with its control characters escaped, in both
//! formats, so that no request can forge a line or move a terminal's cursor. Nothing logs a token;
//! should a client put one where something else belongs, it is cut out of the line.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

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

/// What every token begins with.
const TOKEN_PREFIX: &str = "lrd_";

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

/// Starts logging. Call once.
pub(crate) fn start(format: LogFormat, level: Level) -> LevelSwitch {
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let colour = human && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(if human {
            Lines::Human { colour }
        } else {
            Lines::Json
        });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    LevelSwitch(handle)
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
        let level = *event.metadata().level();
        let time = clock::utc_text(clock::now_ms());
        let mut fields = Fields::default();
        event.record(&mut fields);
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
                fields.write_human(&mut writer)
            }
            Self::Human { colour: false } => {
                write!(writer, "{time} {level:<5}")?;
                fields.write_human(&mut writer)
            }
            Self::Json => fields.write_json(&mut writer, &time, level),
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
    fn write_human(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut line = format!(" {}", self.message);
        for (name, value) in &self.named {
            match value {
                Value::String(text) => write!(line, " {name}={text}")?,
                other => write!(line, " {name}={other}")?,
            }
        }
        let line: String = line.chars().map(escaped).collect();
        writeln!(writer, "{}", without_tokens(&line))
    }

    fn write_json(&self, writer: &mut Writer<'_>, time: &str, level: Level) -> fmt::Result {
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
        for c in without_tokens(&Value::Object(line).to_string()).chars() {
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
            ("message", Value::String(text)) => self.message = text,
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

/// The line with everything that may be a token cut down to its prefix.
fn without_tokens(line: &str) -> String {
    let mut parts = line.split(TOKEN_PREFIX);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(TOKEN_PREFIX);
        let rest = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        if rest.len() < part.len() {
            clean.push('…');
        }
        clean.push_str(rest);
    }
    clean
}

fn escaped(c: char) -> String {
    if c.is_control() {
        c.escape_default().to_string()
    } else {
        c.to_string()
    }
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
    }
}
