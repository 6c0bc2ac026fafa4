//! The first reading: text, keys and where each value was written. It knows which keys there
//! are, and nothing of what their values mean.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{CERTIFICATE_SECTION, CI_SECTION, ISSUER_SECTION, Key, WORKSPACE_SECTION, title};
use super::problem::{Origin, Problem, Problems};

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawValue {
    Text(String),
    Integer(String),
    Boolean(bool),
    /// A path that is no UTF-8, which only the environment and flags can hold.
    Path(PathBuf),
    /// A list.
    List(Vec<RawValue>),
    /// A table as a value, in the order of its names.
    Table(Vec<(String, RawValue)>),
    /// A value of a kind that no key takes, by its TOML name.
    Other(&'static str),
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) value: RawValue,
    pub(crate) origin: Origin,
}

/// Every value that was written anywhere. The last source read wins.
#[derive(Debug, Default)]
pub(crate) struct RawConfig {
    values: BTreeMap<Key, Written>,
    workspaces: BTreeMap<String, RawWorkspace>,
    issuers: BTreeMap<String, RawTable>,
}

/// A table that has a name of its own, such as `[issuer.NAME]`.
#[derive(Debug)]
pub(crate) struct RawTable {
    pub(crate) origin: Origin,
    /// The table's name from the top: `issuer.NAME`.
    pub(crate) path: String,
    pub(crate) values: BTreeMap<Key, Written>,
}

/// One `[workspace.NAME]` table, and the tables below it.
#[derive(Debug)]
pub(crate) struct RawWorkspace {
    pub(crate) origin: Origin,
    pub(crate) values: BTreeMap<Key, Written>,
    /// `[workspace.NAME.ci.RULE]` by rule.
    pub(crate) ci: BTreeMap<String, RawTable>,
    /// `[workspace.NAME.certificate.RULE]` by rule.
    pub(crate) certificates: BTreeMap<String, RawTable>,
}

impl RawConfig {
    /// What was written for `key`, a key outside the workspaces' tables.
    pub(crate) fn get(&self, key: Key) -> Option<&Written> {
        self.values.get(&key)
    }

    /// The workspaces' tables by name.
    pub(crate) fn workspaces(&self) -> impl Iterator<Item = (&str, &RawWorkspace)> {
        self.workspaces
            .iter()
            .map(|(name, table)| (name.as_str(), table))
    }

