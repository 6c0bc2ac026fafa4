//! The store of the unit tests must be like the others.

use std::sync::Arc;

use larder_bucket::link::faulty::{Faults, FaultyStore};
use larder_bucket::link::{Link, LinkOptions};
use object_store::memory::InMemory;

use crate::contract;

#[tokio::test]
async fn the_contract_holds_for_memory() {
    contract::holds_for(&Link::new(Arc::new(InMemory::new()))).await;
}

#[tokio::test]
async fn the_contract_holds_below_a_prefix_and_behind_faults_that_do_not_happen() {
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::new(Arc::clone(&memory) as _, 1, Faults::default());
    let options = LinkOptions {
        prefix: "some/where".to_owned(),
        on_event: None,
    };
    contract::holds_for(&Link::with(Arc::new(store), options)).await;
    let outside = Link::new(memory);
    let page = outside.list("v1/", None).await.unwrap();
    assert!(page.objects.is_empty(), "{page:?}");
    assert!(
        !outside
            .list("some/where/v1/", None)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
}
