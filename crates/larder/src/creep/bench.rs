//! The cache and the people, and a record of what each did to the other.
//!
//! Always true: every text that is stored is random and says who stored it, so whatever is read back is somebody's, under
//! this key, or a stranger's.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_proto::reapi::Digest;

use super::exchange::{Exchange, Key, Loaded, Refusal, Stored, Unclear, random_bytes, sha256};
use super::nx::NxCache;
use super::people::{People, Who};
use super::reapi::ReapiCache;
use super::report::{Attempt, Harm, LeftBehind, Outcome, Step, Why};
use super::tricks::{How, Trick};

/// How long what was accepted may take to be readable: caches in front of object stores answer before they have stored.
pub(super) const SETTLING_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait before asking again.
pub(super) const SETTLING_PAUSE: Duration = Duration::from_millis(50);

/// How many entries that nobody touched trunk must get before another that it does not get counts: at least so many, and so
/// many for each that it stored in the attempt, so that what is lost by accident shows here, too.
const CONTROLS_MIN: u32 = 10;
const CONTROLS_PER_STORE: u32 = 3;

/// How many characters of a blob's hash name it in a step.
const DIGEST_CHARACTERS: usize = 12;

/// The cache under test.
pub(super) enum Cache {
    Nx(NxCache),
    Reapi(ReapiCache),
}

/// What someone was shown under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// What this one stored there.
    Of(Who),
    /// What nobody stored there.
    Foreign,
    Nothing,
    Refused(Refusal),
}

/// What an attempt comes to, once the server's answers are clear.
pub(super) type Judged = Result<(Outcome, String), Unclear>;

#[expect(
    clippy::unnecessary_wraps,
    reason = "an attempt ends with one of these, or with `Unclear`"
)]
pub(super) fn pass(note: impl Into<String>) -> Judged {
    Ok((Outcome::Pass, note.into()))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "an attempt ends with one of these, or with `Unclear`"
)]
pub(super) fn fail(harm: Harm, note: impl Into<String>) -> Judged {
    Ok((Outcome::Fail(harm), note.into()))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "an attempt ends with one of these, or with `Unclear`"
)]
pub(super) fn untested(why: Why, note: impl Into<String>) -> Judged {
    Ok((Outcome::Untested(why), note.into()))
}

pub(super) struct Bench {
    pub(super) cache: Cache,
    pub(super) people: People,
    /// Who stored which bytes, under which key.
    authors: RefCell<HashMap<Bytes, (Key, Who)>>,
    /// Keys under which someone other than trunk was told that their bytes are stored.
    tainted: RefCell<Vec<Key>>,
    /// Keys under which trunk got what others stored.
    reached: RefCell<HashSet<Key>>,
    left: RefCell<LeftBehind>,
    pull_request_stores: Cell<bool>,
    /// How often trunk stored in this attempt.
    trunk_stores: Cell<u32>,
    /// When someone other than trunk last stored.
    tainted_at: Cell<Option<Instant>>,
    /// How long the cache takes to store something.
    pub(super) pace: Cell<Duration>,
}

impl Bench {
    pub(super) fn new(cache: Cache, people: People) -> Self {
        Self {
            cache,
            people,
            authors: RefCell::default(),
            tainted: RefCell::default(),
            reached: RefCell::default(),
            left: RefCell::default(),
            pull_request_stores: Cell::default(),
            trunk_stores: Cell::default(),
            tainted_at: Cell::default(),
            pace: Cell::default(),
        }
    }

    pub(super) fn left_behind(&self) -> LeftBehind {
        self.left.borrow().clone()
    }

    /// True if a pull request was ever told that an entry of its is stored, without a trick.
    pub(super) fn pull_request_stores(&self) -> bool {
        self.pull_request_stores.get()
    }

    /// Keys to look at again when all is over: trunk was not seen to get what others stored there.
    pub(super) fn tainted(&self) -> Vec<Key> {
        let reached = self.reached.borrow();
        let mut keys = self.tainted.borrow().clone();
        keys.dedup();
        keys.retain(|key| !reached.contains(key));
        keys
    }

    /// Waits until what others stored last has had its time to become trunk's.
    pub(super) async fn settle(&self) {
        if let Some(at) = self.tainted_at.get() {
            tokio::time::sleep_until((at + SETTLING_LIMIT).into()).await;
        }
    }

