//! Measures a build cache, and checks every byte it gives back. `larder bench` is the command.
//!
//! It knows Nx's protocol, the Remote Execution API over gRPC and over HTTP, and a folder that takes `GET` and `PUT`. It shares no
//! code with the server. One run is a [`Plan`]: one [`Target`] or two of them, scenarios, and a [`Load`]; [`run`] gives a
//! [`Report`], which is JSON by serde and a table by [`Report::text`].
//!
//! **Scenarios** ([`Scenario::parse`] has the names). `read`, `write`, `miss` of entries of one size, over every protocol: `GET` and
//! `PUT`, or `ByteStream` for gRPC. `action`, `action-miss`, `find`, `find-absent`, `batch-read`, `batch-update` over gRPC.
//! `mixed` of reads and writes at a rate of hits. Whole builds, stored and then restored: `dxos`, `buildbuddy`, `storm`.
//!
//! **Loads.** Closed: so many requests are in flight, and each answer sends the next. Open: so many requests begin in each second
//! whatever the server does, and a latency counts from when its request was *due*, so that a server that stands still is not
//! spared the requests of that time.
//!
//! Always true: what is timed is never prepared in that time, but for what makes a write a new one; contents come from a seed,
//! which the report names; each body is compared byte by byte with what was stored, of what was written a sample is read back,
//! and one wrong byte, or one entry that is gone, fails the run.
//!
//! What it does not do: it does not compress, ask for parts of entries, or follow redirects, and all large entries of one size
//! differ in their last bytes alone.

mod build;
mod compare;
mod content;
mod error;
mod grpc;
mod histogram;
mod http1;
mod lane;
mod load;
mod messages;
mod pace;
mod process;
mod protobuf;
mod report;
mod run;
mod scenario;
mod socket;
mod tally;
mod target;
mod work;

pub use error::BenchError;
pub use load::Load;
pub use report::{Block, Figure, Latency, Ratio, Report};
pub use run::{Plan, run};
pub use scenario::Scenario;
pub use target::{Protocol, Target, Token};
