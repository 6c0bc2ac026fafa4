//! Answers that report while the work goes on, shown as a progress bar on a terminal.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use larder_protocols::control::Line;
use serde::de::DeserializeOwned;

use super::control::{ANSWER_BYTES_MAX, AnswerBody};

/// The result at the end of an answer's lines. `verb` says what is going on meanwhile.
pub(super) async fn result<T: DeserializeOwned>(
    verb: &'static str,
    answer: Response<AnswerBody>,
) -> anyhow::Result<T> {
    let mut lines = Lines {
        body: answer.into_body(),
        rest: BytesMut::new(),
    };
    let bar = progress_bar(verb);
    while let Some(line) = lines.next().await? {
        match serde_json::from_slice(&line).context("the answer is not understood")? {
            Line::Progress {
                done_entries,
                total_entries,
            } => {
                bar.set_length(total_entries);
                bar.set_position(done_entries);
            }
            Line::Result(result) => {
                bar.finish_and_clear();
                // The connection takes the next request once this answer has been read to its end.
                while lines.next().await?.is_some() {}
                return Ok(result);
            }
            Line::Error { error } => anyhow::bail!("{error}"),
        }
    }
    anyhow::bail!("the server broke off")
}

fn progress_bar(verb: &'static str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style =
        ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} entries, {eta} left");
    ProgressBar::with_draw_target(None, target)
        .with_style(style.expect("the template is a constant that a test has read"))
        .with_message(verb)
}

/// A body cut into lines.
struct Lines {
    body: AnswerBody,
    rest: BytesMut,
}

impl Lines {
    /// The next line without its end; what follows the last line end is a line as well.
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            anyhow::ensure!(
                self.rest.len() <= ANSWER_BYTES_MAX,
                "the answer is not understood"
            );
            let Some(frame) = self.body.frame().await else {
                let last = std::mem::take(&mut self.rest).freeze();
                return Ok((!last.is_empty()).then_some(last));
            };
            let frame = frame.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
            if let Ok(bytes) = frame.into_data() {
                self.rest.extend_from_slice(&bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_line_ends_whatever_the_pieces_are() {
        let whole = Full::new(Bytes::from_static(b"one\n\ntwo")).map_err(|never| match never {});
        let mut lines = Lines {
            body: whole.boxed_unsync(),
            rest: BytesMut::from(&b"zero\n"[..]),
        };
        let mut cut = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            cut.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(cut, ["zero", "one", "", "two"]);
    }

    #[test]
    fn the_progress_bar_can_be_drawn() {
        progress_bar("counting").set_position(1);
    }
}
