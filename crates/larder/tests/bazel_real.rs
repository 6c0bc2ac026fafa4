//! Real Bazel against the real program: what a team sees on its terminals.
//!
//! It is the one version that a package brings, 4.2.3, which has two peculiarities: over gRPC it fails the build when the server
//! says that it may not upload (so the server does not say that to it), and when the server refuses its credential (which is meant
//! to be loud). Each assertion shows all that Bazel printed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_testkit::bazel::{BazelApi, BazelCache, BazelRun, BazelWorkspace};
use larder_testkit::http::{Connection, Request};
use larder_testkit::{Access, Server, ServerOptions, larder_binary, left_out};

/// The genrules that `//:sum` consists of.
const ACTIONS: usize = 19;
const OUTPUTS: [&str; 5] = ["stamp.txt", "run.sh", "empty.txt", "large.bin", "sum.txt"];
const APIS: [BazelApi; 2] = [BazelApi::Grpc, BazelApi::Http];
const MINIMAL: &str = "--remote_download_minimal";

/// `None` where Bazel could not be installed, which `cargo xtask test` reports and which is never so in CI.
fn open(options: ServerOptions) -> Option<Server> {
    if left_out("bazel") {
        return None;
    }
    Some(Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap())
}

fn cache(server: &Server, api: BazelApi, access: Access, scope: Option<&str>) -> BazelCache {
    cache_with(server, api, Some(&server.token(access, scope).unwrap()))
}

fn cache_with(server: &Server, api: BazelApi, token: Option<&str>) -> BazelCache {
    BazelCache {
        address: server.address(),
        api,
        instance: format!("bazel/{api:?}"),
        token: token.map(str::to_owned),
    }
}

fn build(workspace: &BazelWorkspace, cache: &BazelCache, arguments: &[&str]) -> BazelRun {
    let run = workspace.build(cache, arguments).unwrap();
    assert!(run.succeeded, "{}", run.output);
    run
}

/// What `//:sum` and what it needs left: every file with its mode and bytes.
fn outputs(workspace: &BazelWorkspace) -> BTreeMap<&'static str, (bool, Vec<u8>)> {
    let read = |name| {
        let path = workspace.output(name);
        let executable = fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
        (name, (executable, fs::read(path).unwrap()))
    };
    OUTPUTS.map(read).into()
}

/// A build in which every action ran; what it left.
#[track_caller]
fn builds(
    workspace: &BazelWorkspace,
    cache: &BazelCache,
) -> BTreeMap<&'static str, (bool, Vec<u8>)> {
    let run = build(workspace, cache, &["//:sum"]);
    assert_eq!(run.remote_hits(), 0, "{}", run.output);
    outputs(workspace)
}

/// A build in which every action was a hit; what it left.
#[track_caller]
fn hits(workspace: &BazelWorkspace, cache: &BazelCache) -> BTreeMap<&'static str, (bool, Vec<u8>)> {
    let run = build(workspace, cache, &["//:sum"]);
    assert_eq!(run.remote_hits(), ACTIONS, "{}", run.output);
    assert!(!run.output.contains("WARNING: "), "{}", run.output);
    outputs(workspace)
}

#[test]
fn bazel_gets_back_what_it_stored() {
    let Some(mut server) = open(ServerOptions::default()) else {
        return;
    };
    for api in APIS {
        let trusted = cache(&server, api, Access::Trusted, None);
        let workspace = BazelWorkspace::create().unwrap();
        let built = builds(&workspace, &trusted);
        workspace.clean().unwrap();
        assert!(hits(&workspace, &trusted) == built, "an output differs");

        server.restart().unwrap();
        let clone = BazelWorkspace::create().unwrap();
        assert!(hits(&clone, &trusted) == built, "an output differs");

        let reader = cache(&server, api, Access::Reader, None);
        clone.clean().unwrap();
        assert!(hits(&clone, &reader) == built, "an output differs");
    }
    assert!(server.stop().unwrap().success(), "{}", server.output());
}

