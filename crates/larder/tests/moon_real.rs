//! Real moon from npm against the real program: what a team sees on its terminals.
//!
//! Each supported version runs the core list through each of its three clients; what the versions have in common is asked of the
//! newest. `cargo xtask test` installs them. Each assertion shows all that moon printed, and no run is tried twice: moon silently
//! goes on without a cache when a server answers late, and that must be seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use larder_testkit::moon::{MoonApi, MoonCache, MoonRun, MoonWorkspace, PinnedMoon};
use larder_testkit::{Access, Server, ServerOptions, larder_binary, left_out};

const NEWEST: &str = "2.5.5";
const HIT: &str = "cached from remote";
const LOG: &str = "built-on-stdout";

/// One server, one version of moon.
struct Bench {
    server: Server,
    moon: PinnedMoon,
}

impl Bench {
    /// `None` where moon could not be installed, which `cargo xtask test` reports and which is never so in CI.
    fn open(version: &str) -> Option<Self> {
        Self::open_with(version, ServerOptions::default())
    }

    fn open_with(version: &str, options: ServerOptions) -> Option<Self> {
        if left_out("moon") {
            return None;
        }
        let moon = PinnedMoon::installed(version).unwrap();
        let larder = larder_binary(env!("CARGO_BIN_EXE_larder"));
        let server = Server::start_with(larder, options).unwrap();
        Some(Self { server, moon })
    }

    fn cache(&self, api: MoonApi, access: Access, scope: Option<&str>) -> MoonCache {
        self.cache_with(api, Some(&self.server.token(access, scope).unwrap()))
    }

    fn cache_with(&self, api: MoonApi, token: Option<&str>) -> MoonCache {
        MoonCache {
            address: self.server.address(),
            api,
            instance: None,
            token: token.map(str::to_owned),
        }
    }

    fn workspace(&self) -> MoonWorkspace {
        MoonWorkspace::create(&self.moon).unwrap()
    }
}

/// A file as moon left it: what it restores must be the same in all of this.
#[derive(Debug, PartialEq, Eq)]
struct Output {
    mode: u32,
    mtime: (i64, i64),
    bytes: Vec<u8>,
}

type Outputs = BTreeMap<String, Output>;

/// All that is below the outputs of `project`.
fn outputs(workspace: &MoonWorkspace, project: &str) -> Outputs {
    fn collect(folder: &Path, prefix: &str, found: &mut Outputs) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                collect(&path, &format!("{name}/"), found);
                continue;
            }
            let output = Output {
                mode: metadata.mode(),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                bytes: fs::read(&path).unwrap(),
            };
            found.insert(name, output);
        }
    }
    let mut found = Outputs::new();
    collect(&workspace.dist(project), "", &mut found);
    found
}

/// A task that really ran, and whatever moon printed; what it left.
#[track_caller]
fn builds_saying(workspace: &MoonWorkspace, project: &str, cache: &MoonCache) -> (Outputs, String) {
    let MoonRun { succeeded, output } = workspace.build(project, cache).unwrap();
    assert!(succeeded, "{output}");
    assert!(output.contains(LOG), "{output}");
    assert!(!output.contains(HIT), "{output}");
    (outputs(workspace, project), output)
}

/// A task that really ran, without a word of complaint; what it left.
#[track_caller]
fn builds(workspace: &MoonWorkspace, project: &str, cache: &MoonCache) -> Outputs {
    let (outputs, printed) = builds_saying(workspace, project, cache);
    assert!(!complains(&printed), "{printed}");
    outputs
}

/// A task that came from the cache, with the log that the first run printed; what it left.
#[track_caller]
fn hits(workspace: &MoonWorkspace, project: &str, cache: &MoonCache) -> Outputs {
    let MoonRun { succeeded, output } = workspace.build(project, cache).unwrap();
    assert!(succeeded, "{output}");
    assert!(output.contains(HIT), "{output}");
    assert!(output.contains(LOG), "{output}");
    assert!(!complains(&output), "{output}");
    outputs(workspace, project)
}

fn complains(printed: &str) -> bool {
    printed.contains("WARN") || printed.contains("ERROR")
}

/// Comparing with `assert_eq` would print megabytes.
#[track_caller]
fn assert_same(restored: &Outputs, built: &Outputs) {
    let names = |outputs: &Outputs| outputs.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(restored), names(built));
    for (name, built) in built {
        let restored = &restored[name];
        assert_eq!(restored.mode, built.mode, "the mode of {name}");
        assert_eq!(restored.mtime, built.mtime, "the mtime of {name}");
        assert!(restored.bytes == built.bytes, "{name} has other bytes");
    }
}

