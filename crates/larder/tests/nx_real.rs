//! Real Nx from npm against the real program: what a team sees on its terminals.
//!
//! The newest supported version runs every test; the two older ones run the core list, because their cache clients differ only
//! in what they print. `cargo xtask test` installs them. Each assertion shows all that Nx printed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use larder_testkit::http::{Request, exchange};
use larder_testkit::nx::{NxRun, NxWorkspace, PinnedNx, RemoteCache};
use larder_testkit::{Access, Server, larder_binary, left_out, process};

const HIT: &str = "[remote cache]";
const BUILT: &str = "src.txt -> dist/index.js";

/// One server, one version of Nx.
struct Bench {
    server: Server,
    nx: PinnedNx,
}

impl Bench {
    /// `None` where Nx could not be installed, which `cargo xtask test` reports and which is never so in CI.
    fn open(version: &str) -> Option<Self> {
        if left_out("nx") {
            return None;
        }
        let nx = PinnedNx::installed(version).unwrap();
        let server = Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap();
        Some(Self { server, nx })
    }

    fn cache(&self, access: Access, scope: Option<&str>) -> RemoteCache {
        self.cache_with(&self.server.token(access, scope).unwrap())
    }

    fn cache_with(&self, token: &str) -> RemoteCache {
        RemoteCache {
            url: self.server.url(),
            token: Some(token.to_owned()),
        }
    }

    fn workspace(&self) -> NxWorkspace {
        NxWorkspace::create(&self.nx, 0).unwrap()
    }

    /// Nothing that the server has printed or kept in its log holds the token.
    #[track_caller]
    fn assert_silent_about(&self, cache: &RemoteCache) {
        let token = cache.token.as_deref().unwrap();
        assert!(token.starts_with("lrd_"), "no token: {token}");
        let output = self.server.output();
        assert!(
            !output.contains(token),
            "the server printed a token:\n{output}"
        );
        // Nor the random part alone, which is all that an attacker needs.
        assert!(
            !output.contains(&token[4..40]),
            "the server printed half a token:\n{output}"
        );
    }
}

/// What a build of `header` leaves: every file with its mode and bytes.
fn outputs(workspace: &NxWorkspace) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(workspace.header_dist()).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        found.insert(name, (mode, fs::read(&path).unwrap()));
    }
    found
}

fn build_with(workspace: &NxWorkspace, cache: &RemoteCache, variables: &[(&str, &str)]) -> NxRun {
    workspace
        .nx(&["build", "header"], cache, variables)
        .unwrap()
}

/// A build that really ran; what it left.
#[track_caller]
fn builds(workspace: &NxWorkspace, cache: &RemoteCache) -> BTreeMap<String, (u32, Vec<u8>)> {
    let run = build_with(workspace, cache, &[]);
    assert!(run.succeeded, "{}", run.output);
    assert!(run.output.contains(BUILT), "{}", run.output);
    assert!(!run.output.contains(HIT), "{}", run.output);
    outputs(workspace)
}

/// A build that came from the cache, with the log that the first one printed; what it left.
#[track_caller]
fn hits(workspace: &NxWorkspace, cache: &RemoteCache) -> BTreeMap<String, (u32, Vec<u8>)> {
    let run = build_with(workspace, cache, &[]);
    assert!(run.succeeded, "{}", run.output);
    assert!(run.output.contains(HIT), "{}", run.output);
    let outputs = outputs(workspace);
    let stamp = String::from_utf8(outputs["stamp.txt"].1.clone()).unwrap();
    let log = format!("built at {}", stamp.trim());
    assert!(
        run.output.contains(&log),
        "the log has no {log:?}: {}",
        run.output
    );
    outputs
}

/// What every version is asked: a build comes back whole on the same machine, on a second checkout and after a restart of the
/// server, and each kind of token does what it may.
fn check_core(version: &str) {
    let Some(mut bench) = Bench::open(version) else {
        return;
    };
    let trusted = bench.cache(Access::Trusted, None);
    let workspace = bench.workspace();

    let built = builds(&workspace, &trusted);
    assert_eq!(built["run.sh"].0, 0o755);
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &trusted), built);
    // Nx before 22 stores what a link points to instead of the link.
    let link = fs::symlink_metadata(workspace.header_dist().join("main.js")).unwrap();
    assert_eq!(link.is_symlink(), version != "20.8.4");

    bench.server.restart().unwrap();
    let clone = workspace.git_clone().unwrap();
    assert_eq!(hits(&clone, &trusted), built);

    let reader = bench.cache(Access::Reader, None);
    clone.wipe().unwrap();
    assert_eq!(hits(&clone, &reader), built);

    clone.wipe().unwrap();
    let run = build_with(&clone, &bench.cache_with("lrd_unknown"), &[]);
    assert!(!run.succeeded, "a bad token must be loud: {}", run.output);
    assert!(run.output.contains("Unauthorized:"), "{}", run.output);

    clone.wipe().unwrap();
    builds(&clone, &bench.cache_with(""));

    assert!(
        bench.server.stop().unwrap().success(),
        "{}",
        bench.server.output()
    );
    bench.assert_silent_about(&trusted);
    bench.assert_silent_about(&reader);
}