#[test]
fn a_build_without_downloads_fetches_what_a_later_action_needs() {
    let Some(server) = open(ServerOptions::default()) else {
        return;
    };
    for api in APIS {
        let trusted = cache(&server, api, Access::Trusted, None);
        let workspace = BazelWorkspace::create().unwrap();
        let built = builds(&workspace, &trusted);

        let clone = BazelWorkspace::create().unwrap();
        let run = build(&clone, &trusted, &["//:sum", MINIMAL]);
        assert_eq!(run.remote_hits(), ACTIONS, "{}", run.output);
        assert!(!clone.output("sum.txt").exists(), "it was downloaded");

        // The inputs of this one are nowhere but in the cache.
        let run = build(&clone, &trusted, &["//:fresh", MINIMAL]);
        assert_eq!(run.remote_hits(), 0, "{}", run.output);
        build(&clone, &trusted, &["//:sum"]);
        assert!(outputs(&clone) == built, "an output differs");
    }
}

#[test]
fn a_readers_build_is_not_stored_and_does_not_fail() {
    let Some(server) = open(ServerOptions::default()) else {
        return;
    };
    for api in APIS {
        let reader = cache(&server, api, Access::Reader, None);
        let workspace = BazelWorkspace::create().unwrap();
        let first = builds(&workspace, &reader);
        workspace.clean().unwrap();
        let second = builds(&workspace, &reader);
        assert_ne!(first["stamp.txt"], second["stamp.txt"]);
    }
}

#[test]
fn an_isolated_build_is_seen_by_its_own_scope_and_never_by_trunk() {
    let Some(server) = open(ServerOptions::default()) else {
        return;
    };
    for api in APIS {
        let pull_request = cache(&server, api, Access::Isolated, Some("pr/7"));
        let trunk = cache(&server, api, Access::Trusted, None);
        let workspace = BazelWorkspace::create().unwrap();
        let of_request = builds(&workspace, &pull_request);
        workspace.clean().unwrap();
        assert!(
            hits(&workspace, &pull_request) == of_request,
            "an output differs"
        );
        workspace.clean().unwrap();
        let of_trunk = builds(&workspace, &trunk);
        assert_ne!(of_trunk["stamp.txt"], of_request["stamp.txt"]);
        workspace.clean().unwrap();
        assert!(hits(&workspace, &pull_request) == of_trunk, "not trunk's");
    }
}

#[test]
fn a_bad_token_is_told_in_our_words_and_an_empty_one_builds_uncached() {
    let Some(server) = open(ServerOptions::default()) else {
        return;
    };
    let workspace = BazelWorkspace::create().unwrap();
    for api in APIS {
        for anonymous in [Some(""), None] {
            workspace.clean().unwrap();
            builds(&workspace, &cache_with(&server, api, anonymous));
        }
    }
    workspace.clean().unwrap();
    let bad = |api| cache_with(&server, api, Some("lrd_unknown"));
    let run = workspace.build(&bad(BazelApi::Grpc), &["//:sum"]).unwrap();
    let words = "UNAUTHENTICATED: this is not a whole Larder token";
    assert!(run.output.contains(words), "{}", run.output);
    let run = workspace.build(&bad(BazelApi::Http), &["//:sum"]).unwrap();
    assert!(run.output.contains("401 Unauthorized"), "{}", run.output);
}

#[test]
fn a_credential_in_the_address_is_one_too() {
    let Some(server) = open(ServerOptions::default()) else {
        return;
    };
    let token = server.token(Access::Trusted, None).unwrap();
    let workspace = BazelWorkspace::create().unwrap();
    // Bazel encodes it with the alphabet for URLs.
    let with_user = format!("--remote_cache=http://larder:{token}@{}", server.address());
    let nobody = cache_with(&server, BazelApi::Http, None);
    let run = build(&workspace, &nobody, &["//:sum", &with_user]);
    assert_eq!(run.remote_hits(), 0, "{}", run.output);
    workspace.clean().unwrap();
    let run = build(&workspace, &nobody, &["//:sum", &with_user]);
    assert_eq!(run.remote_hits(), ACTIONS, "{}", run.output);
}