    /// The tables of issuers by name.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = (&str, &RawTable)> {
        self.issuers
            .iter()
            .map(|(name, table)| (name.as_str(), table))
    }

    /// Reads a configuration file's text. Syntax errors do not hide the problems after them.
    pub(crate) fn read_file(&mut self, file: &Path, text: &str, problems: &mut Problems) {
        let at = |offset: usize| Origin::File {
            file: file.to_owned(),
            line: 1 + text
                .as_bytes()
                .iter()
                .take(offset)
                .filter(|byte| **byte == b'\n')
                .count(),
        };
        let (document, faults) = DeTable::parse_recoverable(text);
        let mut broken = Vec::new();
        for fault in faults {
            let origin = at(fault.span().map_or(0, |span| span.start));
            broken.push(origin.clone());
            problems.push(Problem {
                origin,
                key: None,
                message: fault.message().to_owned(),
            });
        }
        for (section, table) in document.get_ref() {
            let origin = at(section.span().start);
            let section: &str = section.get_ref();
            let DeValue::Table(table) = table.get_ref() else {
                problems.push(unknown_top_level(section, origin));
                continue;
            };
            if section == WORKSPACE_SECTION {
                self.read_workspaces(table, &at, problems);
            } else if section == ISSUER_SECTION {
                let tables = read_named(ISSUER_SECTION, ISSUER_SECTION, table, &at, problems);
                self.issuers.extend(tables);
            } else if Key::sections().contains(&section) && !section.contains('.') {
                let values = read_table(section, section, table, &[], &at, problems);
                self.values.extend(values);
            } else {
                let top = Key::sections().into_iter();
                let hint = did_you_mean(section, top.filter(|known| !known.contains('.')));
                let message = format!("there is no section [{}]{hint}", section.escape_debug());
                problems.push(Problem {
                    origin,
                    key: None,
                    message,
                });
            }
        }
        // What was recovered from a broken line is a guess.
        let whole = |_: &Key, written: &mut Written| !broken.contains(&written.origin);
        self.values.retain(whole);
        for workspace in self.workspaces.values_mut() {
            workspace.values.retain(whole);
            let below = workspace.ci.values_mut();
            for table in below.chain(workspace.certificates.values_mut()) {
                table.values.retain(whole);
            }
        }
        for issuer in self.issuers.values_mut() {
            issuer.values.retain(whole);
        }
    }

    fn read_workspaces(
        &mut self,
        tables: &DeTable<'_>,
        at: &dyn Fn(usize) -> Origin,
        problems: &mut Problems,
    ) {
        for (name, path, origin, table) in
            named(WORKSPACE_SECTION, WORKSPACE_SECTION, tables, at, problems)
        {
            let below = [CI, CERTIFICATE];
            let values = read_table(WORKSPACE_SECTION, &path, table, &below, at, problems);
            let mut below = |word: &str, section: &'static str| {
                let Some((key, value)) = table.get_key_value(word) else {
                    return BTreeMap::new();
                };
                let path = format!("{path}.{word}");
                let DeValue::Table(tables) = value.get_ref() else {
                    problems.push(Problem {
                        origin: at(key.span().start),
                        key: Some(path),
                        message: format!("write {} and the keys below it", title(section)),
                    });
                    return BTreeMap::new();
                };
                read_named(section, &path, tables, at, problems)
            };
            let ci = below(CI, CI_SECTION);
            let certificates = below(CERTIFICATE, CERTIFICATE_SECTION);
            self.workspaces.insert(
                name,
                RawWorkspace {
                    origin,
                    values,
                    ci,
                    certificates,
                },
            );
        }
    }

    /// Takes every `LARDER_SECTION_KEY` variable. Whatever else begins with `LARDER_` is a mistake,
    /// unless it is known to be somebody else's.
    pub(crate) fn read_environment(
        &mut self,
        environment: impl Iterator<Item = (OsString, OsString)>,
        problems: &mut Problems,
    ) {
        let known: Vec<(Key, String)> = Key::ALL
            .iter()
            .filter_map(|key| Some((*key, key.variable()?)))
            .collect();
        for (name, value) in environment {
            let name = name.to_string_lossy();
            if !name.starts_with(VARIABLE_PREFIX) || is_foreign(&name, &value) {
                continue;
            }
            let origin = Origin::Environment {
                name: name.escape_debug().to_string(),
            };
            let Some((key, _)) = known.iter().find(|(_, variable)| *variable == name) else {
                let hint = variable_hint(&name, &known);
                let message = format!("there is no such setting{hint}");
                problems.push(Problem {
                    origin,
                    key: None,
                    message,
                });
                continue;
            };
            let value = text_or_path(value);
            self.values.insert(*key, Written { value, origin });
        }
    }

    /// Takes the value of a command-line flag.
    pub(crate) fn set_flag(&mut self, key: Key, flag: &'static str, value: OsString) {
        let origin = Origin::Flag { name: flag };
        let value = text_or_path(value);
        self.values.insert(key, Written { value, origin });
    }
}

fn text_or_path(value: OsString) -> RawValue {
    match value.into_string() {
        Ok(text) => RawValue::Text(text),
        Err(value) => RawValue::Path(value.into()),
    }
}

/// What all our environment variables begin with.
const VARIABLE_PREFIX: &str = "LARDER_";

/// Variables that begin like ours and are no settings: the one that names the file, those of our
/// tests, what clients in CI systems are told, and what Kubernetes invents for services called
/// `larder` or `larder-something` (`LARDER_PORT=tcp://…`, `LARDER_PORT_80_TCP_ADDR`,
/// `LARDER_SERVICE_HOST`).
fn is_foreign(name: &str, value: &OsStr) -> bool {
    let known = [
        "LARDER_CONFIG",
        "LARDER_BIN",
        "LARDER_SERVER",
        "LARDER_AUDIENCE",
    ]
    .contains(&name)
        || name.starts_with("LARDER_TEST_")
        || name.ends_with("_TOKEN");
    let rest = &name[VARIABLE_PREFIX.len() - 1..];
    let link = rest.ends_with("_PORT") && value.to_string_lossy().contains("://");
    known || link || rest.contains("_PORT_") || rest.contains("_SERVICE_")
}

/// What to write instead of a variable that is none. Leaving out the section is the usual mistake.
fn variable_hint(name: &str, known: &[(Key, String)]) -> String {
    let rest = &name[VARIABLE_PREFIX.len() - 1..];
    if rest.starts_with("_WORKSPACE_") {
        return "; keys of workspaces are set in the file only".to_owned();
    }
    let names = || known.iter().map(|(_, variable)| variable.as_str());
    match names().find(|variable| variable.ends_with(rest)) {
        Some(variable) => format!("; did you mean \"{variable}\"?"),
        None => did_you_mean(name, names()),
    }
}

