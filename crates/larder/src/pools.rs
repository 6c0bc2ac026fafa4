//! The pools of a data directory: opened while the server already listens, looked after by a
//! thread each, resized while in use, closed at the end.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirEntry, Metadata};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use larder_cache::{Cache, CacheLimits, CacheMetrics, PoolHandle, PoolPair, PoolState, Tier};
use larder_model::WorkspaceName;
use larder_store::{DataDir, Pool, PoolOptions, RealDisk};
use tokio::sync::watch;

use crate::config::{Budgets, DiskFigures, PoolName, Settings, WORKSPACE_POOLS};

/// How long a pool's thread sleeps when there is nothing to do. A stop waits for it.
const CHORE_WAIT: Duration = Duration::from_millis(200);

/// Why pools are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve: pools are looked after, and leave each other and the disk their room.
    Serve,
    /// For one command: nothing is evicted, carried or scrubbed.
    Command,
}

/// All pools of one server.
pub(crate) struct Pools {
    handles: BTreeMap<PoolName, PoolHandle>,
    threads: Mutex<Vec<(PoolHandle, JoinHandle<()>)>>,
    stop: Arc<AtomicBool>,
    loading: watch::Receiver<usize>,
}

impl Pools {
    /// Starts to open every pool of `budgets`, each on a thread of its own.
    pub(crate) fn start(
        data: &DataDir,
        settings: &Settings,
        budgets: &Budgets,
        metrics: &CacheMetrics,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let durability = settings.store.durability;
        let (counter, loading) = watch::channel(budgets.pools.len());
        let counter = Arc::new(counter);
        let handles: BTreeMap<PoolName, PoolHandle> = budgets
            .pools
            .keys()
            .map(|name| (name.clone(), PoolHandle::loading()))
            .collect();
        let promised = promised_to_trusted(&handles);
        let mut threads = Vec::new();
        for (name, budget_bytes) in &budgets.pools {
            let reserved_for_others: Arc<dyn Fn() -> u64 + Send + Sync> =
                if name.trusted || purpose == Purpose::Command {
                    Arc::new(|| 0)
                } else {
                    promised.clone()
                };
            let options = PoolOptions {
                reserved_for_others,
                durability,
                lease: settings.store.lease,
                free_reserve_bytes: budgets.free_reserve_bytes,
                observer: metrics.observer(name.to_string()),
                ..PoolOptions::new(*budget_bytes)
            };
            let directory = name.directory(data.path());
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            let handle = handles[name].clone();
            let (stop, counter) = (Arc::clone(&stop), Arc::clone(&counter));
            let own = handle.clone();
            let thread = std::thread::Builder::new()
                .name(format!("pool {name}"))
                .spawn(move || {
                    own.load(|| Pool::open(Arc::new(RealDisk), &directory, options));
                    counter.send_modify(|count| *count -= 1);
                    if let Some(pool) = own.pool()
                        && purpose == Purpose::Serve
                    {
                        look_after(pool, &stop);
                    }
                })
                .context("cannot start a thread")?;
            threads.push((handle, thread));
        }
        Ok(Self {
            handles,
            threads: Mutex::new(threads),
            stop,
            loading,
        })
    }

    /// The cache over these pools, before a bucket if there is one.
    pub(crate) fn cache(
        &self,
        settings: &Settings,
        metrics: CacheMetrics,
        tier: Option<Tier>,
    ) -> Cache {
        let pair = |workspace: Option<&WorkspaceName>| {
            let handle = |trusted| {
                let name = PoolName {
                    workspace: workspace.cloned(),
                    trusted,
                };
                self.handles.get(&name).cloned()
            };
            Some(PoolPair {
                trusted: handle(true)?,
                untrusted: handle(false)?,
            })
        };
        let owners = self
            .handles
            .keys()
            .filter_map(|name| name.workspace.as_ref());
        let own: HashMap<WorkspaceName, PoolPair> = owners
            .filter_map(|name| Some((name.clone(), pair(Some(name))?)))
            .collect();
        let shared = pair(None).expect("every plan of budgets has the shared pools");
        let cache = Cache::new(shared, own, cache_limits(settings), metrics);
        match tier {
            Some(tier) => cache.with_tier(tier),
            None => cache,
        }
    }

    /// Whether every pool serves.
    pub(crate) fn ready(&self) -> bool {
        self.handles
            .values()
            .all(|handle| handle.state() == PoolState::Ready)
    }

    /// Waits until no pool is being loaded any more.
    pub(crate) async fn loaded(&self) {
        let mut loading = self.loading.clone();
        // The sender lives as long as any thread that is still loading.
        let _ = loading.wait_for(|count| *count == 0).await;
    }

    /// The pools' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &PoolName> {
        self.handles.keys()
    }

    /// The pools' names and states.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&PoolName, PoolState)> {
        self.handles
            .iter()
            .map(|(name, handle)| (name, handle.state()))
    }

    /// Gives every pool its budget of `budgets`. Blocks. Answers what takes a restart.
    pub(crate) fn resize(&self, budgets: &Budgets) -> Vec<String> {
        let mut undone = Vec::new();
        for (name, budget_bytes) in &budgets.pools {
            match self.handles.get(name).map(PoolHandle::pool) {
                Some(Some(pool)) if pool.usage().budget_bytes == *budget_bytes => {}
                Some(Some(pool)) => match pool.resize(*budget_bytes) {
                    Ok(()) => tracing::info!(pool = %name, budget_bytes, "pool resized"),
                    Err(error) => undone.push(format!("the size of the pool {name}: {error}")),
                },
                Some(None) => {
                    undone.push(format!("the size of the pool {name}, which is not loaded"));
                }
                None => undone.push(format!("the new pool {name}")),
            }
        }
        let gone = self
            .handles
            .keys()
            .filter(|name| !budgets.pools.contains_key(name));
        undone.extend(gone.map(|name| format!("the end of the pool {name}")));
        undone
    }

    /// Closes every pool so that the next start finds its index. Blocks. A pool that is still
    /// being loaded has nothing to close.
    pub(crate) fn close(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for (name, handle) in &self.handles {
            let Some(pool) = handle.pool() else { continue };
            if let Err(error) = pool.close() {
                tracing::error!(pool = %name, %error, "a pool was not closed cleanly; the next start reads its log");
            }
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (handle, thread) in threads {
            if handle.state() != PoolState::Loading && thread.join().is_err() {
                tracing::error!("a pool's thread panicked");
            }
        }
    }
}