#[test]
fn a_full_pool_under_eviction_breaks_no_build() {
    const ROUNDS: usize = 6;
    let Some(server) = open(small_pools()) else {
        return;
    };
    let token = server.token(Access::Trusted, None).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| fill(&server, &token, &|_| over.load(Ordering::Relaxed)));
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for api in APIS {
                let cache = cache_with(&server, api, Some(&token));
                let workspace = BazelWorkspace::create().unwrap();
                for round in 0..ROUNDS {
                    fs::write(workspace.path().join("round.txt"), round.to_string()).unwrap();
                    if round % 3 == 0 {
                        workspace.clean().unwrap();
                    }
                    let minimal = (round % 2 == 0).then_some(MINIMAL);
                    let arguments: Vec<&str> = ["//:fresh"].into_iter().chain(minimal).collect();
                    build(&workspace, &cache, &arguments);
                }
            }
        }));
        over.store(true, Ordering::Relaxed);
        let stored_bytes = filling.join().unwrap();
        if let Err(panic) = built {
            std::panic::resume_unwind(panic);
        }
        assert!(
            stored_bytes > 64 << 20,
            "only {stored_bytes} bytes: nothing was evicted"
        );
    });
}

#[test]
fn what_a_build_left_in_the_cache_outlives_a_pool_that_is_filled_four_times() {
    for api in APIS {
        // One for each: the first build's outputs are protected and fill half the pool.
        let Some(server) = open(small_pools()) else {
            return;
        };
        let token = server.token(Access::Trusted, None).unwrap();
        let cache = cache_with(&server, api, Some(&token));
        builds(&BazelWorkspace::create().unwrap(), &cache);
        let workspace = BazelWorkspace::create().unwrap();
        let run = build(&workspace, &cache, &["//:sum", MINIMAL]);
        assert_eq!(run.remote_hits(), ACTIONS, "{}", run.output);
        assert!(!workspace.output("sum.txt").exists(), "it was downloaded");

        let stored_bytes = fill(&server, &token, &|stored_bytes| stored_bytes >= 128 << 20);
        assert!(stored_bytes >= 128 << 20, "only {stored_bytes} bytes");
        // Its inputs are nowhere else.
        build(&workspace, &cache, &["//:fresh", MINIMAL]);
    }
}

fn small_pools() -> ServerOptions {
    ServerOptions {
        config: Some("[store]\ntrusted = \"32MiB\"\nuntrusted = \"32MiB\"\n".to_owned()),
        ..ServerOptions::default()
    }
}

/// Stores entries, one after the other, until `is_enough` of the bytes so far; how many bytes.
fn fill(server: &Server, token: &str, is_enough: &dyn Fn(usize) -> bool) -> usize {
    const ENTRIES_MAX: u64 = 100_000;
    static NAMES: AtomicU64 = AtomicU64::new(0);

    const ENTRY_BYTES: usize = 200_000;
    let mut connection = Connection::open(server.address()).unwrap();
    let mut stored_bytes = 0;
    // Names that no call before has used.
    let first = NAMES.fetch_add(ENTRIES_MAX, Ordering::Relaxed);
    for number in first..first + ENTRIES_MAX {
        if is_enough(stored_bytes) {
            break;
        }
        // Nx's entries share the pool with Bazel's, and need no digest.
        let key = format!("/v1/cache/{number:064x}");
        let request = Request::put(&key, vec![number as u8; ENTRY_BYTES]).bearer(token);
        // Anything else is a full pool, which is answered in this way too.
        if connection.exchange(&request).unwrap().status == 200 {
            stored_bytes += ENTRY_BYTES;
        }
    }
    stored_bytes
}
