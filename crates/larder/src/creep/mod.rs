//! `larder creep-check`: can a pull request poison this cache?
//!
//! CREEP (CVE-2025-36852) is a cache in which whoever may write a key first decides what every later reader of that key
//! gets. Nothing in a cache's documentation settles whether it is one; so this asks the cache itself, over the network, as
//! its own clients do: with trunk's credential, with a pull request's, with others' if they are given and with none. It
//! tries every order of storing and reading that matters, at once and with every trick by which a request could pass for
//! another, and looks what trunk gets. It works against any server that speaks the protocol, and knows nothing of Larder.
//!
//! Always true:
//! - Nothing of the team's own is read or written: keys are random, and what is stored says where it comes from.
//! - Only what somebody gets counts. A status alone convicts and acquits nobody, and what trunk does not get convicts only if
//!   it stays so, happens again with other keys, and does not happen to keys that nobody touched.
//! - No doubt becomes a verdict: where a server's answer is neither yes nor no, the attempt is untested.
//!
//! | file | what is in it |
//! |---|---|
//! | `people.rs` | who asks, with which credential |
//! | `exchange.rs`, `nx.rs`, `reapi.rs`, `grpc.rs` | requests and what their answers mean |
//! | `bench.rs` | whose bytes are whose |
//! | `entries.rs`, `races.rs`, `tricks.rs`, `around.rs`, `blobs.rs` | the attempts |
//! | `report.rs`, `print.rs` | what they come to |

mod around;
mod bench;
mod blobs;
mod entries;
mod exchange;
mod grpc;
mod nx;
mod people;
mod print;
mod races;
mod reapi;
mod report;
mod tricks;

use std::time::Duration;

use larder_client::{ClientOptions, OptionsError};

use bench::{Bench, Cache};
use people::People;
use report::{Harm, Outcome, Why, judge};

pub(crate) use people::{Token, Tokens};
pub(crate) use print::text;
pub(crate) use report::{Report, Verdict};

/// What a cache speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Protocol {
    Nx,
    /// The Remote Execution API, with this instance name.
    Reapi {
        instance: String,
    },
}

/// What to check, and how.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `http://…` or `https://…`.
    pub(crate) url: String,
    pub(crate) protocol: Protocol,
    pub(crate) tokens: Tokens,
    /// Certificate authorities to trust beside the system's.
    pub(crate) extra_roots_pem: Vec<Vec<u8>>,
    /// False if it is known that pull requests can only read.
    pub(crate) pull_requests_write: bool,
    /// How often both store at once.
    pub(crate) rounds: u32,
    /// How long one exchange may take.
    pub(crate) timeout: Duration,
}

/// Checks the cache. `progress` hears what is being tried.
pub(crate) async fn check(plan: Plan, progress: &dyn Fn(&str)) -> Result<Report, OptionsError> {
    let options = ClientOptions {
        extra_roots_pem: plan.extra_roots_pem,
        timeout: plan.timeout,
        answer_bytes_max: grpc::MESSAGE_BYTES_MAX,
        http2_only: plan.protocol != Protocol::Nx,
        ..ClientOptions::default()
    };
    let people = People::new(plan.tokens, &options)?;
    let (cache, tricks, protocol) = match plan.protocol {
        Protocol::Nx => {
            let nx = nx::NxCache::new(&plan.url);
            (Cache::Nx(nx), tricks::of_nx(), "Nx")
        }
        Protocol::Reapi { instance } => {
            let tricks = tricks::of_reapi(&instance);
            let reapi = reapi::ReapiCache::new(&plan.url, instance);
            (Cache::Reapi(reapi), tricks, "Remote Execution API")
        }
    };
    let bench = Bench::new(cache, people);
    progress("is it there?");
    let setup = entries::prepare(&bench).await;
    let mut attempts;
    let (mut verdict, mut because);
    if setup.outcome == Outcome::Pass {
        attempts = entries::try_all(&bench, progress).await;
        let poisoned = Outcome::Fail(Harm::TrunkPoisoned);
        let plainly = attempts.iter().any(|attempt| attempt.outcome == poisoned);
        if let Cache::Reapi(reapi) = &bench.cache {
            attempts.extend(blobs::try_all(&bench, reapi, progress).await);
        }
        attempts.push(races::try_all(&bench, plan.rounds, progress).await);
        if plainly {
            attempts.push(around::needless(&bench, &tricks).await);
        } else {
            attempts.extend(around::try_all(&bench, &tricks, progress).await);
        }
        (verdict, because) = judge(&attempts);
    } else {
        verdict = Verdict::Inconclusive;
        because = format!("nothing could be tried: {}", setup.note);
        attempts = vec![setup];
    }
    if verdict == Verdict::Safe {
        let cannot = Outcome::Untested(Why::CannotStore);
        let at_times = attempts.iter().any(|attempt| attempt.outcome == cannot);
        match (bench.pull_request_stores(), plan.pull_requests_write) {
            (true, true) if at_times => {
                verdict = Verdict::Inconclusive;
                because = "the pull request could store at times, and at times not".to_owned();
            }
            (true, true) => {}
            (false, false) => {
                because += "; the pull request's credential could not store anything, as expected";
            }
            (false, true) => {
                verdict = Verdict::Inconclusive;
                because = "the pull request's credential could not store anything; if that is meant, say --pr-cannot-write"
                    .to_owned();
            }
            (true, false) => {
                verdict = Verdict::Inconclusive;
                because = "the pull request's credential can store, which --pr-cannot-write denies: is it the right one?"
                    .to_owned();
            }
        }
    }
    Ok(Report {
        url: plan.url,
        protocol,
        checked_by: concat!("larder ", env!("CARGO_PKG_VERSION")),
        verdict,
        because,
        attempts,
        left_behind: bench.left_behind(),
    })
}
