//! From shares of a disk to bytes for each pool. Pure: the disk's figures come in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use larder_model::WorkspaceName;
use larder_store::POOL_BUDGET_BYTES_MIN;

use super::problem::{Origin, Problem, Problems};
use super::quantity::size_text;
use super::settings::{Settings, Share};

/// The least budget an operator can give a pool. The store works with less, but then a pool has
/// no room for one ordinary entry.
pub(super) const BUDGET_BYTES_MIN: u64 = 16 << 20;
const _: () = assert!(BUDGET_BYTES_MIN >= POOL_BUDGET_BYTES_MIN);
/// Defaults are whole mebibytes, so that they read well.
const DEFAULT_BYTES_STEP: u64 = 1 << 20;
/// The shared trusted pool's default part of the available space, in percent.
const TRUSTED_DEFAULT_PERCENT: u64 = 40;
/// The shared untrusted pool's default part of the available space, in percent.
const UNTRUSTED_DEFAULT_PERCENT: u64 = 10;
/// The default for the space left free.
const FREE_RESERVE_DEFAULT_BYTES: u64 = 1 << 30;

/// What opening a pool without its configuration adds to what the pool has on disk: room to note
/// removals and to save the index, so that nothing is evicted for it.
const OFFLINE_ROOM_BYTES: u64 = 64 << 20;

/// The figures of the disk that holds the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is the last part of a name"
)]
pub(crate) struct DiskFigures {
    /// The whole disk.
    pub(crate) total_bytes: u64,
    /// What an ordinary user may still write.
    pub(crate) free_bytes: u64,
    /// What the files of Larder's pools in use take already; without it, a restart would shrink a
    /// full cache. Pools that no configuration mentions are not among them: they give nothing back.
    pub(crate) held_bytes: u64,
}

/// The directory of the workspaces' own pools under the data directory.
pub(crate) const WORKSPACE_POOLS: &str = "workspace-pools";

/// A pool's place in the server, and its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolName {
    /// Whose own pool it is; `None` is shared.
    pub(crate) workspace: Option<WorkspaceName>,
    /// Whether it holds trusted entries.
    pub(crate) trusted: bool,
}

impl PoolName {
    /// The pool's directory under the data directory.
    pub(crate) fn directory(&self, data_dir: &Path) -> PathBuf {
        let kind = if self.trusted { "trusted" } else { "untrusted" };
        match &self.workspace {
            None => data_dir.join("pools").join(kind),
            Some(name) => data_dir
                .join(WORKSPACE_POOLS)
                .join(name.as_str())
                .join(kind),
        }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.trusted { "trusted" } else { "untrusted" };
        match &self.workspace {
            None => write!(f, "shared/{kind}"),
            Some(name) => write!(f, "{name}/{kind}"),
        }
    }
}

/// Bytes for every pool, and what stays free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Budgets {
    pub(crate) pools: BTreeMap<PoolName, u64>,
    pub(crate) free_reserve_bytes: u64,
}

impl Budgets {
    /// Shares out the disk. The only problem there can be is a budget that no pool works with or
    /// that is larger than the disk.
    pub(crate) fn plan(settings: &Settings, disk: DiskFigures) -> Result<Self, Problems> {
        let bytes = |share: Share| match share {
            Share::Bytes(bytes) => bytes,
            Share::Percent(percent) => disk.total_bytes / 100 * u64::from(percent),
        };
        let available = disk.free_bytes.saturating_add(disk.held_bytes);
        let default = |percent: u64| {
            let bytes = available / 100 * percent;
            (bytes - bytes % DEFAULT_BYTES_STEP).max(BUDGET_BYTES_MIN)
        };
        let shared = |trusted| PoolName {
            workspace: None,
            trusted,
        };
        let mut pools = BTreeMap::from([
            (
                shared(true),
                settings
                    .store
                    .trusted
                    .map_or(default(TRUSTED_DEFAULT_PERCENT), bytes),
            ),
            (
                shared(false),
                settings
                    .store
                    .untrusted
                    .map_or(default(UNTRUSTED_DEFAULT_PERCENT), bytes),
            ),
        ]);
        for (name, workspace) in &settings.workspaces {
            let Some((trusted, untrusted)) = workspace.own_pools else {
                continue;
            };
            let own = |trusted| PoolName {
                workspace: Some(name.clone()),
                trusted,
            };
            pools.insert(own(true), bytes(trusted));
            pools.insert(own(false), bytes(untrusted));
        }
        let reserve_default = FREE_RESERVE_DEFAULT_BYTES.min(disk.total_bytes / 20);
        let budgets = Self {
            pools,
            free_reserve_bytes: settings.store.free_reserve.map_or(reserve_default, bytes),
        };
        let problems = budgets.problems(disk);
        if problems.is_empty() {
            Ok(budgets)
        } else {
            Err(problems)
        }
    }

