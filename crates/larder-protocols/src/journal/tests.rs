use std::cell::Cell;
use std::net::IpAddr;

use larder_ledger::{AuditFilter, NewAuditRow};
use larder_model::{Dialect, DigestFunction, EntryKey, WriterId};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pending::WRITTEN_COUNT_MAX;
use super::*;

const START_MS: u64 = 1_800_000_000_000;

thread_local! {
    /// The time of the journals of this thread's test.
    static NOW_MS: Cell<u64> = const { Cell::new(START_MS) };
}

fn now_ms() -> u64 {
    NOW_MS.get()
}

struct House {
    directory: TempDir,
    ledger: Ledger,
    journal: Journal,
}

impl House {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger.sqlite")).await;
        Self {
            directory,
            ledger: ledger.unwrap(),
            journal: Journal::new(now_ms),
        }
    }

    async fn rows(&self) -> Vec<NewAuditRow> {
        let all = AuditFilter::default();
        let rows = self.ledger.audit(&all, 0, u32::MAX).await;
        rows.unwrap().into_iter().map(|it| it.row).collect()
    }

    async fn flush(&self) -> Vec<NewAuditRow> {
        self.journal.flush(&self.ledger).await.unwrap();
        self.rows().await
    }

    async fn alter(&self, sql: &'static str) {
        let path = self.directory.path().join("ledger.sqlite");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

fn written(scope: &str, writer: u64, dialect: Dialect, key: Option<&[u8]>) -> Written {
    Written {
        at_ms: now_ms(),
        workspace: "acme".parse().unwrap(),
        scope: scope.parse().unwrap(),
        writer: WriterId(writer),
        dialect,
        key: key.map(|key| EntryKey::new(key).unwrap()),
        address: Some("192.0.2.7".parse().unwrap()),
        count: 1,
        bytes: 10,
    }
}

fn refused(reason: &'static str, address: u32, bad_credential: bool) -> Refused {
    Refused {
        at_ms: now_ms(),
        reason,
        bad_credential,
        dialect: Some(Dialect::Nx),
        workspace: None,
        writer: None,
        address: Some(IpAddr::V4(address.into())),
    }
}

fn counted(rows: &[NewAuditRow], action: &str) -> u64 {
    let rows = rows.iter().filter(|row| row.action == action);
    rows.map(|row| row.count).sum()
}

#[tokio::test]
async fn an_assertion_has_a_row_of_its_own_with_the_key_that_its_tool_prints() {
    let house = House::new().await;
    let action = [&[7; 32][..], b"\x01acme/web"].concat();
    house
        .journal
        .record(written("trusted", 1, Dialect::Nx, Some(b"123")));
    house.journal.record(Written {
        address: Some("::ffff:192.0.2.9".parse().unwrap()),
        ..written("pr/7", 2, Dialect::ActionResult, Some(&action))
    });
    let rows = house.flush().await;
    let nx = NewAuditRow {
        at_ms: START_MS,
        action: "write".to_owned(),
        outcome: "stored".to_owned(),
        workspace: Some("acme".to_owned()),
        scope: Some("trusted".to_owned()),
        dialect: Some("nx".to_owned()),
        key: Some("123".to_owned()),
        writer: Some(1),
        address: Some("192.0.2.7".to_owned()),
        bytes: 10,
        ..NewAuditRow::default()
    };
    assert_eq!(rows[0], nx);
    assert_eq!(rows[1].key, Some("07".repeat(32)));
    assert_eq!(rows[1].address.as_deref(), Some("192.0.2.9"));
    let details: Value = serde_json::from_str(rows[1].details.as_ref().unwrap()).unwrap();
    assert_eq!(
        details,
        json!({ "digest_function": "sha256", "instance": "acme/web" })
    );
    assert_eq!(house.flush().await.len(), 2, "nothing is written twice");
}

#[tokio::test]
async fn blobs_and_refusals_are_summed_by_what_tells_them_apart() {
    let house = House::new().await;
    let cas = Dialect::Cas(DigestFunction::Sha256);
    for index in 0..30 {
        house
            .journal
            .record(written("trusted", index % 3, cas, None));
        house.journal.record(refused("read_only", 1, false));
        house
            .journal
            .record(refused("unknown_token", (index % 2) as u32, true));
    }
    let rows = house.flush().await;
    let mut seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.action.as_str(),
                row.outcome.as_str(),
                row.count,
                row.bytes,
            )
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("bad-credential", "refused", 15, 0),
            ("bad-credential", "refused", 15, 0),
            ("write", "refused", 30, 0),
            ("write", "stored", 10, 100),
            ("write", "stored", 10, 100),
            ("write", "stored", 10, 100),
        ]
    );
}

