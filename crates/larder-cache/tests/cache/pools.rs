//! A cache over real pools in a directory of its own, and callers to use it as.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use larder_cache::{
    Cache, CacheLimits, CacheMetrics, Change, Hit, NotAtHand, PoolHandle, PoolPair, PutRefusal,
    PutStart, Selection, Stored, Tier, Upload,
};
use larder_model::{
    Access, AdminGrant, Caller, Dialect, EntryKey, Policy, Principal, ReadGrant, WriteGrant,
    WriterId,
};
use larder_store::{Disk, Durability, Pool, PoolOptions, RealDisk};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

const POOL_BYTES: u64 = 128 << 20;

/// Who calls.
pub(crate) struct Who(Caller);

impl Who {
    fn known(workspace: &str, access: Access, writer: u64) -> Self {
        let workspace = workspace.parse().unwrap();
        Self(Caller::Known(Principal::new(
            workspace,
            access,
            WriterId(writer),
        )))
    }

    pub(crate) fn read(&self) -> ReadGrant {
        Policy::read(&self.0, None).unwrap()
    }

    pub(crate) fn write(&self) -> WriteGrant {
        Policy::write(&self.0, None).unwrap()
    }
}

pub(crate) fn trusted(workspace: &str, writer: u64) -> Who {
    Who::known(workspace, Access::Trusted, writer)
}

pub(crate) fn isolated(workspace: &str, scope: &str, writer: u64) -> Who {
    Who::known(
        workspace,
        Access::Isolated {
            scope: scope.parse().unwrap(),
        },
        writer,
    )
}

pub(crate) fn reader(workspace: &str) -> Who {
    Who::known(workspace, Access::Reader, 99)
}

pub(crate) fn operator() -> AdminGrant {
    Policy::admin(&Caller::LocalOperator).unwrap()
}

pub(crate) fn admin(workspace: &str) -> AdminGrant {
    Policy::admin(&Who::known(workspace, Access::Admin, 98).0).unwrap()
}

pub(crate) fn key(text: &str) -> EntryKey {
    EntryKey::new(text.as_bytes()).unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at % 251) as u8 ^ (at >> 8) as u8 ^ seed)
        .collect()
}