/// The words between a workspace's name and a rule's.
const CI: &str = "ci";
const CERTIFICATE: &str = "certificate";

/// The tables in `tables`, each with its name, its path from the top and its line.
fn named<'a>(
    section: &'static str,
    path: &str,
    tables: &'a DeTable<'_>,
    at: &dyn Fn(usize) -> Origin,
    problems: &mut Problems,
) -> Vec<(String, String, Origin, &'a DeTable<'a>)> {
    let mut found = Vec::new();
    for (name, table) in tables {
        let origin = at(name.span().start);
        let name = name.get_ref().to_string();
        let path = format!("{path}.{}", name.escape_debug());
        match table.get_ref() {
            DeValue::Table(table) => found.push((name, path, origin, table)),
            _ => problems.push(Problem {
                origin,
                key: Some(path),
                message: format!("write {} and the key below it", title(section)),
            }),
        }
    }
    found
}

fn read_named(
    section: &'static str,
    path: &str,
    tables: &DeTable<'_>,
    at: &dyn Fn(usize) -> Origin,
    problems: &mut Problems,
) -> BTreeMap<String, RawTable> {
    let mut read = BTreeMap::new();
    for (name, path, origin, table) in named(section, path, tables, at, problems) {
        let values = read_table(section, &path, table, &[], at, problems);
        let table = RawTable {
            origin,
            path,
            values,
        };
        read.insert(name, table);
    }
    read
}

/// The keys of one table. The tables called `below` are somebody else's to read.
fn read_table(
    section: &str,
    path: &str,
    table: &DeTable<'_>,
    below: &[&str],
    at: &dyn Fn(usize) -> Origin,
    problems: &mut Problems,
) -> BTreeMap<Key, Written> {
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let origin = at(name.span().start);
        let name: &str = name.get_ref();
        if below.contains(&name) {
            continue;
        }
        let Some(key) = Key::find(section, name) else {
            let names = Key::ALL.iter().map(|key| key.spec());
            let names = names
                .filter(|spec| spec.section == section)
                .map(|spec| spec.name);
            let message = match did_you_mean(name, names) {
                hint if hint.is_empty() => format!("there is no such key{}", belongs_to(name)),
                hint => format!("there is no such key{hint}"),
            };
            let key = Some(format!("{path}.{}", name.escape_debug()));
            problems.push(Problem {
                origin,
                key,
                message,
            });
            continue;
        };
        values.insert(
            key,
            Written {
                value: raw_value(value.get_ref()),
                origin,
            },
        );
    }
    values
}

fn raw_value(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(integer) => RawValue::Integer(integer.to_string()),
        DeValue::Boolean(boolean) => RawValue::Boolean(*boolean),
        DeValue::Float(_) => RawValue::Other("a fraction"),
        DeValue::Datetime(_) => RawValue::Other("a date"),
        DeValue::Array(values) => {
            let values = values.iter().map(|value| raw_value(value.get_ref()));
            RawValue::List(values.collect())
        }
        DeValue::Table(table) => {
            let values = table.iter().map(|(name, value)| {
                let name = name.get_ref().to_string();
                (name, raw_value(value.get_ref()))
            });
            RawValue::Table(values.collect())
        }
    }
}

fn unknown_top_level(name: &str, origin: Origin) -> Problem {
    let message = if Key::sections().contains(&name) {
        format!("\"{name}\" is a section: write [{name}] and its keys below")
    } else {
        format!("there is no key here{}", belongs_to(name))
    };
    Problem {
        origin,
        key: Some(name.escape_debug().to_string()),
        message,
    }
}

/// Where a key of this name would be right.
fn belongs_to(name: &str) -> String {
    let sections: Vec<String> = Key::ALL
        .iter()
        .map(|key| key.spec())
        .filter(|spec| spec.name == name)
        .map(|spec| title(spec.section))
        .collect();
    if sections.is_empty() {
        String::new()
    } else {
        format!("; it belongs to {}", sections.join(" or "))
    }
}

/// `; did you mean …?` when something known is close enough to be meant.
fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    let far = 1 + wrong.chars().count() / 4;
    known
        .map(|name| (edit_distance(wrong, name), name))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map_or_else(String::new, |(_, name)| {
            format!("; did you mean \"{name}\"?")
        })
}

/// Levenshtein's distance: insertions, deletions and replacements from `left` to `right`.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replace = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
