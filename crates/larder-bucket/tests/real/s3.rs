//! versitygw, a real S3 server.

use std::fs;

use larder_bucket::link::{Addressing, BucketOptions, BucketUrl, Link, LinkError, Trouble};
use larder_testkit::left_out;
use larder_testkit::s3::S3Server;
use larder_testkit::tls::Authority;

use crate::{contract, outage};

fn options(server: &S3Server) -> BucketOptions {
    BucketOptions {
        endpoint: Some(server.endpoint()),
        environment: server.environment(),
        ..BucketOptions::default()
    }
}

fn open(url: &str, options: &BucketOptions) -> Link {
    let url: BucketUrl = url.parse().unwrap();
    Link::open(&url, options, None).unwrap()
}

#[tokio::test]
async fn the_contract_holds_for_s3() {
    if left_out("s3") {
        return;
    }
    let server = S3Server::start(&["builds"]).unwrap();
    contract::holds_for(&open("s3://builds/some/where", &options(&server))).await;
    let refused = BucketOptions {
        environment: server.wrong_environment(),
        ..options(&server)
    };
    contract::denies_the_wrong_credentials(&open("s3://builds", &refused)).await;
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_trouble_and_not_an_empty_one() {
    if left_out("s3") {
        return;
    }
    let server = S3Server::start(&[]).unwrap();
    let link = open("s3://nowhere", &options(&server));
    let missing = link.get("v1/a", 10).await.expect_err("no bucket");
    assert!(missing.to_string().contains("NoSuchBucket"), "{missing}");
    assert_eq!(missing.trouble(), Some(Trouble::Failed));
    assert_ne!(link.get_range("v1/a", 0..1).await, Err(LinkError::NotFound));
    assert!(link.check().await.is_err());
}

#[tokio::test]
async fn the_contract_holds_over_tls_for_those_who_trust_the_server() {
    if left_out("s3") {
        return;
    }
    let authority = Authority::create().unwrap();
    let server = S3Server::start_tls(&["builds"], &authority.server().unwrap()).unwrap();
    let stranger = open("s3://builds", &options(&server));
    let error = stranger
        .get("v1/a", 10)
        .await
        .expect_err("nobody said to trust it");
    assert_eq!(error.trouble(), Some(Trouble::Failed));
    assert!(error.to_string().contains("unknown issuer"), "{error}");
    let trusting = BucketOptions {
        extra_roots_pem: vec![fs::read(authority.certificate()).unwrap()],
        ..options(&server)
    };
    contract::holds_for(&open("s3://builds", &trusting)).await;
}

#[tokio::test]
async fn the_variables_of_the_environment_name_the_endpoint_too() {
    if left_out("s3") {
        return;
    }
    let server = S3Server::start(&["builds"]).unwrap();
    let mut environment = server.environment();
    environment.push(("AWS_ENDPOINT_URL".to_owned(), server.endpoint()));
    environment.push(("AWS_BUCKET".to_owned(), "another".to_owned()));
    let options = BucketOptions {
        environment,
        addressing: Some(Addressing::Path),
        ..BucketOptions::default()
    };
    open("s3://builds", &options).check().await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_opens_the_circuit_until_it_is_back() {
    if left_out("s3") {
        return;
    }
    let mut server = S3Server::start(&["builds"]).unwrap();
    let url: BucketUrl = "s3://builds".parse().unwrap();
    let options = options(&server);
    outage::prepare(&url, &options).await;
    outage::is_survived(server.upkeep(), &url, &options).await;
}