#[tokio::test]
async fn whoever_is_refused_much_gets_few_rows_and_every_refusal_is_counted_in_the_end() {
    let house = House::new().await;
    for address in 0..10_000 {
        house
            .journal
            .record(refused("unknown_token", address, true));
    }
    let first = house.flush().await;
    assert_eq!(first.len(), 256);
    NOW_MS.set(START_MS + 10_000);
    assert_eq!(house.flush().await.len(), 266, "one more a second");
    NOW_MS.set(START_MS + 100 * 24 * 3_600_000);
    for _ in 0..20 {
        house.flush().await;
        NOW_MS.set(now_ms() + 256_000);
    }
    let rows = house.rows().await;
    assert_eq!(counted(&rows, "bad-credential"), 10_000);
    assert!(rows.len() <= 4096 + 1, "{}", rows.len());
    assert!(
        rows.iter()
            .any(|row| row.reason.as_deref() == Some("others"))
    );
}

#[tokio::test]
async fn an_untrusted_writer_cannot_fill_the_audit_and_trunk_is_written_out() {
    let house = House::new().await;
    for key in 0..12_000_u32 {
        let key = key.to_string();
        let key = Some(key.as_bytes());
        house.journal.record(written("pr/7", 7, Dialect::Nx, key));
        house
            .journal
            .record(written("trusted", 1, Dialect::Nx, key));
    }
    let rows = house.flush().await;
    let of = |writer| rows.iter().filter(move |row| row.writer == Some(writer));
    assert_eq!(of(1).filter(|row| row.key.is_some()).count(), 12_000);
    assert_eq!(of(7).filter(|row| row.key.is_some()).count(), 5000);
    let summed: Vec<_> = of(7).filter(|row| row.key.is_none()).collect();
    assert_eq!(
        (summed.len(), summed[0].count, summed[0].bytes),
        (1, 7000, 70_000)
    );
}

#[tokio::test]
async fn neither_runs_nor_labels_nor_pull_requests_multiply_what_untrusted_writers_get() {
    let house = House::new().await;
    let store = |scope: &str, writer: u64, count: u32| {
        for key in 0..count {
            let key = key.to_string();
            let key = Some(key.as_bytes());
            house
                .journal
                .record(written(scope, writer, Dialect::Nx, key));
        }
    };
    let own_rows = |rows: &[NewAuditRow]| {
        let own = rows.iter().filter(|row| row.key.is_some());
        own.count()
    };
    for run in 0..10 {
        store("ci.main/pr-7", 100 + run, 700);
        store(&format!("ci.main/pr-7/job-{run}"), 100 + run, 100);
    }
    assert_eq!(
        own_rows(&house.flush().await),
        5000,
        "runs and labels of one"
    );
    for request in 0..5 {
        store(&format!("ci.main/pr-1{request}"), request, 4500);
    }
    let rows = house.flush().await;
    assert_eq!(own_rows(&rows), 20_000, "all of the workspace");
    assert_eq!(counted(&rows, "write"), 8000 + 5 * 4500);
    NOW_MS.set(START_MS + 1000);
    store("ci.main/pr-19", 1, 100);
    assert_eq!(own_rows(&house.flush().await), 20_020);
    house.journal.record(Written {
        workspace: "other".parse().unwrap(),
        ..written("ci.main/pr-7", 1, Dialect::Nx, Some(b"1"))
    });
    assert_eq!(own_rows(&house.flush().await), 20_021, "others are others");
}