    /// Makes an attempt. That trunk does not get something may be an accident of that moment, so it is a failure only if it
    /// happens twice, and does not happen to what nobody touched.
    pub(super) async fn attempt(
        &self,
        id: impl Into<String>,
        what: impl Into<String>,
        run: impl AsyncFn(&mut Trial<'_>) -> Judged,
    ) -> Attempt {
        let mut trial = Trial {
            bench: self,
            steps: Vec::new(),
        };
        self.trunk_stores.set(0);
        let mut judged = run(&mut trial).await;
        if matches!(judged, Ok((Outcome::Fail(Harm::TrunkBlocked), _))) {
            judged = again(&mut trial, &run).await;
        }
        let (outcome, note) =
            judged.unwrap_or_else(|unclear| (Outcome::Untested(Why::Trouble), unclear.0));
        Attempt {
            id: id.into(),
            what: what.into(),
            outcome,
            note,
            evidence: trial.steps,
        }
    }

    /// Stores something new under `key`.
    pub(super) async fn store(
        &self,
        who: Who,
        key: Key,
        trick: Option<&Trick>,
    ) -> (Step, Result<Stored, Unclear>) {
        let text = new_text(who);
        let how = trick.map(|trick| &trick.how);
        let (bytes, exchange) = match (&self.cache, how) {
            (Cache::Nx(nx), how) => {
                let archive = NxCache::archive(&text);
                let how = match how {
                    Some(How::Nx(how)) => Some(how),
                    _ => None,
                };
                self.wrote(&archive, key, who);
                let stored = nx.store(&self.people, who, key, archive.clone(), how);
                (archive, stored.await)
            }
            (Cache::Reapi(reapi), how) => {
                let bytes = Bytes::from(text.clone());
                let how = match how {
                    Some(How::Reapi(how)) => Some(how),
                    _ => None,
                };
                self.wrote(&bytes, key, who);
                let stored = reapi.store(&self.people, who, key, &text, how);
                (bytes, stored.await)
            }
        };
        self.count(&exchange, &bytes);
        if who == Who::Trunk {
            self.trunk_stores.set(self.trunk_stores.get() + 1);
        }
        let plainly = trick.is_none() && exchange.meaning == Ok(Stored::Accepted);
        if who == Who::PullRequest && plainly {
            self.pull_request_stores.set(true);
        }
        // After a trick no answer is the last word.
        let maybe_there = trick.is_some() || exchange.meaning == Ok(Stored::Accepted);
        if maybe_there && who != Who::Trunk {
            self.tainted.borrow_mut().push(key);
            self.tainted_at.set(Some(Instant::now()));
        }
        self.step(who, exchange, Some(&bytes), None)
    }

    /// Reads what is under `key`.
    pub(super) async fn load(&self, who: Who, key: Key) -> (Step, Result<Seen, Unclear>) {
        let exchange = match &self.cache {
            Cache::Nx(nx) => nx.load(&self.people, who, key).await,
            Cache::Reapi(reapi) => reapi.load(&self.people, who, key).await,
        };
        self.loaded(who, key, exchange)
    }

    /// Reads what is under `key` by the second door to results of actions.
    pub(super) async fn load_over_http(
        &self,
        reapi: &ReapiCache,
        who: Who,
        key: Key,
        prefix: &str,
    ) -> (Step, Result<Seen, Unclear>) {
        let exchange = reapi.get(&self.people, who, key, prefix).await;
        self.loaded(who, key, exchange)
    }

    fn loaded(
        &self,
        who: Who,
        key: Key,
        exchange: Exchange<Loaded>,
    ) -> (Step, Result<Seen, Unclear>) {
        let bytes = match &exchange.meaning {
            Ok(Loaded::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let (mut step, meaning) = self.step(who, exchange, None, bytes.as_ref());
        let seen = meaning.map(|loaded| match loaded {
            Loaded::Nothing => Seen::Nothing,
            Loaded::Refused(refusal) => Seen::Refused(refusal),
            Loaded::Bytes(bytes) => match self.authors.borrow().get(&bytes) {
                Some((stored_as, author)) if *stored_as == key => Seen::Of(*author),
                _ => Seen::Foreign,
            },
        });
        if who == Who::Trunk && matches!(&seen, Ok(Seen::Of(author)) if *author != Who::Trunk) {
            self.reached.borrow_mut().insert(key);
        }
        step.stored_by = match seen {
            Ok(Seen::Of(author)) => Some(author.name()),
            Ok(Seen::Foreign) => Some("somebody else"),
            _ => None,
        };
        (step, seen)
    }

    fn wrote(&self, bytes: &Bytes, key: Key, who: Who) {
        self.authors.borrow_mut().insert(bytes.clone(), (key, who));
    }

    fn count(&self, exchange: &Exchange<Stored>, bytes: &Bytes) {
        if exchange.meaning == Ok(Stored::Accepted) {
            let mut left = self.left.borrow_mut();
            left.stores += 1;
            left.bytes += bytes.len() as u64;
        }
    }

    /// An exchange as it is recorded, and what it means.
    fn step<T>(
        &self,
        who: Who,
        exchange: Exchange<T>,
        sent: Option<&Bytes>,
        got: Option<&Bytes>,
    ) -> (Step, Result<T, Unclear>) {
        let step = Step {
            who: who.name(),
            asked: exchange.asked,
            answered: self.people.redact(&exchange.answered),
            sent_sha256: sent.map(|bytes| sha256(bytes)),
            got_sha256: got.map(|bytes| sha256(bytes)),
            stored_by: None,
        };
        let meaning = exchange
            .meaning
            .map_err(|Unclear(reason)| Unclear(self.people.redact(&reason)));
        (step, meaning)
    }
}

/// The same once more, between looks at what nobody touched.
async fn again(trial: &mut Trial<'_>, run: &impl AsyncFn(&mut Trial<'_>) -> Judged) -> Judged {
    let stores = trial.bench.trunk_stores.get();
    trial.trunk_is_served(stores).await?;
    let (outcome, note) = run(trial).await?;
    if outcome == Outcome::Pass {
        return Err(Unclear(
            "trunk missed something once, and not when it was tried again".to_owned(),
        ));
    }
    if outcome == Outcome::Fail(Harm::TrunkBlocked) {
        trial.trunk_is_served(stores).await?;
    }
    Ok((outcome, note))
}

/// An attempt under way.
pub(super) struct Trial<'b> {
    pub(super) bench: &'b Bench,
    steps: Vec<Step>,
}

impl Trial<'_> {
    pub(super) async fn store(&mut self, who: Who, key: Key) -> Result<Stored, Unclear> {
        let (step, stored) = self.bench.store(who, key, None).await;
        self.steps.push(step);
        stored
    }

