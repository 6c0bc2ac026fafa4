//! Opening a data directory: its lock, its pools, the cache over them, and the first start's
//! workspace and token.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use larder_auth::{Authenticator, TokenSecret};
use larder_cache::{Cache, CacheMetrics};
use larder_ledger::{Ledger, LedgerError, NewToken};
use larder_model::AccessKind;
use larder_protocols::{BodyLimits, Gateway, Journal, WorkspaceTable, default_workspace};
use larder_store::{DataDir, OpenError};

use crate::bucket::Depot;
use crate::config::{Budgets, Settings};
use crate::pools::{self, Pools, Purpose};
use crate::{clock, place};

/// A data directory in use: nobody else has it.
pub(crate) struct Engine {
    pub(crate) pools: Arc<Pools>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) journal: Arc<Journal>,
    /// It is not run yet.
    pub(crate) depot: Option<Depot>,
    /// Held as long as anything uses the directory.
    _lock: DataDir,
}

impl Engine {
    /// Starts to open the pools of a locked directory; they load while the engine is in use.
    pub(crate) async fn open(
        lock: DataDir,
        ledger: Ledger,
        settings: &Settings,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let budgets = match purpose {
            Purpose::Serve => Budgets::plan(settings, pools::disk_figures(lock.path(), settings)?)?,
            Purpose::Command => Budgets::offline(&pools::on_disk(lock.path())),
        };
        let depot = match &settings.bucket {
            Some(bucket) => Some(Depot::open(bucket, lock.path(), &ledger).await?),
            None => None,
        };
        let metrics = CacheMetrics::new();
        let pools = Arc::new(Pools::start(&lock, settings, &budgets, &metrics, purpose)?);
        let cache = Arc::new(pools.cache(settings, metrics, depot.as_ref().map(Depot::tier)));
        let authenticator = Arc::new(Authenticator::new());
        let journal = Arc::new(Journal::new(clock::now_ms));
        let gateway = Arc::new(Gateway::new(
            Arc::clone(&cache),
            Arc::clone(&authenticator),
            workspace_table(settings),
            ledger,
            Arc::clone(&journal),
            BodyLimits {
                idle: settings.limits.stall_timeout,
                ..BodyLimits::default()
            },
            clock::now_ms,
        ));
        gateway.set_inspected_writers(settings.nx.inspect);
        Ok(Self {
            pools,
            cache,
            gateway,
            authenticator,
            journal,
            depot,
            _lock: lock,
        })
    }
}

/// Takes the directory's lock. `advice` says what to do when another process has it.
pub(crate) fn lock(data_dir: &Path, advice: &str) -> anyhow::Result<DataDir> {
    let path = place::absolute(data_dir);
    match DataDir::lock(&path) {
        Err(OpenError::InUse { holder, .. }) => {
            anyhow::bail!("another larder ({holder}) has {}; {advice}", path.display())
        }
        locked => {
            locked.with_context(|| format!("cannot use {} as data directory", path.display()))
        }
    }
}

/// Makes the data directory, for its owner alone, unless it exists.
pub(crate) fn make_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    if data_dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("cannot create the data directory {}", data_dir.display()))
}

/// Files in it are their owner's alone, but names and sizes may tell something, and older files
/// may be less private.
pub(crate) fn warn_if_others_can_read(data_dir: &Path) {
    const OTHERS: u32 = 0o007;
    let mode = data_dir.metadata().map(|found| found.permissions().mode());
    if mode.is_ok_and(|mode| mode & OTHERS != 0) {
        let path = place::absolute(data_dir);
        tracing::warn!(
            "every user of this machine may look into the data directory; close it with: chmod 0700 {}",
            path.display()
        );
    }
}

/// The workspaces that the configuration says something about.
pub(crate) fn workspace_table(settings: &Settings) -> WorkspaceTable {
    let workspaces = settings.workspaces.iter();
    WorkspaceTable::new(workspaces.map(|(name, workspace)| (name.clone(), workspace.public)))
}

/// On the first start: makes the first workspace and a trusted token for it.
pub(crate) async fn first_start(ledger: &Ledger) -> anyhow::Result<Option<TokenSecret>> {
    // Rows of tokens stay for good: a ledger without any has never given access to anybody.
    if !ledger.tokens().await?.is_empty() {
        return Ok(None);
    }
    let workspace = default_workspace();
    let now_ms = clock::now_ms();
    match ledger.create_workspace(workspace.as_str(), now_ms).await {
        // A first start may have been cut short between its two steps.
        Ok(()) | Err(LedgerError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let secret = TokenSecret::generate();
    ledger
        .create_token(NewToken {
            hash: secret.hash().0,
            workspace: workspace.to_string(),
            access: AccessKind::Trusted.name().to_owned(),
            scope: None,
            name: Some("first start".to_owned()),
            created_at_ms: now_ms,
            expires_at_ms: None,
        })
        .await?;
    Ok(Some(secret))
}

/// What a newcomer needs to paste, with the one token that is ever shown.
pub(crate) fn welcome(secret: &TokenSecret, url: &str, data_dir: &Path) -> String {
    let data_dir = place::absolute(data_dir);
    let data_dir = data_dir.display().to_string();
    let quoted = format!("'{}'", data_dir.replace('\'', r"'\''"));
    let token = secret.expose();
    // A gRPC client takes a host and a port, and no path.
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or(authority);
    let grpc = if url.starts_with("https:") {
        "grpcs"
    } else {
        "grpc"
    };
    format!(
        "\n\
         First start: made the workspace \"default\" and a trusted token. It is shown only now.\n\
         Where trunk is built:\n\
         \n\
         For Nx:\n\
         \n\
         \x20 export NX_SELF_HOSTED_REMOTE_CACHE_SERVER={url}\n\
         \x20 export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN={token}\n\
         \n\
         For moon, in the environment and in .moon/workspace.yml:\n\
         \n\
         \x20 export MOON_REMOTE_HOST={grpc}://{authority}\n\
         \x20 export LARDER_TOKEN={token}\n\
         \n\
         \x20 remote:\n\
         \x20   host: '{grpc}://{authority}'\n\
         \x20   auth:\n\
         \x20     token: 'LARDER_TOKEN'\n\
         \n\
         For Bazel, in .bazelrc:\n\
         \n\
         \x20 build --remote_cache={grpc}://{authority}\n\
         \x20 build --remote_header=\"authorization=Bearer {token}\"\n\
         \n\
         Pull requests must not have this token. They get one that reads what trunk wrote and\n\
         writes to a scope of its own, which trunk never sees:\n\
         \n\
         \x20 larder token create --access isolated --data-dir {quoted}\n",
    )
}