#[tokio::test]
async fn a_row_that_the_ledger_refuses_is_lost_alone() {
    let house = House::new().await;
    let bad = "x".repeat(41).leak();
    for number in 0..1000_u64 {
        let outcome = if number % 400 == 7 { &*bad } else { "done" };
        house.journal.record(Act {
            outcome,
            count: number,
            ..Act::new(ActName::Purge, Actor::Operator, START_MS)
        });
    }
    let rows = house.flush().await;
    let counts: Vec<_> = rows.iter().map(|row| row.count).collect();
    let expected: Vec<_> = (0..1000).filter(|number| number % 400 != 7).collect();
    assert_eq!(counts, expected);
    assert_eq!(house.journal.lost_rows(), 3);
    assert_eq!(counted(&house.flush().await, "audit-lost"), 3);
}

#[tokio::test]
async fn what_builds_do_does_not_take_the_place_of_what_operators_do() {
    let house = House::new().await;
    let writer = Actor::Writer(WriterId(1));
    for _ in 0..5000 {
        let flagged = Act::new(ActName::Flagged, writer, START_MS);
        house.journal.record(flagged);
    }
    let changed = Act::new(ActName::PolicyChanged, Actor::Operator, START_MS);
    house.journal.record(changed);
    let rows = house.flush().await;
    assert_eq!(counted(&rows, "policy-changed"), 1);
    assert_eq!(counted(&rows, "flagged"), 1024);
}

#[tokio::test]
async fn results_that_pull_requests_rewrite_do_not_hide_those_of_trunk() {
    let house = House::new().await;
    for key in 0..1000 {
        for scope in ["pr/7", "trusted"].into_iter().take(1 + key / 999) {
            house.journal.note_rewritten(Rewritten {
                workspace: "acme".to_owned(),
                scope: scope.to_owned(),
                key: key.to_string(),
                at_ms: START_MS,
                writer: 1,
                writer_before: None,
            });
        }
    }
    house.flush().await;
    let rows = house.ledger.rewrites(None, 1000).await.unwrap();
    let trusted = rows.iter().filter(|row| row.scope == "trusted");
    assert_eq!((rows.len(), trusted.count()), (257, 1));
}

#[tokio::test]
async fn more_than_there_is_room_for_is_summed_and_acts_without_room_are_counted_as_lost() {
    let house = House::new().await;
    for key in 0..WRITTEN_COUNT_MAX + 5 {
        let key = key.to_string();
        house
            .journal
            .record(written("trusted", 1, Dialect::Nx, Some(key.as_bytes())));
    }
    for _ in 0..1024 + 3 {
        house
            .journal
            .record(Act::new(ActName::Purge, Actor::Operator, START_MS));
    }
    let rows = house.flush().await;
    assert_eq!(counted(&rows, "write"), WRITTEN_COUNT_MAX as u64 + 5);
    assert_eq!(counted(&rows, "purge"), 1024);
    assert_eq!(counted(&rows, "audit-lost"), 3);
    assert_eq!(house.journal.lost_rows(), 3);
}

#[tokio::test]
async fn what_cannot_be_written_is_kept_and_written_once_when_it_can_be() {
    let house = House::new().await;
    house
        .journal
        .record(written("trusted", 1, Dialect::Nx, Some(b"1")));
    house.alter("ALTER TABLE audit RENAME TO away").await;
    for _ in 0..3 {
        house.journal.flush(&house.ledger).await.unwrap_err();
        house
            .journal
            .record(written("trusted", 1, Dialect::Nx, Some(b"2")));
    }
    house.alter("ALTER TABLE away RENAME TO audit").await;
    let rows = house.flush().await;
    let keys: Vec<_> = rows.iter().map(|row| row.key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["1", "2", "2", "2"]);
    assert_eq!(house.journal.lost_rows(), 0);
}

