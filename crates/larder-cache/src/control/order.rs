//! Orders: purges and quarantines as they reach the bucket, and other nodes.
//!
//! Packs are immutable, so what was purged or put into quarantine is still in the bucket. An order says what is no longer
//! to be believed: everything a filter matches that was in the catalogue when it was given, or was written before. It
//! holds for as long as such an entry can be in the bucket, on every node, so whoever opens a cache with a bucket gives it
//! the standing orders first ([`Cache::obey`]), and keeps new ones before they are carried out ([`crate::Tier::keeping`]).
//!
//! There is no order to release: what was released is served by the nodes that kept its bytes, and by no other.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use larder_model::{BlobHash, Dialect, EntryKey, WriterId};
use larder_store::Standing;

use super::change::Change;
use super::filter::{EntryFilter, KeyFilter};
use crate::cache::Cache;
use crate::key::DecodedKey;

/// The order's text begins with it.
const VERSION: &str = "order 1";

/// What is no longer to be served from the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which entries; `None`: all.
    pub(crate) filter: Option<EntryFilter>,
    /// Blobs that are not named stay.
    pub(crate) leaves_blobs: bool,
    /// Entries written until then, unix milliseconds, in whatever pack.
    pub(crate) until_ms: u64,
    /// Entries in packs up to this number, whenever they were written.
    pub(crate) through_pack: u32,
}

/// An order could not be kept. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the order cannot be kept: {0}")]
pub struct OrderNotKept(pub String);

/// Keeps an order for all nodes and all times, as [`Order::to_text`] says it.
pub type OrderKeeper = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<(), OrderNotKept>> + Send>> + Send + Sync,
>;

impl Order {
    /// The order that goes with a change; `None`: none does.
    pub(crate) fn of(
        change: Change,
        filter: Option<&EntryFilter>,
        (until_ms, through_pack): (u64, u32),
    ) -> Option<Self> {
        let leaves_blobs = match change {
            Change::Purge => false,
            Change::Quarantine => !filter.is_some_and(EntryFilter::names_blobs),
            Change::Release => return None,
        };
        // What was in quarantine already was forgotten when it came there.
        let is_about_held = |filter: &EntryFilter| filter.standing == Some(Standing::Held);
        (!filter.is_some_and(is_about_held)).then(|| Self {
            filter: filter.cloned(),
            leaves_blobs,
            until_ms,
            through_pack,
        })
    }

    /// Whether it is about an entry of the bucket, whose time of writing is seen to elsewhere.
    pub(crate) fn names(&self, head: &larder_bucket::RecordHead<'_>) -> bool {
        let Some(name) = DecodedKey::decode(head.key) else {
            return self.filter.is_none();
        };
        if self.leaves_blobs && matches!(name.dialect, Dialect::Cas(_)) {
            return false;
        }
        let head = larder_store::RecordHead {
            key: head.key,
            metadata: &[],
            check: 0,
            writer: head.writer,
            written_at_ms: head.written_at_ms,
            size: head.body_bytes,
            sequence: 0,
            standing: Standing::Entry,
        };
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| filter.matches(&name, &head))
    }

    /// When it was given, unix milliseconds. Once everything has expired that was in the bucket then, it says nothing any
    /// more.
    pub fn given_at_ms(&self) -> u64 {
        self.until_ms
    }

    /// The order as text, a line for each thing it says.
    pub fn to_text(&self) -> String {
        let mut lines = vec![
            VERSION.to_owned(),
            format!("until {}", self.until_ms),
            format!("through {}", self.through_pack),
        ];
        if self.leaves_blobs {
            lines.push("leaves-blobs".to_owned());
        }
        if let Some(filter) = &self.filter {
            lines.push("matching".to_owned());
            add_filter(&mut lines, filter);
        }
        lines.join("\n")
    }

    /// Reads an order's text. `None`: it is none, or says something that this version does not know.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != VERSION {
            return None;
        }
        let mut order = Self {
            filter: None,
            leaves_blobs: false,
            until_ms: 0,
            through_pack: 0,
        };
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, &mut order.filter) {
                ("until", _) => order.until_ms = rest.parse().ok()?,
                ("through", _) => order.through_pack = rest.parse().ok()?,
                ("leaves-blobs", _) => order.leaves_blobs = true,
                ("matching", filter) => *filter = Some(EntryFilter::default()),
                (_, Some(filter)) => read_filter(filter, word, rest)?,
                (_, None) => return None,
            }
        }
        Some(order)
    }
}

