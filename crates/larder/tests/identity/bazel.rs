//! Real Bazel with the session of its job. It is the one version that a package brings, which knows no credential helpers; so it
//! reads the lines that `larder login` writes for a `.bazelrc`.

use std::fs;

use larder_testkit::bazel::BazelWorkspace;
use larder_testkit::left_out;

use super::login::Job;

/// The genrules that `//:sum` consists of.
const ACTIONS: usize = 19;

/// Logs in as the job that it is, and builds on a fresh machine with that: how many actions were hits, and the stamp of the build
/// that the outputs are from.
#[track_caller]
fn build(job: &Job, workspace: &BazelWorkspace) -> (usize, String) {
    let ran = job.login(&["--for", "bazel", "--format", "bazelrc"]);
    let lines = ran.success().unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    fs::write(workspace.path().join(".bazelrc"), lines).unwrap();
    workspace.clean().unwrap();
    let run = workspace.build_as_configured(&["//:sum"]).unwrap();
    assert!(run.succeeded, "{}", run.output);
    let stamp = fs::read_to_string(workspace.output("stamp.txt")).unwrap();
    (run.remote_hits(), stamp)
}

#[test]
fn bazel_builds_with_what_login_writes_and_a_pull_request_for_itself() {
    if left_out("bazel") {
        return;
    }
    let job = Job::start();
    let workspace = BazelWorkspace::create().unwrap();
    let (hits, of_request) = build(&job, &workspace);
    assert_eq!(hits, 0);
    assert_eq!(build(&job, &workspace), (ACTIONS, of_request.clone()));
    job.becomes("pull_request", "refs/pull/6/merge");
    let (hits, of_other) = build(&job, &workspace);
    assert_eq!((hits, of_other == of_request), (0, false));
    job.becomes("push", "refs/heads/main");
    let (hits, of_trunk) = build(&job, &workspace);
    assert_eq!((hits, of_trunk == of_request), (0, false));
    assert_eq!(build(&job, &workspace), (ACTIONS, of_trunk.clone()));
    job.becomes("pull_request", "refs/pull/7/merge");
    assert_eq!(build(&job, &workspace), (ACTIONS, of_trunk));
}
