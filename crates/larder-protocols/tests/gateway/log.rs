//! What the gateway logs, kept for the test in whose thread it did.
//!
//! One subscriber serves all tests of the process, because `tracing` remembers for all threads whether anybody wants an event,
//! and asks only the thread that comes to it first. So every house has it from the start, and keeps nothing unless a test asks.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

type Line = (Level, String);

thread_local! {
    static KEPT: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

/// Makes what is logged reach [`keep`], from now on and in every thread.
pub(crate) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| tracing::subscriber::set_global_default(ByThread).unwrap());
}

/// Keeps the lines of this thread from now on.
pub(crate) fn keep() {
    KEPT.set(Some(Vec::new()));
}

/// The lines of this thread since [`keep`].
pub(crate) fn kept() -> Vec<Line> {
    KEPT.take().expect("lines are being kept")
}

struct ByThread;

impl Subscriber for ByThread {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("larder_protocols")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        KEPT.with_borrow_mut(|kept| {
            if let Some(lines) = kept {
                let mut fields = Fields(String::new());
                event.record(&mut fields);
                lines.push((*event.metadata().level(), fields.0));
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}
