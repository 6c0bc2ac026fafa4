//! Real buildbox-casd as a client of the real program, with a client of its own behind it.
//!
//! casd is a C++ gRPC client with a store of its own: what one casd was given, a second one with an empty store can have only from
//! Larder. `cargo xtask test` installs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use larder_testkit::casd::{Casd, CasdRemote, PinnedCasd, TlsFront};
use larder_testkit::grpcio::PinnedGrpcio;
use larder_testkit::{Access, Server, ServerOptions, larder_binary, left_out};

const SCRIPT: &str = "grpcio/through_casd.py";

/// A server behind a proxy that ends TLS, and the programs that talk to it.
struct Bench {
    server: Server,
    front: TlsFront,
    casd: PinnedCasd,
    grpcio: PinnedGrpcio,
}

impl Bench {
    /// `None` where casd could not be installed, which `cargo xtask test` reports and which is never so in CI.
    fn open(options: ServerOptions) -> Option<Self> {
        if left_out("casd") || left_out("grpcio") {
            return None;
        }
        let larder = larder_binary(env!("CARGO_BIN_EXE_larder"));
        let server = Server::start_with(larder, options).unwrap();
        let front = TlsFront::start(server.address()).unwrap();
        let casd = PinnedCasd::installed().unwrap();
        let grpcio = PinnedGrpcio::installed().unwrap();
        Some(Self {
            server,
            front,
            casd,
            grpcio,
        })
    }

    fn casd(&self, token: Option<&str>) -> Casd {
        let remote = CasdRemote {
            front: &self.front,
            instance: "buildstream",
            token,
        };
        Casd::start(&self.casd, &remote).unwrap()
    }

    /// Runs a part of the script against a fresh casd.
    #[track_caller]
    fn succeeds(&self, part: &str, token: Option<&str>) {
        let casd = self.casd(token);
        let target = [("LARDER_TARGET", &*casd.target())];
        let finished = self.grpcio.run(SCRIPT, &[part], &target).unwrap();
        finished.success().unwrap_or_else(|error| {
            panic!(
                "{part}: {error}\ncasd printed: {}\nlarder printed: {}",
                casd.output(),
                self.server.output()
            )
        });
    }
}

#[test]
fn what_one_casd_stored_another_one_finds() {
    let Some(mut bench) = Bench::open(ServerOptions::default()) else {
        return;
    };
    let trusted = bench.server.token(Access::Trusted, None).unwrap();
    bench.succeeds("store", Some(&trusted));
    bench.succeeds("fetch", Some(&trusted));
    bench.server.restart().unwrap();
    let reader = bench.server.token(Access::Reader, None).unwrap();
    bench.succeeds("fetch", Some(&reader));
}

#[test]
fn a_public_workspace_serves_a_casd_without_a_token() {
    let options = ServerOptions {
        config: Some("[workspace.default]\npublic = true\n".to_owned()),
        ..ServerOptions::default()
    };
    let Some(bench) = Bench::open(options) else {
        return;
    };
    let trusted = bench.server.token(Access::Trusted, None).unwrap();
    bench.succeeds("store", Some(&trusted));
    bench.succeeds("fetch", None);
}

#[test]
fn a_casd_with_a_bad_token_hears_why() {
    let Some(bench) = Bench::open(ServerOptions::default()) else {
        return;
    };
    let casd = bench.casd(Some("lrd_unknown"));
    casd.wait_for_output("this is not a whole Larder token")
        .unwrap();
}
