//! Issuers' keys: where they come from, and what happens when they do not come.

use std::time::Duration;

use larder_testkit::Access;
use larder_testkit::http::Request;
use larder_testkit::issuer::{Algorithm, Issuer, Mood};
use larder_testkit::process::wait_until;
use serde_json::json;

use super::site::{SOON, Site, config};

/// An issuer is not asked for an unknown key more often than every 30 seconds.
const AFTER_A_ROTATION: Duration = Duration::from_mins(1);
/// One that failed is asked again after some seconds, and then more.
const AFTER_TROUBLE: Duration = Duration::from_mins(2);

#[test]
fn a_rotated_key_is_found_and_the_old_one_ends() {
    let site = Site::start();
    let old = site.push();
    assert_eq!(site.put("1", &old, "x"), 200);
    site.issuer.rotate().unwrap();
    wait_until("the new key", AFTER_A_ROTATION, || {
        // A token each: one that could not be judged is not looked at again for a while.
        Ok((site.get("1", &site.push()).as_deref() == Ok("x")).then_some(()))
    })
    .unwrap();
    let signed_before = site.exchange(&old);
    assert_ne!(signed_before.status, 200, "its key is published no more");
}

#[test]
fn keys_of_other_kinds_are_taken_if_the_configuration_says_so() {
    let site = Site::start_with("algorithms = [\"RS256\", \"ES256\"]");
    site.issuer.add_key(Algorithm::Es256).unwrap();
    wait_until("the keys", AFTER_A_ROTATION, || {
        Ok((site.exchange(&site.push()).status == 200).then_some(()))
    })
    .unwrap();
    let site = Site::start();
    site.issuer.add_key(Algorithm::Es256).unwrap();
    assert_eq!(
        site.get("1", &site.push()),
        Err(401),
        "by default it does not"
    );
}

#[test]
fn a_server_without_its_issuer_starts_and_serves_and_then_finds_the_keys() {
    let moods = [
        Mood::Down,
        Mood::Redirecting,
        Mood::Oversized,
        Mood::Garbled,
        Mood::Slow,
    ];
    std::thread::scope(|scope| {
        for mood in moods {
            scope.spawn(move || check_without_keys(mood));
        }
    });
}

fn check_without_keys(mood: Mood) {
    let issuer = Issuer::start().unwrap();
    issuer.set_mood(mood);
    let config = config(&issuer, "");
    let site = Site::start_configured(issuer, config, Vec::new());
    let token = site.server.token(Access::Trusted, None).unwrap();
    assert_eq!(site.put("1", &token, "x"), 200, "{mood:?}");
    let miss = site.get("1", &site.push());
    assert_eq!(miss, Err(404), "{mood:?}: a miss, and no error");
    assert_eq!(site.put("2", &site.push(), "x"), 403, "{mood:?}");
    assert_eq!(site.exchange(&site.push()).status, 503, "{mood:?}");
    let said = "keys cannot be had";
    site.server.wait_for_output(said, SOON).unwrap();
    site.issuer.set_mood(Mood::Well);
    wait_until("the keys", AFTER_TROUBLE, || {
        Ok((site.get("1", &site.push()).as_deref() == Ok("x")).then_some(()))
    })
    .unwrap();
    let times = site.server.output().matches(said).count();
    assert_eq!(times, 1, "{mood:?}: trouble is told once");
}

#[test]
fn keys_that_are_known_stay_in_force_while_the_issuer_is_down() {
    let site = Site::start();
    site.issuer.set_mood(Mood::Down);
    assert_eq!(site.put("1", &site.push(), "x"), 200);
    assert_eq!(site.exchange(&site.push()).status, 200);
    let metrics = site.send(&Request::get("/metrics")).text();
    let age = format!(
        "larder_issuer_keys_age_seconds{{issuer=\"{}\"}}",
        site.issuer.url()
    );
    assert!(metrics.contains(&age), "{metrics}");
}

#[test]
fn a_server_that_reaches_nobody_takes_keys_from_a_file() {
    let issuer = Issuer::start().unwrap();
    let file = issuer.jwks_file().unwrap();
    issuer.set_mood(Mood::Down);
    let config = config(&issuer, &format!("jwks_file = \"{}\"", file.display()));
    let site = Site::start_configured(issuer, config, Vec::new());
    assert_eq!(site.put("1", &site.push(), "x"), 200);
    assert_eq!(site.issuer.keys_fetched(), 0);
    site.issuer.rotate().unwrap();
    assert_eq!(
        site.get("1", &site.push()),
        Err(404),
        "the file does not have this key: nobody can say whether the token is genuine, so it is a miss"
    );
    // The file is read again with the configuration.
    site.issuer.jwks_file().unwrap();
    let config = std::fs::read_to_string(site.server.config_path()).unwrap();
    site.reload(&config);
    let fresh = site.github(&json!({ "ref_protected": "true" }));
    assert_eq!(site.get("1", &fresh).as_deref(), Ok("x"));
}
