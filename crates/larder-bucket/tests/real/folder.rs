//! A folder that nodes share.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use larder_bucket::link::{BucketOptions, BucketUrl, Link, LinkError, OpenError, Trouble};

use crate::contract;

fn open(folder: &Path) -> Result<Link, OpenError> {
    let url: BucketUrl = format!("file://{}", folder.display()).parse().unwrap();
    Link::open(&url, &BucketOptions::default(), None)
}

#[tokio::test]
async fn the_contract_holds_for_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    contract::holds_for(&open(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made_and_can_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    let body = || vec![Bytes::from_static(b"x")];
    // Each with a circuit of its own, which is closed.
    let link = || open(&missing).unwrap();
    for asked in [
        link().put("v1/a/b", body()).await,
        link().get("v1/a/b", 10).await.map(drop),
        link().delete(vec!["v1/a/b".to_owned()]).await,
        link().list("v1/", None).await.map(drop),
    ] {
        let error = asked.expect_err("it is not there");
        assert_eq!(error.trouble(), Some(Trouble::Failed), "{error}");
    }
    assert!(!missing.exists());
    let link = link();
    while link.open_for().is_none() {
        let _ = link.put("v1/a/b", body()).await;
    }
    fs::create_dir(&missing).unwrap();
    while let Some(wait) = link.open_for() {
        tokio::time::sleep(wait).await;
        let _ = link.put("v1/a/b", body()).await;
    }
    link.put("v1/a/b", body()).await.unwrap();
    assert_eq!(link.get("v1/a/b", 10).await.unwrap(), "x");
}

#[tokio::test]
async fn a_folder_that_goes_away_is_trouble_and_is_not_made_again() {
    let share = tempfile::tempdir().unwrap();
    let folder = share.path().join("larder");
    fs::create_dir(&folder).unwrap();
    let link = open(&folder).unwrap();
    link.put("v1/a/b", vec![Bytes::from_static(b"x")])
        .await
        .unwrap();
    fs::rename(&folder, share.path().join("elsewhere")).unwrap();
    let failed = |error: Option<LinkError>, what: &str| {
        let trouble = error.as_ref().and_then(LinkError::trouble);
        assert_eq!(trouble, Some(Trouble::Failed), "{what}: {error:?}");
    };
    failed(link.get("v1/a/b", 10).await.err(), "get");
    failed(link.put("v1/a/b", vec![]).await.err(), "put");
    failed(link.put_multipart("v1/a/b").await.err(), "multipart");
    assert!(
        !folder.exists(),
        "a bucket was begun on whatever is below the mount point"
    );
    fs::rename(share.path().join("elsewhere"), &folder).unwrap();
    while let Some(wait) = link.open_for() {
        tokio::time::sleep(wait).await;
        let _ = link.get("v1/a/b", 10).await;
    }
    assert_eq!(link.get("v1/a/b", 10).await.unwrap(), "x");
}

#[tokio::test]
async fn what_a_dead_writer_left_is_removed_after_a_day_and_is_never_listed() {
    let folder = tempfile::tempdir().unwrap();
    let link = open(folder.path()).unwrap();
    link.put("v1/packs/one", vec![]).await.unwrap();
    let leave = |name: &str, age: Duration| {
        let path = folder.path().join("v1/packs").join(name);
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let hour = Duration::from_hours(1);
    let old = leave("two#1", hour * 25);
    let young = leave("two#2", hour * 23);
    let no_leftover = leave("three#x", hour * 25);
    let page = link.list("v1/", None).await.unwrap();
    let names: Vec<_> = page
        .objects
        .iter()
        .map(|object| object.name.as_str())
        .collect();
    assert!(names.contains(&"v1/packs/one"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("two")), "{names:?}");
    assert!(!old.exists(), "a leftover of yesterday stays for ever");
    assert!(
        young.exists(),
        "an upload was pulled away from under its writer"
    );
    assert!(
        no_leftover.exists(),
        "a file that is none of ours was removed"
    );
}