#[test]
fn nx_24_0_6_gets_back_what_it_stored() {
    check_core("24.0.6");
}

#[test]
fn nx_22_7_12_gets_back_what_it_stored() {
    check_core("22.7.12");
}

#[test]
fn nx_20_8_4_gets_back_what_it_stored() {
    check_core("20.8.4");
}

/// Real archives of a pull request are in order, however odd the outputs: long names, links up and down, holes.
fn check_archives(version: &str) {
    let Some(bench) = Bench::open(version) else {
        return;
    };
    let odd = match version {
        "20.8.4" => "files",
        "22.7.12" => "links",
        _ => "links inside",
    };
    let pull_request = bench.cache(Access::Isolated, Some("pr/7"));
    let workspace = bench.workspace();
    let run = build_with(&workspace, &pull_request, &[("ODD", odd)]);
    assert!(
        run.succeeded && run.output.contains(BUILT),
        "{}",
        run.output
    );
    let figures = exchange(bench.server.address(), &Request::get("/metrics")).unwrap();
    let figures = figures.text();
    let clean =
        r#"larder_inspected_total{dialect="nx",verdict="clean",fault="",writer="untrusted"} 1"#;
    assert!(
        figures.contains(clean),
        "{figures}\n{}",
        bench.server.output()
    );
    workspace.wipe().unwrap();
    let run = build_with(&workspace, &pull_request, &[("ODD", odd)]);
    assert!(run.succeeded && run.output.contains(HIT), "{}", run.output);
    let sparse = fs::metadata(workspace.header_dist().join("sparse.bin")).unwrap();
    assert_eq!(sparse.len(), (64 << 20) + 3);
}

#[test]
fn what_nx_24_0_6_stores_for_a_pull_request_is_never_taken_for_hostile() {
    check_archives("24.0.6");
}

#[test]
fn what_nx_22_7_12_stores_for_a_pull_request_is_never_taken_for_hostile() {
    check_archives("22.7.12");
}

#[test]
fn what_nx_20_8_4_stores_for_a_pull_request_is_never_taken_for_hostile() {
    check_archives("20.8.4");
}

#[test]
fn a_readers_build_is_not_stored_and_does_not_fail() {
    let Some(bench) = Bench::open("24.0.6") else {
        return;
    };
    let workspace = bench.workspace();
    let reader = bench.cache(Access::Reader, None);
    let first = builds(&workspace, &reader);
    workspace.wipe().unwrap();
    let second = builds(&workspace, &reader);
    assert_ne!(first["stamp.txt"], second["stamp.txt"]);
    workspace.wipe().unwrap();
    builds(&workspace, &bench.cache(Access::Trusted, None));
}

#[test]
fn an_isolated_build_is_seen_by_its_own_scope_and_never_by_trunk() {
    let Some(bench) = Bench::open("24.0.6") else {
        return;
    };
    let pull_request = bench.cache(Access::Isolated, Some("pr/7"));
    let other_request = bench.cache(Access::Isolated, Some("pr/8"));
    let trunk = bench.cache(Access::Trusted, None);
    let workspace = bench.workspace();

    let of_request = builds(&workspace, &pull_request);
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &pull_request), of_request);

    workspace.wipe().unwrap();
    let of_other = builds(&workspace, &other_request);
    assert_ne!(of_other["stamp.txt"], of_request["stamp.txt"]);

    workspace.wipe().unwrap();
    let of_trunk = builds(&workspace, &trunk);
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &trunk), of_trunk);

    // From now on trunk's entry stands in front of the request's own.
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &pull_request), of_trunk);
}

#[test]
fn a_bad_token_is_told_in_our_words_and_an_empty_one_builds_uncached() {
    let Some(bench) = Bench::open("24.0.6") else {
        return;
    };
    let workspace = bench.workspace();
    for bad in [
        "nonsense",
        "lrd_0000000000000000000000000000000000000000000000000",
    ] {
        let run = build_with(&workspace, &bench.cache_with(bad), &[]);
        assert!(!run.succeeded, "{}", run.output);
        let line = run
            .output
            .lines()
            .find(|line| line.contains("Unauthorized:"));
        let line = line.unwrap_or_else(|| panic!("no line for the user: {}", run.output));
        assert!(line.to_lowercase().contains("token"), "not helpful: {line}");
        assert!(!run.output.contains("Misconfigured"), "{}", run.output);
        assert!(
            !bench.server.output().contains(bad),
            "{}",
            bench.server.output()
        );
    }
    builds(&workspace, &bench.cache_with(""));
    workspace.wipe().unwrap();
    builds(
        &workspace,
        &RemoteCache {
            url: bench.server.url(),
            token: None,
        },
    );
    workspace.wipe().unwrap();
    // A slash too many is the most common slip in the address.
    let trusted = bench.cache(Access::Trusted, None);
    let with_slash = RemoteCache {
        url: format!("{}/", trusted.url),
        ..trusted.clone()
    };
    let built = builds(&workspace, &with_slash);
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &trusted), built);
}

