//! `larder verify`: reads every entry again, with a progress bar on a terminal.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use larder_protocols::control::VerifyLine;

use super::control::{AnswerBody, Control};
use crate::cli::VerifyArgs;
use crate::config::size_text;
use crate::terminal;

/// The most bytes of one line of progress.
const LINE_BYTES_MAX: usize = 64 << 10;

pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let mut control = Control::reach(&args.place).await?;
    let outcome = verify(&mut control).await;
    control.close().await;
    let (entries, bytes, corrupt) = outcome?;
    terminal::print(&format!("verified {entries} entries, {}", size_text(bytes)))?;
    if corrupt > 0 {
        anyhow::bail!(
            "{corrupt} entries were damaged; they are misses now and will be built again"
        );
    }
    Ok(())
}

async fn verify(control: &mut Control) -> anyhow::Result<(u64, u64, u64)> {
    let answer = control.call(Method::POST, "verify", Bytes::new()).await?;
    let mut lines = Lines {
        body: answer.into_body(),
        rest: BytesMut::new(),
    };
    let bar = progress_bar();
    while let Some(line) = lines.next().await? {
        match serde_json::from_slice(&line).context("the answer is not understood")? {
            VerifyLine::Progress {
                done_entries,
                total_entries,
            } => {
                bar.set_length(total_entries);
                bar.set_position(done_entries);
            }
            VerifyLine::Result {
                entries,
                bytes,
                corrupt,
            } => {
                bar.finish_and_clear();
                return Ok((entries, bytes, corrupt));
            }
            VerifyLine::Error { error } => anyhow::bail!("{error}"),
        }
    }
    anyhow::bail!("the server broke off")
}

fn progress_bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(
        "verifying {bar:40} {human_pos}/{human_len} entries, {eta} left",
    );
    ProgressBar::with_draw_target(None, target)
        .with_style(style.expect("the template is a constant that a test has read"))
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
                self.rest.len() <= LINE_BYTES_MAX,
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
        progress_bar().set_position(1);
    }
}