    /// Stores in another way. Whatever is answered, only reading tells what it did.
    pub(super) async fn try_trick(&mut self, who: Who, key: Key, trick: &Trick) {
        let (step, _) = self.bench.store(who, key, Some(trick)).await;
        self.steps.push(step);
    }

    pub(super) async fn load(&mut self, who: Who, key: Key) -> Result<Seen, Unclear> {
        let (step, seen) = self.bench.load(who, key).await;
        self.steps.push(step);
        seen
    }

    /// Reads again and again until what is seen is what was waited for, or for as long as that may take.
    async fn load_until(
        &mut self,
        who: Who,
        key: Key,
        enough: impl Fn(Seen) -> bool,
    ) -> Result<Seen, Unclear> {
        let end = Instant::now() + SETTLING_LIMIT;
        loop {
            let (step, seen) = self.bench.load(who, key).await;
            let seen = match seen {
                Ok(seen) if !enough(seen) && Instant::now() < end => {
                    tokio::time::sleep(SETTLING_PAUSE).await;
                    continue;
                }
                seen => seen,
            };
            self.steps.push(step);
            return seen;
        }
    }

    /// What `who` sees once it is their own, or at last.
    pub(super) async fn load_own(&mut self, who: Who, key: Key) -> Result<Seen, Unclear> {
        self.load_until(who, key, |seen| seen == Seen::Of(who))
            .await
    }

    /// What `who` sees under a key that trunk has, once it is trunk's, or at last.
    pub(super) async fn load_trunks(&mut self, who: Who, key: Key) -> Result<Seen, Unclear> {
        self.load_until(who, key, |seen| seen == Seen::Of(Who::Trunk))
            .await
    }

