//! Configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! It is read twice. [`raw`] reads text and knows which keys exist and where each value came
//! from; [`resolve`] reads meaning and returns [`Settings`] or every problem at once.
//! [`keys`] is the one list of keys: both readings, the environment's names and the page
//! `docs/config.md` come from it.

mod bucket;
mod budgets;
mod ci;
mod docs;
mod identity;
mod keys;
mod network;
mod problem;
mod quantity;
mod raw;
mod resolve;
mod settings;

use std::ffi::OsString;
use std::path::Path;

pub(crate) use budgets::{Budgets, DiskFigures, PoolName, WORKSPACE_POOLS};
pub(crate) use docs::page;
pub(crate) use keys::Key;
pub(crate) use network::Network;
pub(crate) use problem::{Origin, Problem, Problems};
pub(crate) use quantity::{duration_text, parse_duration, parse_size, size_text};
pub(crate) use raw::RawConfig;
pub(crate) use resolve::parse_listen;
pub(crate) use settings::{
    AuditSettings, BucketSettings, ClientCertificates, HttpSettings, IdentitySettings,
    IssuerKeysAt, IssuerSettings, LogFormat, MetricsAudience, Settings, TlsFiles,
};

/// Reads `file` (if there is one), the environment and the values of flags, in rising order of
/// precedence.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    flags: &[(Key, &'static str, OsString)],
) -> Result<Settings, Problems> {
    let mut problems = Problems::default();
    let mut raw = RawConfig::default();
    if let Some(file) = file {
        match std::fs::read_to_string(file) {
            Ok(text) => raw.read_file(file, &text, &mut problems),
            Err(error) => problems.push(Problem {
                origin: Origin::Unread {
                    file: file.to_owned(),
                },
                key: None,
                message: format!("cannot be read: {error}"),
            }),
        }
    }
    raw.read_environment(environment, &mut problems);
    for (key, flag, value) in flags {
        raw.set_flag(*key, flag, value.clone());
    }
    resolve::resolve(&raw, problems)
}
