//! `larder session`: ends the sessions of CI jobs that an operator names. The ledger does the work, a running server follows it.

use anyhow::{Context as _, ensure};
use larder_ledger::{Ledger, WriterFilter, WriterKind, WriterRow};

use super::control::tokens_changed;
use crate::cli::{JobsArgs, SessionCommand, SessionRevokeArgs};
use crate::{clock, place, terminal};

/// Rows of the table that are shown before the question.
const SHOWN_ROWS_MAX: usize = 50;

pub(super) async fn run(command: SessionCommand) -> anyhow::Result<()> {
    match command {
        SessionCommand::Revoke(args) => revoke(args).await,
    }
}

async fn revoke(args: SessionRevokeArgs) -> anyhow::Result<()> {
    let jobs = &args.jobs;
    ensure!(
        args.all || jobs.writer.is_some() || filter(jobs) != WriterFilter::default(),
        "say whose sessions: by --run, --commit, --repository, --rule, --workspace and others (see --help), or --all"
    );
    let settings = place::existing(&args.place)?;
    let data_dir = &settings.store.data_dir;
    let ledger = place::ledger(data_dir).await?;
    let writers = found(&ledger, jobs).await?;
    let count = match writers.len() {
        0 => return Ok(terminal::print("no CI job is known that fits")?),
        1 => "1 CI job".to_owned(),
        count => format!("{count} CI jobs"),
    };
    if args.dry_run {
        return Ok(terminal::print(&table(&writers))?);
    }
    if !args.yes {
        terminal::note(&table(&writers));
        let agreed = terminal::confirm(&format!("End the sessions of {count}?"))
            .with_context(|| format!("this ends the sessions of {count}; pass --yes to do it"))?;
        if !agreed {
            terminal::note("nothing was changed");
            return Ok(());
        }
    }
    let ids: Vec<u64> = writers.iter().map(|writer| writer.id).collect();
    let ended = ledger.revoke_writers(&ids, clock::now_ms()).await?;
    tokens_changed(data_dir).await;
    Ok(terminal::print(&format!(
        "ended {ended} sessions of {count}"
    ))?)
}

/// The CI jobs that fit; tokens and certificates have no sessions.
async fn found(ledger: &Ledger, jobs: &JobsArgs) -> anyhow::Result<Vec<WriterRow>> {
    let mut writers = ledger.writers(&filter(jobs), u32::MAX).await?;
    writers.retain(|writer| {
        let named = jobs.writer.is_none_or(|id| id == writer.id);
        named && writer.kind == WriterKind::Ci
    });
    Ok(writers)
}

fn filter(jobs: &JobsArgs) -> WriterFilter {
    WriterFilter {
        workspace: jobs.workspace.as_ref().map(ToString::to_string),
        issuer: jobs.said.issuer.clone(),
        rule: jobs.said.rule.clone(),
        repository_id: jobs.said.repository_id.clone(),
        repository: jobs.said.repository.clone(),
        git_ref: jobs.said.git_ref.clone(),
        commit_sha: jobs.said.commit.clone(),
        run_id: jobs.said.run.clone(),
        workflow: jobs.said.workflow.clone(),
        event: jobs.said.event.clone(),
        actor: jobs.said.actor.clone(),
        ..WriterFilter::default()
    }
}

fn table(writers: &[WriterRow]) -> String {
    let shown = writers.iter().take(SHOWN_ROWS_MAX);
    let cells: Vec<Vec<String>> = shown
        .map(|writer| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let said = &writer.provenance;
            vec![
                writer.id.to_string(),
                writer.workspace.clone(),
                writer
                    .scope
                    .clone()
                    .unwrap_or_else(|| writer.access.clone()),
                text(&said.repository),
                text(&said.git_ref),
                text(&said.run_id),
                clock::utc_text(writer.last_seen_at_ms),
            ]
        })
        .collect();
    let header = [
        "WRITER",
        "WORKSPACE",
        "SCOPE",
        "REPOSITORY",
        "REF",
        "RUN",
        "LAST SEEN",
    ];
    let shown = terminal::table(&header, &cells);
    match writers.len().saturating_sub(SHOWN_ROWS_MAX) {
        0 => shown,
        beyond => format!("{shown}\nand {beyond} more"),
    }
}
