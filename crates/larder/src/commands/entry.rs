//! `larder entry`: where an entry is, who wrote it, and its bytes.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use larder_protocols::control::{
    EntriesResponse, EntryFigures, EntryState, ExportRequest, SelectionRequest, WriterFigures,
};

use super::control::Control;
use super::{lines, selection};
use crate::cli::{EntryArgs, EntryCommand, PlaceArgs};
use crate::config::size_text;
use crate::{clock, terminal};

pub(super) async fn run(command: EntryCommand) -> anyhow::Result<()> {
    match command {
        EntryCommand::Show { name, json } => show(&name, json).await,
        EntryCommand::Get {
            name,
            output,
            sequence,
        } => get(&name, &output, sequence).await,
    }
}

/// Prints entries as a table.
pub(super) async fn list(
    place: &PlaceArgs,
    request: &SelectionRequest,
    json: bool,
) -> anyhow::Result<()> {
    let mut control = Control::reach(place).await?;
    let found = find(&mut control, request).await;
    control.close().await;
    let found = found?;
    if json {
        return Ok(terminal::print(&serde_json::to_string_pretty(&found)?)?);
    }
    terminal::print(&table(&found))?;
    if found.entries_beyond > 0 {
        terminal::note(&format!("and {} more", found.entries_beyond));
    }
    Ok(())
}

async fn show(name: &EntryArgs, json: bool) -> anyhow::Result<()> {
    let mut control = Control::reach(&name.place).await?;
    let found = find(&mut control, &request(name)).await;
    control.close().await;
    let found = found?;
    if json {
        return Ok(terminal::print(&serde_json::to_string_pretty(&found)?)?);
    }
    ensure!(!found.entries.is_empty(), "there is no such entry");
    let each = found.entries.iter();
    let blocks: Vec<String> = each
        .map(|entry| description(entry, &found.writers))
        .collect();
    Ok(terminal::print(&blocks.join("\n\n"))?)
}

async fn get(name: &EntryArgs, output: &Path, sequence: Option<u64>) -> anyhow::Result<()> {
    let mut control = Control::reach(&name.place).await?;
    let outcome = export(&mut control, name, output, sequence).await;
    control.close().await;
    outcome
}

async fn find(
    control: &mut Control,
    request: &SelectionRequest,
) -> anyhow::Result<EntriesResponse> {
    let message = serde_json::to_vec(&SelectionRequest {
        progress: true,
        ..request.clone()
    })?;
    let answer = control
        .call(Method::POST, "entries", Bytes::from(message))
        .await?;
    lines::result("looking", answer).await
}

fn request(name: &EntryArgs) -> SelectionRequest {
    SelectionRequest {
        workspace: name.workspace.as_ref().map(ToString::to_string),
        scope: name.scope.as_ref().map(ToString::to_string),
        dialect: name.dialect.map(|dialect| dialect.name().to_owned()),
        key: Some(name.key.clone()),
        instance: name.instance.clone(),
        ..SelectionRequest::default()
    }
}

async fn export(
    control: &mut Control,
    name: &EntryArgs,
    output: &Path,
    sequence: Option<u64>,
) -> anyhow::Result<()> {
    let found = find(control, &request(name)).await?;
    let matching = |entry: &&EntryFigures| sequence.is_none_or(|wanted| wanted == entry.sequence);
    let candidates: Vec<&EntryFigures> = found.entries.iter().filter(matching).collect();
    let entry = match candidates[..] {
        [entry] => entry,
        [] => bail!("there is no such entry"),
        _ => bail!(
            "there are several; say which by --workspace, --scope, --dialect or --sequence:\n{}",
            table(&found)
        ),
    };
    let message = serde_json::to_vec(&ExportRequest {
        workspace: entry.workspace.clone(),
        scope: entry.scope.clone(),
        dialect: entry.dialect.clone(),
        key_bytes: entry.key_bytes.clone(),
        sequence: (entry.state == EntryState::Quarantined).then_some(entry.sequence),
    })?;
    let answer = control
        .call(Method::POST, "export", Bytes::from(message))
        .await?;
    let compressed = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|of| of == "application/zstd");
    let mut file =
        File::create_new(output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut body = answer.into_body();
    let mut written = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        if let Ok(bytes) = frame.into_data() {
            file.write_all(&bytes)?;
            written += bytes.len() as u64;
        }
    }
    file.sync_all()?;
    ensure!(
        written == entry.bytes,
        "only {written} of {} bytes could be read",
        entry.bytes
    );
    let form = if compressed {
        ", zstd frames as they were sent"
    } else {
        ""
    };
    terminal::note(&format!(
        "wrote {} to {}{form}; do not unpack or run it on a machine that matters",
        size_text(written),
        output.display()
    ));
    Ok(())
}

fn table(found: &EntriesResponse) -> String {
    let cells: Vec<Vec<String>> = found
        .entries
        .iter()
        .map(|entry| {
            vec![
                entry.workspace.clone(),
                entry.scope.clone(),
                entry.dialect.clone(),
                entry.key.clone(),
                entry.state.name().to_owned(),
                entry.sequence.to_string(),
                size_text(entry.bytes),
                clock::utc_text(entry.written_at_ms),
                selection::who(entry.writer, &found.writers),
            ]
        })
        .collect();
    let header = [
        "WORKSPACE",
        "SCOPE",
        "DIALECT",
        "KEY",
        "STATE",
        "SEQUENCE",
        "BYTES",
        "WRITTEN",
        "WRITTEN BY",
    ];
    terminal::table(&header, &cells)
}

/// All that is known of an entry, a line for each.
fn description(entry: &EntryFigures, writers: &[WriterFigures]) -> String {
    let mut lines = vec![
        ("workspace", Some(entry.workspace.clone())),
        ("scope", Some(entry.scope.clone())),
        ("dialect", Some(entry.dialect.clone())),
        ("key", Some(entry.key.clone())),
        ("digest function", entry.digest_function.clone()),
        ("instance name", entry.instance.clone()),
        ("state", Some(entry.state.name().to_owned())),
        ("sequence", Some(entry.sequence.to_string())),
        ("size", Some(size_text(entry.bytes))),
        ("written", Some(clock::utc_text(entry.written_at_ms))),
        ("from", entry.address.clone()),
        ("writer", Some(selection::who(entry.writer, writers))),
    ];
    if let Some(writer) = writers.iter().find(|writer| writer.id == entry.writer) {
        lines.extend([
            ("  access", Some(writer.access.clone())),
            ("  issuer", writer.said.issuer.clone()),
            ("  rule", writer.said.rule.clone()),
            ("  repository", writer.said.repository.clone()),
            ("  repository id", writer.said.repository_id.clone()),
            ("  ref", writer.said.git_ref.clone()),
            ("  commit", writer.said.commit.clone()),
            ("  event", writer.said.event.clone()),
            ("  workflow", writer.said.workflow.clone()),
            ("  run", writer.said.run.clone()),
            ("  attempt", writer.said.run_attempt.clone()),
            ("  job", writer.said.job.clone()),
            ("  actor", writer.said.actor.clone()),
            ("  subject", writer.said.subject.clone()),
            ("  environment", writer.said.environment.clone()),
            ("  last seen from", writer.last_address.clone()),
        ]);
    }
    let escaped = |text: String| text.chars().map(terminal::escaped).collect::<String>();
    let lines = lines
        .into_iter()
        .filter_map(|(name, text)| Some(format!("{name:<16} {}", escaped(text?))));
    lines.collect::<Vec<_>>().join("\n")
}
