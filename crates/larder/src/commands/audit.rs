//! `larder audit`: reads the ledger, whether a server runs or not, page by page.

use std::io::{self, Write as _};

use larder_ledger::AuditFilter;
use larder_protocols::control::{AuditRecord, WriterFigures, audit_records};

use crate::cli::AuditArgs;
use crate::config::size_text;
use crate::{clock, place, terminal};

/// How many rows are in memory at a time.
const PAGE_ROWS: u32 = 1000;

pub(super) async fn run(args: AuditArgs) -> anyhow::Result<()> {
    let settings = place::existing(&args.place)?;
    let ledger = place::ledger(&settings.store.data_dir).await?;
    let mut after = args.after;
    let (filter, json) = filter(args, clock::now_ms());
    let mut first_page = true;
    loop {
        let records = audit_records(&ledger, &filter, after, PAGE_ROWS).await?;
        let Some(last) = records.last() else {
            return Ok(());
        };
        after = last.id;
        let written = if json {
            print_lines(&records)
        } else {
            terminal::print(&table(&records, first_page))
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        first_page = false;
        if records.len() < PAGE_ROWS as usize {
            return Ok(());
        }
    }
}

fn filter(args: AuditArgs, now_ms: u64) -> (AuditFilter, bool) {
    let filter = AuditFilter {
        since_ms: args.since.map(|moment| moment.unix_ms(now_ms)),
        until_ms: args.until.map(|moment| moment.unix_ms(now_ms)),
        action: args.action,
        workspace: args.workspace.map(|name| name.to_string()),
        writer: args.writer,
        run_id: args.run,
        commit_sha: args.commit,
        key: args.key,
        address: args.address.map(|it| it.to_canonical().to_string()),
    };
    (filter, args.json)
}

fn print_lines(records: &[AuditRecord]) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for record in records {
        serde_json::to_writer(&mut out, record)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A page as a table; the first one has a head.
fn table(records: &[AuditRecord], with_head: bool) -> String {
    let header = [
        "TIME",
        "ACTION",
        "OUTCOME",
        "WORKSPACE",
        "SCOPE",
        "WHO",
        "FROM",
        "COUNT",
        "BYTES",
        "WHAT",
    ];
    let cells: Vec<Vec<String>> = records.iter().map(cells).collect();
    let table = terminal::table(&header, &cells);
    if with_head {
        return table;
    }
    table
        .split_once('\n')
        .map_or(String::new(), |(_, rows)| rows.to_owned())
}

fn cells(record: &AuditRecord) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let outcome = match &record.reason {
        Some(reason) => format!("{}: {reason}", record.outcome),
        None => record.outcome.clone(),
    };
    let bytes = if record.bytes == 0 {
        "-".to_owned()
    } else {
        size_text(record.bytes)
    };
    vec![
        clock::utc_text(record.at_ms),
        record.action.clone(),
        outcome,
        text(&record.workspace),
        text(&record.scope),
        who(record),
        text(&record.address),
        record.count.to_string(),
        bytes,
        what(record),
    ]
}

/// The writer as shortly as it can be recognized, and who acted on it.
fn who(record: &AuditRecord) -> String {
    let writer = record.writer.map(|id| match &record.by {
        Some(by) => format!("{id} ({})", described(by)),
        None => id.to_string(),
    });
    match (&record.actor, writer) {
        (Some(actor), Some(writer)) => format!("{actor}: {writer}"),
        (Some(actor), None) => actor.clone(),
        (None, Some(writer)) => writer,
        (None, None) => "-".to_owned(),
    }
}

fn described(by: &WriterFigures) -> String {
    let mut words = vec![by.kind.as_str()];
    let run = by.said.run.as_ref().map(|run| format!("run {run}"));
    words.extend(by.name.as_deref());
    words.extend(by.said.repository.as_deref());
    words.extend(by.said.git_ref.as_deref());
    words.extend(run.as_deref());
    words.join(" ")
}

fn what(record: &AuditRecord) -> String {
    let entry = match (&record.dialect, &record.key) {
        (Some(dialect), Some(key)) => Some(format!("{dialect} {key}")),
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (None, None) => None,
    };
    let details = record.details.as_ref().map(ToString::to_string);
    let both: Vec<String> = entry.into_iter().chain(details).collect();
    if both.is_empty() {
        "-".to_owned()
    } else {
        both.join(" ")
    }
}