    /// What trunk sees under a key that it had: nothing only if that stays so.
    pub(super) async fn load_kept(&mut self, key: Key) -> Result<Seen, Unclear> {
        let somebodys = |seen| matches!(seen, Seen::Of(_) | Seen::Foreign);
        self.load_until(Who::Trunk, key, somebodys).await
    }

    /// Has trunk store something that it gets back: what an attempt about trunk's entries begins with.
    pub(super) async fn trunk_has(&mut self, key: Key) -> Result<(), Unclear> {
        if self.store(Who::Trunk, key).await? != Stored::Accepted {
            return Err(Unclear("trunk could not store its own entry".to_owned()));
        }
        match self.load_own(Who::Trunk, key).await? {
            Seen::Of(Who::Trunk) => Ok(()),
            _ => Err(Unclear("trunk did not get its own entry back".to_owned())),
        }
    }

    /// Has trunk store `key`. It is refused only if that stays so.
    pub(super) async fn trunk_stores(&mut self, key: Key) -> Result<Stored, Unclear> {
        let stored = self.store(Who::Trunk, key).await?;
        if stored != Stored::Accepted {
            self.still_refused(key).await?;
        }
        Ok(stored)
    }

    /// Whether trunk, which was not let store `key`, is not let store it again while other keys are taken.
    pub(super) async fn still_refused(&mut self, key: Key) -> Result<(), Unclear> {
        self.trunk_has(Key::random()).await?;
        match self.store(Who::Trunk, key).await? {
            Stored::Exists | Stored::Refused(_) => Ok(()),
            Stored::Accepted => Err(Unclear(
                "trunk's own result was refused once, and then accepted".to_owned(),
            )),
        }
    }

    /// Whether trunk gets what nobody touched: else what it does not get says nothing.
    async fn trunk_is_served(&mut self, stores: u32) -> Result<(), Unclear> {
        for _ in 0..CONTROLS_MIN.max(stores.saturating_mul(CONTROLS_PER_STORE)) {
            let key = Key::random();
            let (put, accepted) = self.bench.store(Who::Trunk, key, None).await;
            let (get, seen) = self.bench.load(Who::Trunk, key).await;
            if accepted? != Stored::Accepted || seen? != Seen::Of(Who::Trunk) {
                self.steps.extend([put, get]);
                return Err(Unclear(
                    "trunk does not always get back what nobody touched".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Records what happened elsewhere.
    pub(super) fn saw(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Records an exchange about a blob.
    pub(super) fn blob_step<T>(
        &mut self,
        who: Who,
        exchange: Exchange<T>,
        digest: &Digest,
        sent: Option<&Bytes>,
    ) -> Result<T, Unclear> {
        let exchange = exchange.about(&digest.hash[..DIGEST_CHARACTERS]);
        let (step, meaning) = self.bench.step(who, exchange, sent, None);
        self.steps.push(step);
        meaning
    }

    /// Records that a blob was sent.
    pub(super) fn blob_sent(
        &mut self,
        who: Who,
        exchange: Exchange<Stored>,
        digest: &Digest,
        bytes: &Bytes,
    ) -> Result<Stored, Unclear> {
        self.bench.count(&exchange, bytes);
        self.blob_step(who, exchange, digest, Some(bytes))
    }

    /// Records that a blob was read.
    pub(super) fn blob_read(
        &mut self,
        who: Who,
        exchange: Exchange<Loaded>,
        digest: &Digest,
    ) -> Result<Loaded, Unclear> {
        let got = match &exchange.meaning {
            Ok(Loaded::Bytes(bytes)) => Some(sha256(bytes)),
            _ => None,
        };
        let meaning = self.blob_step(who, exchange, digest, None);
        if let Some(step) = self.steps.last_mut() {
            step.got_sha256 = got;
        }
        meaning
    }
}

/// A text that says whose it is, and is like no other.
pub(super) fn new_text(who: Who) -> String {
    let nonce = u128::from_ne_bytes(random_bytes());
    format!(
        "creep-check: stored by {} to see who gets it; nothing that anybody needs ({nonce:032x})\n",
        who.name()
    )
}