#[tokio::test]
async fn an_act_is_in_the_ledger_before_it_takes_effect() {
    let house = House::new().await;
    let act = Act {
        outcome: "requested",
        workspace: Some("acme".parse().unwrap()),
        details: [("writer".to_owned(), json!(7))].into_iter().collect(),
        ..Act::new(ActName::Purge, Actor::Writer(WriterId(3)), START_MS)
    };
    house.journal.write_now(&house.ledger, act).await.unwrap();
    let rows = house.rows().await;
    assert_eq!(
        (rows[0].action.as_str(), rows[0].outcome.as_str()),
        ("purge", "requested")
    );
    assert_eq!((rows[0].writer, rows[0].actor.as_deref()), (Some(3), None));
    assert_eq!(rows[0].details.as_deref(), Some(r#"{"writer":7}"#));
    for (actor, word) in [(Actor::Operator, "operator"), (Actor::Server, "server")] {
        let act = Act::new(ActName::Quarantine, actor, START_MS);
        house.journal.write_now(&house.ledger, act).await.unwrap();
        let row = house.rows().await.pop().unwrap();
        assert_eq!((row.writer, row.actor.as_deref()), (None, Some(word)));
    }
}

#[test]
fn no_text_of_a_row_has_control_characters_or_is_without_bounds() {
    let hostile = "\u{1b}]0;x\u{7}\n".repeat(10_000);
    let act = Act {
        scope: Some(hostile.clone()),
        key: Some(hostile.clone()),
        details: [("text".to_owned(), json!("a\u{1b}\n"))]
            .into_iter()
            .collect(),
        ..Act::new(ActName::Purge, Actor::Operator, START_MS)
    };
    let row = NewAuditRow::from(Event::from(act));
    for text in [row.scope, row.key, row.details].into_iter().flatten() {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.chars().count() <= 2048);
    }
    let large = Act {
        details: [("text".to_owned(), json!(hostile))].into_iter().collect(),
        ..Act::new(ActName::Purge, Actor::Operator, START_MS)
    };
    let details = NewAuditRow::from(Event::from(large)).details.unwrap();
    assert!(details.starts_with("{\"left_out_bytes\":"), "{details}");
}

/// What the property below does to a journal.
#[derive(Debug, Clone)]
enum Step {
    Store {
        trusted: bool,
        writer: u64,
        count: u32,
    },
    Blobs {
        writer: u64,
    },
    Refuse {
        address: u32,
        count: u32,
    },
    Flush,
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<bool>(), 0..3_u64, 1..4000_u32).prop_map(|(trusted, writer, count)| Step::Store {
            trusted,
            writer,
            count
        }),
        (0..3_u64).prop_map(|writer| Step::Blobs { writer }),
        (0..100_000_u32, 1..3000_u32).prop_map(|(address, count)| Step::Refuse { address, count }),
        Just(Step::Flush),
        (0..10_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_happens_the_rows_count_all_of_it(
        steps in proptest::collection::vec(step(), 0..16),
    ) {
        NOW_MS.set(START_MS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            let (mut stored, mut turned_away) = (0, 0);
            for step in steps {
                match step {
                    Step::Store { trusted, writer, count } => {
                        let scope = if trusted { "trusted" } else { "pr/7" };
                        for key in 0..count {
                            let key = key.to_string();
                            let key = Some(key.as_bytes());
                            house.journal.record(written(scope, writer, Dialect::Nx, key));
                        }
                        stored += u64::from(count);
                    }
                    Step::Blobs { writer } => {
                        let cas = Dialect::Cas(DigestFunction::Blake3);
                        house.journal.record(written("pr/7", writer, cas, None));
                        stored += 1;
                    }
                    Step::Refuse { address, count } => {
                        for more in 0..count {
                            house.journal.record(refused("unknown_token", address + more, true));
                        }
                        turned_away += u64::from(count);
                    }
                    Step::Flush => drop(house.flush().await),
                    Step::Wait { ms } => NOW_MS.set(now_ms() + ms),
                }
            }
            for _ in 0..40 {
                house.journal.flush(&house.ledger).await.unwrap();
                NOW_MS.set(now_ms() + 256_000);
            }
            let rows = house.rows().await;
            assert_eq!(counted(&rows, "write"), stored);
            assert_eq!(counted(&rows, "bad-credential"), turned_away);
            assert_eq!(house.journal.lost_rows(), 0);
        });
    }
}