fn add_filter(lines: &mut Vec<String>, filter: &EntryFilter) {
    let EntryFilter {
        workspace,
        scope,
        dialect,
        key,
        writers,
        written_before_ms,
        written_after_ms,
        standing,
    } = filter;
    lines.extend(workspace.iter().map(|name| format!("workspace {name}")));
    lines.extend(scope.iter().map(|name| format!("scope {name}")));
    lines.extend(dialect.iter().map(|of| format!("dialect {}", of.name())));
    if let Some(KeyFilter {
        text,
        hash,
        instance,
    }) = key
    {
        lines.push("key".to_owned());
        let text = text.as_ref().map(|text| hex(text.as_bytes()));
        lines.extend(text.map(|text| format!("text {text}")));
        lines.extend(hash.map(|hash| format!("hash {}", hex(&hash.0))));
        let instance = instance.as_ref().map(|instance| hex(instance));
        lines.extend(instance.map(|instance| format!("instance {instance}")));
    }
    if let Some(writers) = writers {
        let ids: Vec<String> = writers.iter().map(ToString::to_string).collect();
        lines.push(format!("writers {}", ids.join(",")));
    }
    lines.extend(written_before_ms.map(|ms| format!("before {ms}")));
    lines.extend(written_after_ms.map(|ms| format!("after {ms}")));
    // The only other standing is for what no bucket has.
    lines.extend(standing.map(|_| "served".to_owned()));
}

fn read_filter(filter: &mut EntryFilter, word: &str, rest: &str) -> Option<()> {
    match (word, &mut filter.key) {
        ("workspace", _) => filter.workspace = Some(rest.parse().ok()?),
        ("scope", _) => filter.scope = Some(rest.parse().ok()?),
        ("dialect", _) => filter.dialect = Some(Dialect::from_name(rest)?),
        ("writers", _) => {
            let ids = rest.split(',').filter(|id| !id.is_empty());
            let ids: Result<BTreeSet<WriterId>, _> =
                ids.map(|id| id.parse().map(WriterId)).collect();
            filter.writers = Some(ids.ok()?);
        }
        ("before", _) => filter.written_before_ms = Some(rest.parse().ok()?),
        ("after", _) => filter.written_after_ms = Some(rest.parse().ok()?),
        ("served", _) => filter.standing = Some(Standing::Entry),
        ("key", key) => {
            *key = Some(KeyFilter {
                text: None,
                hash: None,
                instance: None,
            });
        }
        ("text", Some(key)) => key.text = Some(EntryKey::new(&unhex(rest)?).ok()?),
        ("hash", Some(key)) => key.hash = Some(BlobHash(unhex(rest)?.try_into().ok()?)),
        ("instance", Some(key)) => key.instance = Some(unhex(rest)?),
        _ => return None,
    }
    Some(())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("less than 16");
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
    };
    let is_even = digits.len().is_multiple_of(2);
    is_even.then(|| digits.chunks(2).map(pair).collect())?
}

impl Cache {
    /// Carries out an order in the bucket as this node knows it; the pools are not touched. Returns how many entries of the
    /// index it took. For standing orders before the bucket runs, and for those that other nodes give.
    pub async fn obey(&self, order: Order) -> u64 {
        match &self.tier {
            Some(tier) => tier.forget(Arc::new(order)).await,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filters() -> impl Strategy<Value = EntryFilter> {
        let key = (
            proptest::option::of(proptest::collection::vec(any::<u8>(), 1..20)),
            proptest::option::of(any::<[u8; 32]>()),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        );
        let key = key.prop_map(|(text, hash, instance)| KeyFilter {
            text: text.map(|text| EntryKey::new(&text).unwrap()),
            hash: hash.map(BlobHash),
            instance,
        });
        let writers = proptest::collection::btree_set(any::<u64>().prop_map(WriterId), 0..4);
        (
            proptest::option::of(Just("acme".parse().unwrap())),
            proptest::option::of(Just("pr/7".parse().unwrap())),
            proptest::option::of(prop::sample::select(Dialect::ALL.to_vec())),
            proptest::option::of(key),
            proptest::option::of(writers),
            (any::<Option<u64>>(), any::<Option<u64>>(), any::<bool>()),
        )
            .prop_map(|(workspace, scope, dialect, key, writers, rest)| {
                let (written_before_ms, written_after_ms, is_served) = rest;
                EntryFilter {
                    workspace,
                    scope,
                    dialect,
                    key,
                    writers,
                    written_before_ms,
                    written_after_ms,
                    standing: is_served.then_some(Standing::Entry),
                }
            })
    }

    proptest! {
        #[test]
        fn an_order_reads_back_as_it_was_given(
            filter in proptest::option::of(filters()),
            leaves_blobs: bool,
            until_ms: u64,
            through_pack: u32,
        ) {
            let order = Order { filter, leaves_blobs, until_ms, through_pack };
            prop_assert_eq!(Order::from_text(&order.to_text()), Some(order));
        }

        #[test]
        fn reading_any_text_never_panics(text in ".*") {
            let _ = Order::from_text(&format!("{VERSION}\nmatching\nkey\n{text}"));
            let _ = Order::from_text(&format!("{VERSION}\nmatching\nkey\nhash {text}"));
        }
    }

    #[test]
    fn an_order_that_says_more_than_this_version_knows_is_none() {
        assert_eq!(
            Order::from_text("order 1\nuntil 7\nmatching\nmood bad"),
            None
        );
        assert_eq!(Order::from_text("order 2\nuntil 7"), None);
    }
}