    /// Budgets for looking at what is there, with whatever configuration: every pool on disk, as
    /// large as it is, so that no command evicts anything. `found` has each pool's bytes on disk.
    pub(crate) fn offline(found: &BTreeMap<PoolName, u64>) -> Self {
        let shared = [true, false].map(|trusted| {
            let workspace = None;
            (PoolName { workspace, trusted }, 0)
        });
        let mut pools = BTreeMap::from(shared);
        for (name, bytes) in found {
            pools.insert(name.clone(), *bytes);
            // The cache takes a workspace's pools as a pair.
            let other = PoolName {
                trusted: !name.trusted,
                ..name.clone()
            };
            pools.entry(other).or_insert(0);
        }
        for bytes in pools.values_mut() {
            *bytes += *bytes / 8 + OFFLINE_ROOM_BYTES;
        }
        Self {
            pools,
            free_reserve_bytes: 0,
        }
    }

    fn problems(&self, disk: DiskFigures) -> Problems {
        let mut problems = Problems::default();
        let mut whole = |message| {
            problems.push(Problem {
                origin: Origin::Whole,
                key: None,
                message,
            });
        };
        for (name, bytes) in &self.pools {
            if *bytes < BUDGET_BYTES_MIN {
                whole(format!(
                    "the pool {name} would get {}; a pool needs at least {}",
                    size_text(*bytes),
                    size_text(BUDGET_BYTES_MIN)
                ));
            }
        }
        let sum = self
            .pools
            .values()
            .fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        // Some file systems report no size at all.
        if disk.total_bytes > 0 && sum > disk.total_bytes {
            whole(format!(
                "the pools together want {}, but the disk has {}",
                size_text(sum),
                size_text(disk.total_bytes)
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(toml: &str, disk: DiskFigures) -> Result<Vec<(String, u64)>, String> {
        let mut raw = super::super::RawConfig::default();
        let mut problems = Problems::default();
        raw.read_file(Path::new("larder.toml"), toml, &mut problems);
        let settings = super::super::resolve::resolve(&raw, problems).expect("a good file");
        match Budgets::plan(&settings, disk) {
            Ok(budgets) => Ok(budgets
                .pools
                .iter()
                .map(|(name, bytes)| (name.to_string(), *bytes))
                .collect()),
            Err(problems) => Err(problems.to_string()),
        }
    }

    const DISK: DiskFigures = DiskFigures {
        total_bytes: 1000 << 30,
        free_bytes: 100 << 30,
        held_bytes: 0,
    };

    #[test]
    fn defaults_follow_the_free_space_and_not_what_the_cache_already_holds() {
        let fresh = plan("", DISK).unwrap();
        assert_eq!(
            fresh
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["shared/untrusted", "shared/trusted"]
        );
        assert_eq!(fresh[1].1 >> 20, (100 << 10) * 40 / 100);
        let held = 30 << 30;
        let filled = DiskFigures {
            free_bytes: DISK.free_bytes - held,
            held_bytes: held,
            ..DISK
        };
        assert_eq!(plan("", filled).unwrap(), fresh);
    }

    #[test]
    fn a_tiny_disk_still_gets_working_pools() {
        let tiny = DiskFigures {
            total_bytes: 64 << 20,
            free_bytes: 40 << 20,
            held_bytes: 0,
        };
        for (_, bytes) in plan("", tiny).unwrap() {
            assert_eq!(bytes, BUDGET_BYTES_MIN);
        }
    }

    #[test]
    fn percentages_are_of_the_whole_disk_and_budgets_fit_it() {
        let pools = plan("[store]\ntrusted = \"20%\"\nuntrusted = \"5GiB\"", DISK).unwrap();
        assert_eq!(
            pools,
            [
                ("shared/untrusted".into(), 5 << 30),
                ("shared/trusted".into(), 1000_u64 * (1 << 30) / 100 * 20)
            ]
        );
        let fault = plan("[store]\ntrusted = \"2TiB\"", DISK).unwrap_err();
        assert!(fault.contains("but the disk has 1000.0 GiB"), "{fault}");
    }

    #[test]
    fn a_command_opens_every_pool_that_is_there_as_large_as_it_is() {
        let name = |workspace: Option<&str>, trusted| PoolName {
            workspace: workspace.map(|name| name.parse().unwrap()),
            trusted,
        };
        let found = BTreeMap::from([
            (name(None, true), 100 << 30),
            (name(Some("acme"), true), 1 << 30),
        ]);
        let budgets = Budgets::offline(&found);
        assert_eq!(budgets.pools.len(), 4);
        assert_eq!(budgets.free_reserve_bytes, 0);
        for (name, held) in &found {
            assert!(budgets.pools[name] > *held, "{name}");
        }
        for bytes in budgets.pools.values() {
            assert!(*bytes >= BUDGET_BYTES_MIN);
        }
    }

    #[test]
    fn a_workspace_gets_pools_of_its_own_in_its_own_directory() {
        let pools = plan(
            "[workspace.acme]\ntrusted = \"1GiB\"\nuntrusted = \"1%\"",
            DISK,
        )
        .unwrap();
        assert_eq!(pools.len(), 4);
        assert_eq!(pools[3], ("acme/trusted".into(), 1 << 30));
        let name = PoolName {
            workspace: Some("acme".parse().unwrap()),
            trusted: false,
        };
        assert_eq!(
            name.directory(Path::new("/d")),
            Path::new("/d/workspace-pools/acme/untrusted")
        );
    }
}