/// What every version is asked through every client: a run comes back whole on the same machine, on a second checkout and after
/// a restart of the server, and each kind of token does what it may.
fn check_core(version: &str, api: MoonApi) {
    let Some(mut bench) = Bench::open(version) else {
        return;
    };
    let trusted = bench.cache(api, Access::Trusted, None);
    let workspace = bench.workspace();

    let built = builds(&workspace, "app", &trusted);
    let large = builds(&workspace, "large", &trusted);
    assert_eq!(built["sub/run.sh"].mode & 0o777, 0o755);
    assert!(built["empty.txt"].bytes.is_empty());
    assert_eq!(large.len(), 42);
    workspace.wipe().unwrap();
    assert_same(&hits(&workspace, "app", &trusted), &built);
    assert_same(&hits(&workspace, "large", &trusted), &large);

    bench.server.restart().unwrap();
    let clone = workspace.git_clone().unwrap();
    assert_same(&hits(&clone, "app", &trusted), &built);
    assert_same(&hits(&clone, "large", &trusted), &large);

    let reader = bench.cache(api, Access::Reader, None);
    clone.wipe().unwrap();
    assert_same(&hits(&clone, "app", &reader), &built);
    let (unstored, _) = builds_saying(&clone, "steady", &reader);
    assert_eq!(unstored.len(), 1);
    clone.wipe().unwrap();
    builds_saying(&clone, "steady", &reader);

    clone.wipe().unwrap();
    check_bad_token(&bench, &clone, version, api);

    assert!(
        bench.server.stop().unwrap().success(),
        "{}",
        bench.server.output()
    );
    for cache in [&trusted, &reader] {
        let token = cache.token.as_deref().unwrap();
        // The random part alone is all that an attacker needs.
        for secret in [token, &token[4..40]] {
            assert!(
                !bench.server.output().contains(secret),
                "the server printed a token:\n{}",
                bench.server.output()
            );
        }
    }
}

/// A bad token is loud: moon shows our words where it shows any.
fn check_bad_token(bench: &Bench, workspace: &MoonWorkspace, version: &str, api: MoonApi) {
    let bad = bench.cache_with(api, Some("lrd_unknown"));
    let run = workspace.build("app", &bad).unwrap();
    // moon 1.41 breaks long lines and draws a border.
    let said = run.output.replace('│', " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if api == MoonApi::Http {
        assert!(said.contains("(401 Unauthorized)"), "{}", run.output);
    } else {
        assert!(
            said.contains("does not have valid authentication credentials"),
            "{}",
            run.output
        );
        assert!(said.contains(OUR_WORDS), "{}", run.output);
    }
    assert!(!run.output.contains(HIT), "{}", run.output);
    // The versions differ in how loud they are: 1.41 refuses to run over gRPC, the others run without a cache.
    let runs = version != "1.41.7" || api == MoonApi::Http;
    assert_eq!(run.succeeded, runs, "{}", run.output);
}

/// How the server's word on an unknown token begins.
const OUR_WORDS: &str = "this is not a whole Larder token";

#[test]
fn moon_2_5_5_gets_back_what_it_stored_over_grpc() {
    check_core("2.5.5", MoonApi::Grpc);
}

#[test]
fn moon_2_5_5_gets_back_what_it_stored_over_grpc_with_zstd() {
    check_core("2.5.5", MoonApi::GrpcZstd);
}

#[test]
fn moon_2_5_5_gets_back_what_it_stored_over_http() {
    check_core("2.5.5", MoonApi::Http);
}

#[test]
fn moon_2_4_3_gets_back_what_it_stored_over_grpc() {
    check_core("2.4.3", MoonApi::Grpc);
}

#[test]
fn moon_2_4_3_gets_back_what_it_stored_over_grpc_with_zstd() {
    check_core("2.4.3", MoonApi::GrpcZstd);
}

#[test]
fn moon_2_4_3_gets_back_what_it_stored_over_http() {
    check_core("2.4.3", MoonApi::Http);
}

#[test]
fn moon_1_41_7_gets_back_what_it_stored_over_grpc() {
    check_core("1.41.7", MoonApi::Grpc);
}

#[test]
fn moon_1_41_7_gets_back_what_it_stored_over_grpc_with_zstd() {
    check_core("1.41.7", MoonApi::GrpcZstd);
}

