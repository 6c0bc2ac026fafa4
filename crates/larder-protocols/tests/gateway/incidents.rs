//! Entries by who wrote them: found by run, held back, rebuilt, exported, purged; and results that differ.

use larder_ledger::{NewWriter, ProvenanceColumns, WriterKind};
use larder_model::Access;
use larder_proto::reapi::{ActionResult, OutputFile};
use larder_protocols::Origin;
use larder_protocols::control::{
    ChangeResponse, EntriesResponse, EntryState, NondeterministicResponse,
};
use serde::de::DeserializeOwned;

use crate::house::{House, Pieces};
use crate::reapi::{Client, digest};

/// The writer of a run of trunk's CI.
async fn run_of(house: &House, workspace: &str, run: &str) -> u64 {
    let writer = NewWriter {
        kind: WriterKind::Ci,
        workspace: workspace.to_owned(),
        access: "trusted".to_owned(),
        scope: None,
        provenance: ProvenanceColumns {
            issuer: Some("https://issuer.example".to_owned()),
            repository: Some("acme/web".to_owned()),
            run_id: Some(run.to_owned()),
            commit_sha: Some("c0ffee".to_owned()),
            ..ProvenanceColumns::default()
        },
        address: Some("192.0.2.7".to_owned()),
        now_ms: 1,
    };
    house.ledger.writer_id(&writer).await.unwrap()
}

/// A house with two workspaces in its ledger, and two runs of trunk's CI in each.
async fn house() -> House {
    let mut house = House::new();
    for workspace in ["acme", "other"] {
        house.ledger.create_workspace(workspace, 1).await.unwrap();
        for run in ["4711", "4712"] {
            let id = run_of(&house, workspace, run).await;
            house.token_of(
                &format!("{workspace}-{run}"),
                id,
                workspace,
                Access::Trusted,
            );
        }
    }
    house.token_of("admin", 9999, "acme", Access::Admin);
    house
}

async fn call<T: DeserializeOwned>(house: &House, operation: &str, body: &str) -> T {
    let path = format!("/v1/control/{operation}");
    let method = if operation == "nondeterministic" {
        "GET"
    } else {
        "POST"
    };
    let body = Pieces::whole(body.as_bytes());
    let answer = house.send_from(Origin::ControlSocket, method, &path, &[], body);
    let answer = answer.await;
    serde_json::from_str(answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn path(key: &str) -> String {
    format!("/v1/cache/{key}")
}

#[tokio::test]
async fn a_poisoned_run_is_found_by_its_id_held_back_rebuilt_and_purged() {
    let house = house().await;
    for (token, key, body) in [
        ("acme-4711", "1", &b"poison"[..]),
        ("acme-4711", "2", b"poison"),
        ("acme-4712", "3", b"honest"),
        ("other-4711", "1", b"another tenant's"),
    ] {
        assert_eq!(
            house.put(token, &path(key), body).await.status.as_u16(),
            200
        );
    }
    let by_run = r#"{"workspace": "acme", "run": "4711"}"#;
    let dry: ChangeResponse = call(
        &house,
        "quarantine",
        r#"{"workspace": "acme", "run": "4711", "dry_run": true}"#,
    )
    .await;
    assert_eq!(
        (dry.entries, dry.writers[0].said.run.as_deref()),
        (2, Some("4711"))
    );
    assert_eq!(
        house.get("acme-4712", &path("1")).await.status.as_u16(),
        200
    );

    let held: ChangeResponse = call(&house, "quarantine", by_run).await;
    assert_eq!(held.entries, 2);
    for (token, key, status) in [
        ("acme-4712", "1", 404),
        ("acme-4712", "2", 404),
        ("acme-4712", "3", 200),
        ("other-4712", "1", 200),
    ] {
        let answer = house.get(token, &path(key)).await;
        assert_eq!(answer.status.as_u16(), status, "{token} {key}");
    }

    assert_eq!(
        house
            .put("acme-4712", &path("1"), b"rebuilt")
            .await
            .status
            .as_u16(),
        200
    );
    let shown: EntriesResponse =
        call(&house, "entries", r#"{"workspace": "acme", "key": "1"}"#).await;
    let states: Vec<EntryState> = shown.entries.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [EntryState::Served, EntryState::Quarantined]);
    let runs: Vec<_> = shown
        .writers
        .iter()
        .map(|writer| writer.said.run.as_deref())
        .collect();
    assert_eq!(runs, [Some("4711"), Some("4712")]);

    let released: ChangeResponse = call(&house, "release", by_run).await;
    assert_eq!((released.entries, released.refused), (1, 1));
    let purged: ChangeResponse = call(&house, "purge", by_run).await;
    assert_eq!(purged.entries, 2);
    let rebuilt = house.get("acme-4711", &path("1")).await;
    assert_eq!(rebuilt.brief(), (200, &b"rebuilt"[..]));
    assert_eq!(
        house.get("other-4712", &path("1")).await.status.as_u16(),
        200
    );
}

#[tokio::test]
async fn an_admin_of_one_workspace_does_not_learn_of_another_ones_runs() {
    let house = house().await;
    let id = run_of(&house, "other", "4713").await;
    for body in [
        r#"{"run": "4713"}"#.to_owned(),
        format!(r#"{{"token": {id}}}"#),
    ] {
        let path = "/v1/control/entries";
        let bearer = [house.bearer("admin")];
        let answer = house.send("POST", path, &bearer, Pieces::whole(body.as_bytes()));
        let answer = answer.await;
        assert_eq!(answer.status.as_u16(), 400, "{answer:?}");
        assert!(answer.text().contains("no writer matches"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_result_with_other_outputs_than_before_is_counted_and_listed_with_both_writers() {
    let house = house().await;
    let action = digest(b"an action");
    let result = |blob: &[u8], exit_code| ActionResult {
        output_files: vec![OutputFile {
            path: "out/a".to_owned(),
            digest: Some(digest(blob)),
            ..OutputFile::default()
        }],
        exit_code,
        ..ActionResult::default()
    };
    let (one, two) = (
        Client::new(&house, "acme-4711"),
        Client::new(&house, "acme-4712"),
    );
    for (client, blob, exit_code) in [
        (&one, &b"a"[..], 0),
        (&two, b"a", 0),
        (&two, b"b", 0),
        (&one, b"b", 1),
    ] {
        let result = result(blob, exit_code);
        let stored = client.update_action(&action, &result).await;
        stored.message::<ActionResult>();
    }
    // In another scope it is the first.
    let other = Client::new(&house, "other-4711");
    let first = result(b"c", 0);
    let stored = other.update_action(&action, &first).await;
    stored.message::<ActionResult>();

    house.journal.flush(&house.ledger).await.unwrap();
    let found: NondeterministicResponse = call(&house, "nondeterministic", "").await;
    let [found_action] = &found.actions[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (found_action.times, &found_action.action),
        (2, &action.hash)
    );
    let run = |id: Option<u64>| {
        let writer = found.writers.iter().find(|writer| Some(writer.id) == id);
        writer.and_then(|writer| writer.said.run.as_deref())
    };
    assert_eq!(run(found_action.writer_before), Some("4712"));
    assert_eq!(run(found_action.writer), Some("4711"));
    let metrics = house.metrics();
    assert!(
        metrics.contains("larder_nondeterministic_results_total 2"),
        "{metrics}"
    );
}
