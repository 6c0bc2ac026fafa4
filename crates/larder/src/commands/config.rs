//! `larder config check` and `larder config docs`.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::{ConfigCommand, PlaceArgs};
use crate::config::{Budgets, Settings, duration_text, page, size_text};
use crate::net::Tls;
use crate::{bucket, exposure, identity, place, pools, terminal};

pub(super) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Docs => Ok(terminal::print(page().trim_end())?),
        ConfigCommand::Check { place } => check(place),
    }
}

/// Says what the configuration means on this disk, or everything that is wrong with it.
fn check(args: &PlaceArgs) -> anyhow::Result<()> {
    let settings = place::settings(args.config.as_deref(), &args.values())?;
    exposure::check(settings.http.listen, settings.http.insecure_http)?;
    if let Some(tls) = &settings.tls {
        Tls::load(tls.files.clone())?;
    }
    identity::trust(&settings.identity)?;
    if let Some(bucket) = &settings.bucket {
        bucket::check_options(bucket)?;
    }
    let budgets = Budgets::plan(
        &settings,
        pools::disk_figures(existing(&settings.store.data_dir), &settings)?,
    )?;
    Ok(terminal::print(&summary(&settings, &budgets))?)
}

/// The data directory, or the nearest directory above it that exists: it will be made there.
fn existing(data_dir: &Path) -> &Path {
    let above = data_dir.ancestors().find(|path| path.is_dir());
    above
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn summary(settings: &Settings, budgets: &Budgets) -> String {
    let mut text = String::from("the configuration is good\n");
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<22} {value}").expect("a string takes every write");
    };
    let base_path = &settings.http.base_path;
    if let Some(address) = settings.http.listen {
        line("listens on", format!("http://{address}{base_path}"));
    }
    if let Some(tls) = &settings.tls {
        line("listens on", format!("https://{}{base_path}", tls.listen));
    }
    line(
        "keeps data in",
        place::absolute(&settings.store.data_dir)
            .display()
            .to_string(),
    );
    for (name, bytes) in budgets.pools.iter().rev() {
        line(&format!("pool {name}"), size_text(*bytes));
    }
    line("leaves free", size_text(budgets.free_reserve_bytes));
    line(
        "an entry has at most",
        size_text(settings.limits.entry_size_max),
    );
    line(
        "an entry is leased for",
        duration_text(settings.store.lease),
    );
    if let Some(bucket) = &settings.bucket {
        line("shares with", bucket.url.to_string());
        line("an unused entry stays", duration_text(bucket.expire_after));
    }
    text.trim_end().to_owned()
}
