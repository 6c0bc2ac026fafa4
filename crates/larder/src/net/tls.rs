//! The TLS side of a port: its certificate, what it asks of clients, and both again when their files change.
//!
//! TLS 1.2 and 1.3 with rustls' own choice of cipher suites; HTTP/2 and HTTP/1.1 by ALPN. Nothing here moves bytes: a
//! connection takes the configuration of the moment ([`Tls::acceptor`]) and keeps it to its end.
//!
//! Always true:
//! - What cannot be used never replaces what can. The log hears of it once for each state of the files.
//! - A connection that has begun notices nothing of a change.
//! - A session of a client with a certificate is never resumed: resuming skips the verification, so a certificate that was
//!   revoked, or whose authority was taken away, would get in for as long as a ticket lives.

mod files;
mod names;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

pub(super) use names::names;

use crate::clock;
use crate::config::TlsFiles;

/// How often the files are looked at. Who renews certificates leaves days for it, so this is about patience, not safety.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How long before a certificate ends the log speaks of it: whoever renews automatically does so earlier.
const EXPIRY_NOTICE_SECS: i64 = 14 * 24 * 60 * 60;
/// And how often.
const EXPIRY_NOTICE_INTERVAL: Duration = Duration::from_hours(24);

/// What a TLS port presents and asks for.
pub(crate) struct Tls {
    current: ArcSwap<Current>,
    watched: Mutex<Watched>,
    failures: AtomicU64,
}

struct Current {
    acceptor: TlsAcceptor,
    /// Unix time.
    expires_at_secs: i64,
}

struct Watched {
    files: TlsFiles,
    stamps: Vec<Option<Stamp>>,
    /// When the log last heard that the certificate is about to end.
    noticed: Option<Instant>,
}

/// What changes with a file's content, its permissions, or what a link points to.
type Stamp = (u64, u64, u64, i64, i64);

impl Tls {
    /// Reads the files. An error says which of them it is about and what to do.
    pub(crate) fn load(files: TlsFiles) -> anyhow::Result<Self> {
        let stamps = stamps(&files);
        let tls = Self {
            current: ArcSwap::from_pointee(load(&files)?),
            watched: Mutex::new(Watched {
                files,
                stamps,
                noticed: None,
            }),
            failures: AtomicU64::new(0),
        };
        tls.notice_expiry(&mut tls.watched());
        Ok(tls)
    }

    /// Reads `files` and puts them in force for connections from now on; if they cannot be used, those that are in force
    /// stay. These are the ones that are followed, in either case.
    pub(crate) fn reload(&self, files: TlsFiles) {
        let mut watched = self.watched();
        watched.files = files;
        self.read_again(&mut watched);
    }

    /// Looks at the files now and then, until dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tls = Arc::clone(&self);
            // A look that panicked has said so; the next one is due all the same.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// Reads the files again if they have changed.
    fn look(&self) {
        let mut watched = self.watched();
        if watched.stamps != stamps(&watched.files) {
            self.read_again(&mut watched);
        }
        self.notice_expiry(&mut watched);
    }

    fn read_again(&self, watched: &mut Watched) {
        // Taken first: what changes while it is read is read again.
        watched.stamps = stamps(&watched.files);
        match load(&watched.files) {
            Ok(current) => {
                self.current.store(Arc::new(current));
                watched.noticed = None;
                tracing::info!("the TLS certificate was read again");
                self.notice_expiry(watched);
            }
            Err(error) => {
                tracing::error!("the TLS certificate stays as it was: {error:#}");
            }
        }
    }

    fn notice_expiry(&self, watched: &mut Watched) {
        let now_secs = i64::try_from(clock::now_ms() / 1000).unwrap_or(i64::MAX);
        let left_secs = self.expires_at_secs().saturating_sub(now_secs);
        let told = |noticed: Instant| noticed.elapsed() < EXPIRY_NOTICE_INTERVAL;
        if left_secs > EXPIRY_NOTICE_SECS || watched.noticed.is_some_and(told) {
            return;
        }
        watched.noticed = Some(Instant::now());
        let certificate = watched.files.certificate.display();
        if left_secs <= 0 {
            tracing::error!("the TLS certificate {certificate} has expired; clients refuse it");
        } else {
            let days = left_secs / (24 * 60 * 60);
            tracing::warn!("the TLS certificate {certificate} expires in {days} days; renew it");
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next connection is given.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.load().acceptor.clone()
    }

    /// Another handshake came to nothing.
    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Handshakes that came to nothing since the start.
    pub(crate) fn failure_count(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When the certificate in force ends, as Unix time.
    pub(crate) fn expires_at_secs(&self) -> i64 {
        self.current.load().expires_at_secs
    }
}

fn load(files: &TlsFiles) -> anyhow::Result<Current> {
    let (config, expires_at_secs) = files::server_config(files)?;
    Ok(Current {
        acceptor: Arc::new(config).into(),
        expires_at_secs,
    })
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    files.paths().map(stamp).collect()
}

/// Follows links: Kubernetes changes files by changing one.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = path.metadata().ok()?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), changed.0, changed.1))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use larder_testkit::tls::Authority;

    use super::*;
    use crate::config::ClientCertificates;

    const DAY: Duration = Duration::from_hours(24);

    fn files(folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
            clients: ClientCertificates::Off,
        }
    }

    /// A folder as Kubernetes makes one of a secret.
    fn secret(authority: &Authority, name: &str, days: u32) -> std::path::PathBuf {
        let identity = authority.server_for(DAY * days).unwrap();
        let folder = authority.folder().join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(identity.certificate, folder.join("certificate.pem")).unwrap();
        fs::copy(identity.key, folder.join("key.pem")).unwrap();
        folder
    }

    fn days_left(tls: &Tls) -> i64 {
        let now_secs = i64::try_from(clock::now_ms() / 1000).unwrap();
        (tls.expires_at_secs() - now_secs + 3600) / (24 * 60 * 60)
    }

    #[test]
    fn a_link_to_other_files_is_followed_and_to_broken_ones_is_not() {
        let authority = Authority::create().unwrap();
        let (first, second) = (
            secret(&authority, "first", 30),
            secret(&authority, "second", 60),
        );
        let broken = secret(&authority, "broken", 90);
        fs::copy(first.join("key.pem"), broken.join("key.pem")).unwrap();
        let link = authority.folder().join("link");
        let turn = |target: &Path| {
            let beside = authority.folder().join("beside");
            symlink(target, &beside).unwrap();
            fs::rename(beside, &link).unwrap();
        };
        turn(&first);
        let tls = Tls::load(files(&link)).unwrap();
        tls.look();
        assert_eq!(days_left(&tls), 30);
        turn(&second);
        tls.look();
        assert_eq!(days_left(&tls), 60);
        turn(&broken);
        tls.look();
        assert_eq!(days_left(&tls), 60, "the key is another certificate's");
        turn(&first);
        tls.look();
        assert_eq!(days_left(&tls), 30, "and is followed on");
    }

    #[test]
    fn the_log_hears_of_an_expiry_once_a_day() {
        let authority = Authority::create().unwrap();
        let tls = Tls::load(files(&secret(&authority, "soon", 3))).unwrap();
        let noticed = tls.watched().noticed;
        assert!(noticed.is_some());
        tls.look();
        assert_eq!(tls.watched().noticed, noticed);
        let lasting = Tls::load(files(&secret(&authority, "lasting", 60))).unwrap();
        assert_eq!(lasting.watched().noticed, None);
    }
}
