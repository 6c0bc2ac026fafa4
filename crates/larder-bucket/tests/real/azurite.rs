//! Azurite, Microsoft's stand-in for Azure Blob Storage.

use larder_bucket::link::{BucketOptions, BucketUrl, Link, Trouble};
use larder_testkit::azurite::{ACCOUNT, Azurite};
use larder_testkit::left_out;

use crate::{contract, outage};

fn options(server: &Azurite) -> BucketOptions {
    BucketOptions {
        endpoint: Some(server.endpoint()),
        account: Some(ACCOUNT.to_owned()),
        environment: server.environment(),
        ..BucketOptions::default()
    }
}

fn open(url: &str, options: &BucketOptions) -> Link {
    let url: BucketUrl = url.parse().unwrap();
    Link::open(&url, options, None).unwrap()
}

#[tokio::test]
async fn the_contract_holds_for_azure() {
    if left_out("azurite") {
        return;
    }
    let server = Azurite::start(&["builds"]).unwrap();
    contract::holds_for(&open("az://builds/some/where", &options(&server))).await;
    let refused = BucketOptions {
        environment: server.wrong_environment(),
        ..options(&server)
    };
    contract::denies_the_wrong_credentials(&open("az://builds", &refused)).await;
    let nowhere = open("az://nowhere", &options(&server));
    let missing = nowhere.get("v1/a", 10).await.expect_err("no container");
    assert_eq!(missing.trouble(), Some(Trouble::Failed), "{missing}");
}

#[tokio::test]
async fn an_azurite_that_dies_opens_the_circuit_until_it_is_back() {
    if left_out("azurite") {
        return;
    }
    let mut server = Azurite::start(&["builds"]).unwrap();
    let url: BucketUrl = "az://builds".parse().unwrap();
    let options = options(&server);
    outage::prepare(&url, &options).await;
    server.wait_until_saved("v1/small").unwrap();
    outage::is_survived(server.upkeep(), &url, &options).await;
}
