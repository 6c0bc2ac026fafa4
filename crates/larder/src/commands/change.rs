//! What purge, quarantine and release have in common: show what it is about, ask, do it.

use std::fmt::Write as _;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use larder_protocols::control::{ChangeResponse, SelectionRequest};

use super::control::Control;
use super::{lines, selection};
use crate::cli::ChangeArgs;
use crate::config::size_text;
use crate::{clock, terminal};

/// Rows of a table that are shown; `--json` has all.
const SHOWN_ROWS_MAX: usize = 50;

/// A change, and how people talk about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// Its operation of the control API.
    pub(super) operation: &'static str,
    /// While it goes on: `removing`.
    pub(super) doing: &'static str,
    /// What it would do: `would remove`.
    pub(super) would: &'static str,
    /// Once it is done: `removed`.
    pub(super) done: &'static str,
    /// The question up to the amount: `Remove`.
    pub(super) question: &'static str,
    /// The rest of it: ` for good?`.
    pub(super) question_end: &'static str,
}

pub(super) const PURGE: Change = Change {
    operation: "purge",
    doing: "removing",
    would: "would remove",
    done: "removed",
    question: "Remove",
    question_end: " for good?",
};

pub(super) const QUARANTINE: Change = Change {
    operation: "quarantine",
    doing: "putting into quarantine",
    would: "would put into quarantine:",
    done: "put into quarantine:",
    question: "Put",
    question_end: " into quarantine?",
};

pub(super) const RELEASE: Change = Change {
    operation: "release",
    doing: "releasing",
    would: "would release",
    done: "released",
    question: "Release",
    question_end: "?",
};

/// Does what was typed. `narrow` adds what the command says besides.
pub(super) async fn run(
    change: Change,
    args: &ChangeArgs,
    narrow: impl FnOnce(&mut SelectionRequest),
) -> anyhow::Result<()> {
    let mut request = selection::request_of_some(&args.selection, args.all, clock::now_ms())?;
    narrow(&mut request);
    let mut control = Control::reach(&args.place).await?;
    let outcome = show_ask_do(&mut control, change, args, request).await;
    control.close().await;
    outcome
}

async fn show_ask_do(
    control: &mut Control,
    change: Change,
    args: &ChangeArgs,
    mut request: SelectionRequest,
) -> anyhow::Result<()> {
    let unreached = control.unreached(request.workspace.as_deref()).await?;
    request.dry_run = true;
    if args.dry_run || !args.yes {
        let would = ask(control, change, &request).await?;
        if args.dry_run {
            report(change.would, &would, args.json)?;
            return all_reached(&unreached);
        }
        terminal::note(&rows(&would));
        if !agreed(change, &would)? {
            terminal::note("nothing was changed");
            return Ok(());
        }
    }
    request.dry_run = false;
    let done = ask(control, change, &request).await?;
    report(change.done, &done, args.json)?;
    all_reached(&unreached)
}

/// Asks for the change, and shows how far it is.
pub(super) async fn ask(
    control: &mut Control,
    change: Change,
    request: &SelectionRequest,
) -> anyhow::Result<ChangeResponse> {
    let message = serde_json::to_vec(&SelectionRequest {
        progress: true,
        ..request.clone()
    })?;
    let answer = control
        .call(Method::POST, change.operation, Bytes::from(message))
        .await?;
    let doing = if request.dry_run {
        "looking"
    } else {
        change.doing
    };
    lines::result(doing, answer).await
}

/// Whether the operator wants it.
pub(super) fn agreed(change: Change, would: &ChangeResponse) -> anyhow::Result<bool> {
    let amount = amount(would);
    let Change {
        question,
        question_end,
        would,
        ..
    } = change;
    terminal::confirm(&format!("{question} {amount}{question_end}"))
        .with_context(|| format!("this {would} {amount}; pass --yes to do it"))
}

/// What is out of reach may have what was meant.
pub(super) fn all_reached(unreached: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        unreached.is_empty(),
        "not reached: {}, which the server's configuration does not mention; stop the server and do \
         this again, or remove the pool's directory",
        unreached.join(", ")
    );
    Ok(())
}

fn report(verb: &str, changed: &ChangeResponse, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(terminal::print(&serde_json::to_string_pretty(changed)?)?);
    }
    if changed.dry_run {
        terminal::note(&rows(changed));
    }
    terminal::print(&format!("{verb} {}", amount(changed)))?;
    if changed.refused > 0 {
        let refused = changed.refused;
        terminal::note(&format!(
            "{refused} stay in quarantine: a new entry has their place; `larder entry show` tells whose"
        ));
    }
    Ok(())
}

/// How many entries, and how large.
pub(super) fn amount(changed: &ChangeResponse) -> String {
    let noun = if changed.entries == 1 {
        "entry"
    } else {
        "entries"
    };
    format!("{} {noun}, {}", changed.entries, size_text(changed.bytes))
}

fn rows(changed: &ChangeResponse) -> String {
    let cells: Vec<Vec<String>> = changed
        .rows
        .iter()
        .take(SHOWN_ROWS_MAX)
        .map(|row| {
            vec![
                row.workspace.clone(),
                row.scope.clone(),
                row.entries.to_string(),
                size_text(row.bytes),
                selection::who(row.writer, &changed.writers),
            ]
        })
        .collect();
    let header = ["WORKSPACE", "SCOPE", "ENTRIES", "BYTES", "WRITTEN BY"];
    let mut text = terminal::table(&header, &cells);
    let shown = changed.rows.iter().take(SHOWN_ROWS_MAX);
    let shown: u64 = shown.map(|row| row.entries).sum();
    let all: u64 = changed.rows.iter().map(|row| row.entries).sum();
    let beyond = all - shown + changed.entries_beyond_rows;
    if beyond > 0 {
        let _ = write!(
            text,
            "\nand {beyond} entries in more rows (--json has them)"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of(line: &str) -> anyhow::Result<SelectionRequest> {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Purge(args) => {
                selection::request_of_some(&args.change.selection, args.change.all, 10_000_000)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_changed_by_saying_nothing() {
        assert!(of("larder purge --yes").is_err());
        assert!(of("larder purge --dry-run").is_err());
        assert!(of("larder purge --all").unwrap().everything);
    }

    #[test]
    fn every_flag_narrows_the_request() {
        let line = "larder purge --workspace acme --scope pr/7 --dialect nx --key k --writer 3 --token 4 \
            --run 4711 --commit c0ffee --repository acme/web --repository-id 9 --ref refs/heads/main \
            --workflow ci.yml --event push --actor eve --issuer https://issuer.example --rule web \
            --since 2h --older-than 1h";
        let line: Vec<&str> = line.split_whitespace().collect();
        let text = |text: &str| Some(text.to_owned());
        let expected = SelectionRequest {
            workspace: text("acme"),
            scope: text("pr/7"),
            dialect: text("nx"),
            key: text("k"),
            instance: None,
            writer: Some(3),
            token: Some(4),
            issuer: text("https://issuer.example"),
            rule: text("web"),
            repository: text("acme/web"),
            repository_id: text("9"),
            git_ref: text("refs/heads/main"),
            commit: text("c0ffee"),
            event: text("push"),
            workflow: text("ci.yml"),
            run: text("4711"),
            actor: text("eve"),
            written_before_ms: Some(10_000_000 - 3_600_000),
            written_after_ms: Some(10_000_000 - 7_200_000),
            state: None,
            everything: false,
            dry_run: false,
            progress: false,
        };
        assert_eq!(of(&line.join(" ")).unwrap(), expected);
    }
}