pub(crate) struct Setup {
    dir: TempDir,
    pub(crate) pair: PoolPair,
    own: Option<PoolPair>,
    metrics: CacheMetrics,
    pub(crate) cache: Arc<Cache>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with_durability(Durability::Written)
    }

    pub(crate) fn with_durability(durability: Durability) -> Self {
        let pair = PoolPair {
            trusted: PoolHandle::loading(),
            untrusted: PoolHandle::loading(),
        };
        let setup = Self::over(pair.clone());
        setup.open(&pair.trusted, "trusted", durability);
        setup.open(&pair.untrusted, "untrusted", durability);
        setup
    }

    /// Like [`Setup::new`], and `workspace` has pools of its own.
    pub(crate) fn with_own(workspace: &str) -> Self {
        let mut setup = Self::new();
        let own = PoolPair {
            trusted: PoolHandle::loading(),
            untrusted: PoolHandle::loading(),
        };
        setup.open(&own.trusted, "own-trusted", Durability::Written);
        setup.open(&own.untrusted, "own-untrusted", Durability::Written);
        let owners = HashMap::from([(workspace.parse().unwrap(), own.clone())]);
        let (pair, metrics) = (setup.pair.clone(), setup.metrics.clone());
        setup.cache = Cache::new(pair, owners, CacheLimits::default(), metrics).into();
        setup.own = Some(own);
        setup
    }

    /// A cache over pools that are not open yet.
    pub(crate) fn over(pair: PoolPair) -> Self {
        let metrics = CacheMetrics::new();
        let limits = CacheLimits::default();
        let cache = Cache::new(pair.clone(), HashMap::new(), limits, metrics.clone());
        Self {
            dir: TempDir::new().unwrap(),
            pair,
            own: None,
            metrics,
            cache: cache.into(),
        }
    }

    /// Like [`Setup::new`], with a bucket behind the pools.
    pub(crate) fn with_tier(tier: Tier) -> Self {
        let mut setup = Self::new();
        let limits = CacheLimits::default();
        let (pair, metrics) = (setup.pair.clone(), setup.metrics.clone());
        let cache = Cache::new(pair, HashMap::new(), limits, metrics);
        setup.cache = cache.with_tier(tier).into();
        setup
    }

    pub(crate) fn open(&self, handle: &PoolHandle, name: &str, durability: Durability) {
        self.open_on(Arc::new(RealDisk), handle, name, durability);
    }

    pub(crate) fn open_on(
        &self,
        disk: Arc<dyn Disk>,
        handle: &PoolHandle,
        name: &str,
        durability: Durability,
    ) {
        let options = PoolOptions {
            durability,
            free_reserve_bytes: 0,
            observer: self.metrics.observer(name),
            ..PoolOptions::new(POOL_BYTES)
        };
        let dir = self.dir.path().join(name);
        handle.load(|| Pool::open(disk, &dir, options));
    }

    pub(crate) fn own_pair(&self) -> &PoolPair {
        self.own.as_ref().unwrap()
    }

    pub(crate) async fn get(&self, who: &Who, name: &str) -> Option<Hit> {
        self.get_granted(&who.read(), name).await
    }

    pub(crate) async fn get_granted(&self, grant: &ReadGrant, name: &str) -> Option<Hit> {
        self.cache.get(grant, Dialect::Nx, &key(name)).await
    }

    pub(crate) fn get_at_hand(&self, who: &Who, name: &str) -> Result<Option<Hit>, NotAtHand> {
        let (grant, key) = (who.read(), key(name));
        self.cache.get_at_hand(&grant, Dialect::Nx, &key)
    }

    pub(crate) async fn read(&self, who: &Who, name: &str) -> Option<Vec<u8>> {
        let mut hit = self.get(who, name).await?;
        let mut read = Vec::new();
        while let Some(piece) = hit.body.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        Some(read)
    }

    pub(crate) async fn begin(&self, who: &Who, name: &str, size: Option<u64>) -> Upload {
        let grant = who.write();
        match self
            .cache
            .put(&grant, Dialect::Nx, &key(name), size, Bytes::new())
            .await
        {
            Ok(PutStart::Upload(upload)) => upload,
            Ok(PutStart::Exists) => panic!("{name} exists"),
            Err(refusal) => panic!("{name}: {refusal}"),
        }
    }

    pub(crate) async fn put(
        &self,
        who: &Who,
        name: &str,
        body: &[u8],
    ) -> Result<Stored, PutRefusal> {
        self.put_sized(who, name, Some(body.len() as u64), body)
            .await
    }

    pub(crate) async fn put_sized(
        &self,
        who: &Who,
        name: &str,
        size: Option<u64>,
        body: &[u8],
    ) -> Result<Stored, PutRefusal> {
        let grant = who.write();
        let start = self
            .cache
            .put(&grant, Dialect::Nx, &key(name), size, Bytes::new())
            .await?;
        let PutStart::Upload(mut upload) = start else {
            return Ok(Stored::Exists);
        };
        for chunk in body.chunks(100_000) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.finish().await
    }

    /// Removes every entry.
    pub(crate) async fn cache_purged(&self) {
        self.cache
            .change(
                &operator(),
                Change::Purge,
                Selection::Everything,
                false,
                |_, _| true,
            )
            .await
            .unwrap();
    }

    /// Flips a bit of the bytes `wanted` in a file of the pool `name`.
    pub(crate) fn rot(&self, name: &str, wanted: &[u8]) {
        for path in files(&self.dir.path().join(name)) {
            let content = std::fs::read(&path).unwrap();
            if let Some(at) = content
                .windows(wanted.len())
                .position(|bytes| bytes == wanted)
            {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(&[wanted[0] ^ 1], at as u64).unwrap();
                return;
            }
        }
        panic!("the bytes are in no file");
    }

    /// What a Prometheus server would get.
    pub(crate) fn metrics(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.cache.collector()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