/// What the trusted pools may still claim of the disk. Where the disk has less room than all budgets
/// together, untrusted entries give way, and never trusted ones to them.
fn promised_to_trusted(
    handles: &BTreeMap<PoolName, PoolHandle>,
) -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let trusted = handles.iter().filter(|(name, _)| name.trusted);
    let trusted: Vec<PoolHandle> = trusted.map(|(_, handle)| handle.clone()).collect();
    Arc::new(move || {
        let pools = trusted.iter().filter_map(PoolHandle::pool);
        pools.map(Pool::unclaimed_bytes).sum()
    })
}

fn look_after(pool: &Pool, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        pool.wait_for_chores(CHORE_WAIT);
        pool.do_chores();
    }
}

/// The limits of `settings` as the cache takes them.
pub(crate) fn cache_limits(settings: &Settings) -> CacheLimits {
    let own = settings.workspaces.iter();
    CacheLimits {
        entry_bytes_max: settings.limits.entry_size_max,
        workspace_entry_bytes_max: own
            .filter_map(|(name, workspace)| Some((name.clone(), workspace.entry_size_max?)))
            .collect(),
    }
}

/// The pools in a data directory, whoever uses them, and the bytes of their files, with holes and
/// before any compression by the file system.
pub(crate) fn on_disk(data_dir: &Path) -> BTreeMap<PoolName, u64> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let owner = |entry: DirEntry| entry.file_name().to_str()?.parse().ok();
    let owners = entries(&data_dir.join(WORKSPACE_POOLS)).filter_map(owner);
    let largest = |file: &Metadata| file.len().max(blocks_bytes(file));
    let mut found = BTreeMap::new();
    for workspace in owners.map(Some).chain([None]) {
        for trusted in [true, false] {
            let workspace = workspace.clone();
            let name = PoolName { workspace, trusted };
            let directory = name.directory(data_dir);
            if directory.is_dir() {
                found.insert(name, bytes_under(&directory, &largest));
            }
        }
    }
    found
}

/// Pools on disk that belong to workspaces to which `settings` give none of their own, and their
/// bytes.
pub(crate) fn orphaned(data_dir: &Path, settings: &Settings) -> BTreeMap<PoolName, u64> {
    let mut found = on_disk(data_dir);
    found.retain(|name, _| {
        let owner = name.workspace.as_ref();
        owner.is_some_and(|owner| {
            let workspace = settings.workspaces.get(owner);
            workspace.is_none_or(|workspace| workspace.own_pools.is_none())
        })
    });
    found
}

/// The figures of the disk under `data_dir`, which must exist.
pub(crate) fn disk_figures(data_dir: &Path, settings: &Settings) -> anyhow::Result<DiskFigures> {
    let orphans = orphaned(data_dir, settings).into_keys();
    let orphaned_bytes: u64 = orphans
        .map(|name| bytes_under(&name.directory(data_dir), &blocks_bytes))
        .sum();
    let disk = rustix::fs::statvfs(data_dir)
        .with_context(|| format!("cannot ask for the disk under {}", data_dir.display()))?;
    Ok(DiskFigures {
        total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        held_bytes: bytes_under(data_dir, &blocks_bytes).saturating_sub(orphaned_bytes),
    })
}

/// What a file takes on disk.
fn blocks_bytes(file: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    const BLOCK_BYTES: u64 = 512;
    file.blocks() * BLOCK_BYTES
}

/// The sum over all files under `directory`. What cannot be read counts nothing.
fn bytes_under(directory: &Path, of_file: &impl Fn(&Metadata) -> u64) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path(), of_file),
            Ok(metadata) => of_file(&metadata),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Key;

    #[test]
    fn pools_that_no_configuration_mentions_are_found_and_no_default_counts_on_their_room() {
        let home = tempfile::tempdir().unwrap();
        let settings = crate::config::load(
            None,
            std::iter::empty(),
            &[(Key::StoreDataDir, "--data-dir", home.path().into())],
        );
        let settings = settings.unwrap();
        let name = |workspace: Option<&str>| PoolName {
            workspace: workspace.map(|name| name.parse().unwrap()),
            trusted: true,
        };
        for (pool, bytes) in [(name(None), 100_000), (name(Some("acme")), 900_000)] {
            let directory = pool.directory(home.path());
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("segment"), vec![1; bytes]).unwrap();
        }
        let found = on_disk(home.path());
        assert!(found[&name(None)] >= 100_000 && found[&name(Some("acme"))] >= 900_000);
        let orphans = orphaned(home.path(), &settings);
        assert!(orphans.into_keys().eq([name(Some("acme"))]));
        let held = disk_figures(home.path(), &settings).unwrap().held_bytes;
        assert!((100_000..900_000).contains(&held), "{held}");
    }
}