#[test]
fn moon_1_41_7_gets_back_what_it_stored_over_http() {
    check_core("1.41.7", MoonApi::Http);
}

#[test]
fn a_readers_run_is_not_stored_and_does_not_fail() {
    let Some(bench) = Bench::open(NEWEST) else {
        return;
    };
    for api in [MoonApi::Grpc, MoonApi::GrpcZstd, MoonApi::Http] {
        let workspace = bench.workspace();
        let reader = MoonCache {
            instance: Some(format!("reader-{api:?}")),
            ..bench.cache(api, Access::Reader, None)
        };
        let (first, _) = builds_saying(&workspace, "app", &reader);
        workspace.wipe().unwrap();
        let (second, _) = builds_saying(&workspace, "app", &reader);
        assert_ne!(first["stamp.txt"], second["stamp.txt"]);
        workspace.wipe().unwrap();
        let trusted = MoonCache {
            instance: reader.instance.clone(),
            ..bench.cache(api, Access::Trusted, None)
        };
        builds(&workspace, "app", &trusted);
    }
}

#[test]
fn an_isolated_run_is_seen_by_its_own_scope_and_never_by_trunk() {
    let Some(bench) = Bench::open(NEWEST) else {
        return;
    };
    for api in [MoonApi::Grpc, MoonApi::Http] {
        let workspace = bench.workspace();
        let cache = |access, scope| MoonCache {
            instance: Some(format!("isolated-{api:?}")),
            ..bench.cache(api, access, scope)
        };
        let pull_request = cache(Access::Isolated, Some("pr/7"));
        let other_request = cache(Access::Isolated, Some("pr/8"));
        let trunk = cache(Access::Trusted, None);

        let of_request = builds(&workspace, "app", &pull_request);
        workspace.wipe().unwrap();
        assert_same(&hits(&workspace, "app", &pull_request), &of_request);

        workspace.wipe().unwrap();
        let of_other = builds(&workspace, "app", &other_request);
        assert_ne!(of_other["stamp.txt"], of_request["stamp.txt"]);

        workspace.wipe().unwrap();
        let of_trunk = builds(&workspace, "app", &trunk);
        assert_ne!(of_trunk["stamp.txt"], of_request["stamp.txt"]);
        workspace.wipe().unwrap();
        assert_same(&hits(&workspace, "app", &trunk), &of_trunk);

        // From now on trunk's entry stands in front of the request's own.
        workspace.wipe().unwrap();
        assert_same(&hits(&workspace, "app", &pull_request), &of_trunk);
    }
}

#[test]
fn what_one_client_stored_the_others_of_the_same_version_get() {
    let Some(bench) = Bench::open(NEWEST) else {
        return;
    };
    let apis = [MoonApi::Grpc, MoonApi::GrpcZstd, MoonApi::Http];
    for stored_by in apis {
        let workspace = bench.workspace();
        let cache = |api| MoonCache {
            instance: Some(format!("stored-by/{stored_by:?}")),
            ..bench.cache(api, Access::Trusted, None)
        };
        let app = builds(&workspace, "app", &cache(stored_by));
        let large = builds(&workspace, "large", &cache(stored_by));
        for read_by in apis {
            workspace.wipe().unwrap();
            assert_same(&hits(&workspace, "app", &cache(read_by)), &app);
            assert_same(&hits(&workspace, "large", &cache(read_by)), &large);
        }
    }
}

#[test]
fn instance_names_with_slashes_or_without_letters_keep_results_apart() {
    let Some(bench) = Bench::open(NEWEST) else {
        return;
    };
    let workspace = bench.workspace();
    for api in [MoonApi::Grpc, MoonApi::Http] {
        let mut seen = Vec::new();
        for instance in ["acme/web", "acme", "a.b-c_d", "larder/deeply/nested/name"] {
            let cache = MoonCache {
                instance: Some(format!("{instance}/{api:?}")),
                ..bench.cache(api, Access::Trusted, None)
            };
            workspace.wipe().unwrap();
            let built = builds(&workspace, "app", &cache);
            workspace.wipe().unwrap();
            assert_same(&hits(&workspace, "app", &cache), &built);
            let stamp = built["stamp.txt"].bytes.clone();
            assert!(!seen.contains(&stamp), "{instance}");
            seen.push(stamp);
        }
    }
}

