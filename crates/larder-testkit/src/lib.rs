//! Real parts for tests: the larder binary, an HTTP client that can misbehave, workspaces of real clients.
//!
//! Nothing here imitates Larder or a client. [`Server`] runs the program itself in a temporary home, [`http::Connection`]
//! writes to its socket exactly the bytes it is told to, and [`nx`], [`moon`], [`bazel`], [`casd`], [`grpcio`], [`nginx`], [`s3`], [`azurite`] and
//! [`postgres`] run the programs of those names.
//!
//! Always true: whatever this crate waits for has a deadline, and whatever it starts ends with the value that started it.

pub mod azurite;
pub mod bazel;
pub mod casd;
pub mod checkout;
pub mod grpcio;
pub mod http;
mod identity;
#[cfg(feature = "tls")]
pub mod issuer;
pub mod moon;
pub mod nginx;
pub mod nx;
mod pinned;
pub mod postgres;
pub mod process;
pub mod s3;
mod server;
#[cfg(feature = "tls")]
pub mod tls;
pub mod upkeep;

use std::path::{Path, PathBuf};

pub use identity::Identity;
pub use server::{Access, Server, ServerOptions, TlsOptions};

/// The root of the repository.
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lives two folders below the root")
        .to_path_buf()
}

/// The folder that cargo builds into; clients are installed below it.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository_root().join("target"), PathBuf::from)
}

/// The larder program to test: `LARDER_BIN` if it is set, else the one that cargo built for this test
/// (pass `env!("CARGO_BIN_EXE_larder")`).
pub fn larder_binary(built: &str) -> PathBuf {
    std::env::var_os("LARDER_BIN").map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// Why the tests of `part` cannot run on this machine, if `cargo xtask test` said so.
///
/// It sets `LARDER_TEST_WITHOUT` (a list with commas) only where it could not install a part, and never when `CI=true`.
pub fn left_out(part: &str) -> bool {
    std::env::var("LARDER_TEST_WITHOUT")
        .is_ok_and(|parts| parts.split(',').any(|left_out| left_out == part))
}