#[test]
fn forty_projects_at_once_are_stored_and_come_back() {
    const PROJECTS: usize = 40;
    let Some(bench) = Bench::open("24.0.6") else {
        return;
    };
    let workspace = NxWorkspace::create(&bench.nx, PROJECTS).unwrap();
    let trusted = bench.cache(Access::Trusted, None);
    let build_all = || {
        let run = workspace
            .nx(&["run-many", "--target=build"], &trusted, &[])
            .unwrap();
        assert!(run.succeeded, "{}", run.output);
        run.output
    };
    let first = build_all();
    assert!(!first.contains(HIT), "{first}");
    workspace.wipe().unwrap();
    let second = build_all();
    // The forty, and `header` and `app` of the workspace itself.
    let all = PROJECTS + 2;
    assert!(
        second.contains(&format!("for {all} out of {all} tasks")),
        "{second}"
    );
    for number in 0..PROJECTS {
        let out = workspace
            .path()
            .join(format!("packages/p{number}/dist/out.txt"));
        assert_eq!(fs::read_to_string(out).unwrap(), format!("{number}\n"));
    }
}

#[test]
fn an_output_of_100_mb_comes_back_bit_for_bit() {
    let Some(bench) = Bench::open("24.0.6") else {
        return;
    };
    let workspace = bench.workspace();
    let trusted = bench.cache(Access::Trusted, None);
    let run = build_with(&workspace, &trusted, &[("BIG_MB", "100")]);
    assert!(run.succeeded, "{}", run.output);
    let built = outputs(&workspace);
    assert_eq!(built["big.bin"].1.len(), 100 << 20);
    workspace.wipe().unwrap();
    assert!(hits(&workspace, &trusted) == built, "an output differs");
}

#[test]
fn an_upload_cut_by_a_kill_leaves_no_entry() {
    let Some(mut bench) = Bench::open("24.0.6") else {
        return;
    };
    let (workspace, trusted) = (bench.workspace(), bench.cache(Access::Trusted, None));
    let interrupted = build_with_a_kill_during_its_upload(&mut bench, &workspace, &trusted, |_| {});
    assert!(
        !interrupted.succeeded,
        "who stored it? {}",
        interrupted.output
    );
    bench.server.start_again().unwrap();

    workspace.wipe().unwrap();
    let built = builds(&workspace, &trusted);
    workspace.wipe().unwrap();
    assert_eq!(hits(&workspace, &trusted), built);
}

#[test]
fn an_upload_that_nx_retries_after_a_kill_is_whole() {
    let Some(mut bench) = Bench::open("24.0.6") else {
        return;
    };
    let (workspace, trusted) = (bench.workspace(), bench.cache(Access::Trusted, None));
    let interrupted =
        build_with_a_kill_during_its_upload(&mut bench, &workspace, &trusted, |server| {
            server.start_again().unwrap();
        });
    let built = outputs(&workspace);
    workspace.wipe().unwrap();
    if interrupted.succeeded {
        assert!(
            hits(&workspace, &trusted) == built,
            "the entry is not what was built"
        );
    } else {
        // Nx gives up after a second or so, which a busy machine may need for the start.
        builds(&workspace, &trusted);
    }
}

/// Builds 100 MB, kills the server while they arrive, does `then`, and waits for the end of the build.
fn build_with_a_kill_during_its_upload(
    bench: &mut Bench,
    workspace: &NxWorkspace,
    cache: &RemoteCache,
    then: impl FnOnce(&mut Server),
) -> NxRun {
    let pid = bench.server.pid().unwrap();
    std::thread::scope(|scope| {
        let building = scope.spawn(|| build_with(workspace, cache, &[("BIG_MB", "100")]));
        process::wait_until("an upload to be under way", Duration::from_mins(2), || {
            Ok((bytes_written(pid) > 20 << 20).then_some(()))
        })
        .unwrap();
        bench.server.kill().unwrap();
        then(&mut bench.server);
        building.join().unwrap()
    })
}

/// How much a process has written to files and sockets.
fn bytes_written(pid: u32) -> u64 {
    let io = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("io")).unwrap();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .unwrap();
    line.parse().unwrap()
}