#[test]
fn without_a_token_a_run_finds_nothing_except_in_a_public_workspace() {
    let options = ServerOptions {
        config: Some("[workspace.default]\npublic = true\n[workspace.closed]\n".to_owned()),
        ..ServerOptions::default()
    };
    let Some(bench) = Bench::open_with(NEWEST, options) else {
        return;
    };
    let created = bench.server.larder(&["workspace", "create", "closed"]);
    created.unwrap().success().unwrap();
    for api in [MoonApi::Grpc, MoonApi::Http] {
        for (name, public) in [("default", true), ("closed", false)] {
            let workspace = bench.workspace();
            let token = bench.server.token_in(name, Access::Trusted, None).unwrap();
            let instance = Some(format!("w/{name}/{api:?}"));
            let trusted = MoonCache {
                instance: instance.clone(),
                ..bench.cache_with(api, Some(&token))
            };
            let anonymous = MoonCache {
                instance,
                ..bench.cache_with(api, None)
            };
            let built = builds(&workspace, "app", &trusted);
            workspace.wipe().unwrap();
            if public {
                assert_same(&hits(&workspace, "app", &anonymous), &built);
            } else {
                builds_saying(&workspace, "app", &anonymous);
            }
            // What anonymous callers build is stored nowhere.
            builds_saying(&workspace, "steady", &anonymous);
            workspace.wipe().unwrap();
            builds(&workspace, "steady", &trusted);
        }
    }
}

#[test]
fn a_blob_that_rots_on_the_disk_is_built_again_and_heals() {
    let Some(mut bench) = Bench::open(NEWEST) else {
        return;
    };
    for api in [MoonApi::Grpc, MoonApi::Http] {
        let workspace = bench.workspace();
        let trusted = MoonCache {
            instance: Some(format!("rot-{api:?}")),
            ..bench.cache(api, Access::Trusted, None)
        };
        let source = workspace.path().join("steady/src/in.txt");
        let text = format!("a text that is found again in the files of the store, {api:?}\n");
        fs::write(source, &text).unwrap();
        builds(&workspace, "steady", &trusted);
        workspace.wipe().unwrap();
        hits(&workspace, "steady", &trusted);

        bench.server.stop().unwrap();
        flip_a_bit_of(&text, &bench.server.data_dir());
        bench.server.start_again().unwrap();

        // Built again: the bad blob is nobody's output.
        workspace.wipe().unwrap();
        let (rebuilt, _) = builds_saying(&workspace, "steady", &trusted);
        assert_eq!(rebuilt["out.txt"].bytes, text.as_bytes());
        // And healed: the same bytes were asked for and stored anew.
        workspace.wipe().unwrap();
        let restored = hits(&workspace, "steady", &trusted);
        assert_eq!(restored["out.txt"].bytes, text.as_bytes());
    }
}

/// Damages `text` wherever it is stored below `folder`.
fn flip_a_bit_of(text: &str, folder: &Path) {
    let mut damaged = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes
                    .windows(text.len())
                    .position(|window| window == text.as_bytes());
                if let Some(at) = at {
                    bytes[at + text.len() / 2] ^= 1;
                    fs::write(&path, bytes).unwrap();
                    damaged += 1;
                }
            }
        }
    }
    assert_eq!(damaged, 1, "copies of the blob that were found");
}

#[test]
fn what_the_server_prints_for_moon_is_all_that_moon_needs() {
    let Some(bench) = Bench::open(NEWEST) else {
        return;
    };
    let printed = bench.server.output();
    let variable = |name: &str| {
        let line = printed
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("no line for {name}: {printed}"))
    };
    let token = bench.server.token(Access::Trusted, None).unwrap();
    let host = variable("MOON_REMOTE_HOST");
    let settings = "remote:\n  auth:\n    token: 'LARDER_TOKEN'\n";
    let variables = [("MOON_REMOTE_HOST", host), ("LARDER_TOKEN", &token)];
    let workspace = MoonWorkspace::create_with(&bench.moon, settings).unwrap();
    let run = workspace.build_as_set("app", &variables).unwrap();
    assert!(run.succeeded && !run.output.contains(HIT), "{}", run.output);
    assert!(!complains(&run.output), "{}", run.output);
    let built = outputs(&workspace, "app");
    workspace.wipe().unwrap();
    let run = workspace.build_as_set("app", &variables).unwrap();
    assert!(run.output.contains(HIT), "{}", run.output);
    assert_same(&outputs(&workspace, "app"), &built);
}
