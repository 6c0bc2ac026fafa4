//! Real Nx with a token of the CI system in the place of a static token: no login, no secret.

use std::fs;

use larder_testkit::issuer::Issuer;
use larder_testkit::left_out;
use larder_testkit::nx::{NxRun, NxWorkspace, PinnedNx, RemoteCache};
use serde_json::{Value, json};

use super::site::{Site, config_gitlab, gitlab};

const HIT: &str = "[remote cache]";

/// One run of `nx build header`, and the stamp of the build that its outputs are from.
fn build(workspace: &NxWorkspace, site: &Site, token: &str) -> (NxRun, String) {
    let cache = RemoteCache {
        url: site.server.url(),
        token: Some(token.to_owned()),
    };
    let run = workspace.nx(&["build", "header"], &cache, &[]).unwrap();
    let stamp = fs::read_to_string(workspace.header_dist().join("stamp.txt"));
    (run, stamp.unwrap_or_default())
}

/// The stamp of a build on a fresh machine that really ran.
#[track_caller]
fn builds(workspace: &NxWorkspace, site: &Site, token: &str) -> String {
    workspace.wipe().unwrap();
    let (run, stamp) = build(workspace, site, token);
    assert!(run.succeeded, "{}", run.output);
    assert!(!run.output.contains(HIT), "{}", run.output);
    stamp
}

/// The stamp of a build on a fresh machine that came from the cache.
#[track_caller]
fn hits(workspace: &NxWorkspace, site: &Site, token: &str) -> String {
    workspace.wipe().unwrap();
    let (run, stamp) = build(workspace, site, token);
    assert!(run.succeeded, "{}", run.output);
    assert!(run.output.contains(HIT), "{}", run.output);
    stamp
}

/// What a pipeline of the merge request from this branch says.
fn merge_request(branch: &str, pipeline: &str) -> Value {
    json!({
        "pipeline_source": "merge_request_event", "ref": branch, "ref_path": format!("refs/heads/{branch}"),
        "ref_protected": "false", "pipeline_id": pipeline, "job_project_id": "77",
    })
}

#[test]
fn nx_24_0_6_needs_nothing_but_the_token_of_its_job() {
    if left_out("nx") {
        return;
    }
    let nx = PinnedNx::installed("24.0.6").unwrap();
    let issuer = Issuer::start().unwrap();
    let config = config_gitlab(&issuer);
    let site = Site::start_configured(issuer, config, Vec::new());
    site.wait_for_keys();
    let workspace = NxWorkspace::create(&nx, 0).unwrap();
    let trunk = site.token(&gitlab(), &json!({}));
    let request = site.token(&gitlab(), &merge_request("feature", "901"));
    let again = site.token(&gitlab(), &merge_request("feature", "902"));
    let other = site.token(&gitlab(), &merge_request("other", "903"));

    // A merge request has what its pipelines built, and nobody else has it.
    let of_request = builds(&workspace, &site, &request);
    assert_eq!(hits(&workspace, &site, &again), of_request);
    assert_ne!(builds(&workspace, &site, &other), of_request);
    let of_trunk = builds(&workspace, &site, &trunk);
    assert_ne!(of_trunk, of_request);
    // What trunk builds everybody has, also the next job with a token of its own.
    assert_eq!(hits(&workspace, &site, &trunk), of_trunk);
    let next = site.token(&gitlab(), &json!({ "pipeline_id": "904" }));
    assert_eq!(hits(&workspace, &site, &next), of_trunk);
    assert_eq!(hits(&workspace, &site, &request), of_trunk);

    // A fork's pipeline has a genuine token that no rule knows: its builds are green, and uncached.
    let fork = site.token(&gitlab(), &json!({ "project_id": "78" }));
    assert_ne!(builds(&workspace, &site, &fork), of_trunk);
    // A forged one is loud.
    let (claims, _) = trunk.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let forged = format!("{claims}.{signature}");
    workspace.wipe().unwrap();
    let (run, _) = build(&workspace, &site, &forged);
    assert!(!run.succeeded, "{}", run.output);
    assert!(run.output.contains("Unauthorized:"), "{}", run.output);

    let output = site.server.output();
    for token in [&trunk, &request, &again, &other, &next, &fork, &forged] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!output.contains(signature), "the server printed a token");
    }
}
