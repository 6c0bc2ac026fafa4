//! The ports that the configuration asks for: plain HTTP, TLS, or both.
//!
//! Always true: nobody is told an address at which nothing listens.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::front::Front;
use crate::net::{self, Door, Listener, PaceLimits, Seats, Tls};

/// Bound ports.
pub(crate) struct Doors {
    plain: Option<Bound>,
    encrypted: Option<(Bound, Arc<Tls>)>,
}

struct Bound {
    socket: TcpListener,
    address: SocketAddr,
}

impl Doors {
    /// Reads the certificate and binds the ports. Requests can come from here on, and wait.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let plain = settings.http.listen.map(|address| {
            bind(
                address,
                "--listen takes another address, or off where TLS listens",
            )
        });
        let encrypted = settings.tls.as_ref().map(|tls| {
            let files = Arc::new(Tls::load(tls.files.clone())?);
            let bound = bind(tls.listen, "listen in [tls] takes another address")?;
            anyhow::Ok((bound, files))
        });
        Ok(Self {
            plain: plain.transpose()?,
            encrypted: encrypted.transpose()?,
        })
    }

    /// How many ports there are.
    pub(crate) fn count(&self) -> usize {
        usize::from(self.plain.is_some()) + usize::from(self.encrypted.is_some())
    }

    /// What is presented at the TLS port.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.encrypted.as_ref().map(|(_, tls)| Arc::clone(tls))
    }

    /// Every address, for people: `http://127.0.0.1:9092 and https://127.0.0.1:9443`.
    pub(crate) fn addresses(&self) -> String {
        let plain = self
            .plain
            .as_ref()
            .map(|bound| format!("http://{}", bound.address));
        let encrypted = self
            .encrypted
            .as_ref()
            .map(|(bound, _)| format!("https://{}", bound.address));
        let all: Vec<String> = plain.into_iter().chain(encrypted).collect();
        all.join(" and ")
    }

    /// The address for clients, with TLS if there is any. What listens everywhere has a name that only its operator knows.
    pub(crate) fn client_url(&self, base_path: &str) -> String {
        let (scheme, address) = match (&self.encrypted, &self.plain) {
            (Some((bound, _)), _) => ("https", bound.address),
            (None, Some(bound)) => ("http", bound.address),
            (None, None) => unreachable!("a configuration in which nothing listens is refused"),
        };
        client_url(scheme, address, base_path)
    }

    /// Takes connections until `stop` says so. The tasks end then.
    pub(crate) fn serve(
        self,
        front: &Arc<Front>,
        seats: &Arc<Seats>,
        limits: PaceLimits,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let plain = self.plain.map(|bound| (bound, Door::Plain));
        let encrypted = self.encrypted.map(|(bound, tls)| (bound, Door::Tls(tls)));
        let serve = |(bound, door): (Bound, Door)| {
            let listener = Listener::new(bound.socket, Arc::clone(seats))?;
            let front = Arc::clone(front);
            let answer = move |request, peer: &_| front.answer(request, peer);
            let serving = net::serve(listener, door, limits, stop.clone(), answer);
            Ok(tokio::spawn(serving))
        };
        plain.into_iter().chain(encrypted).map(serve).collect()
    }
}

fn bind(address: SocketAddr, advice: &str) -> anyhow::Result<Bound> {
    let socket =
        net::bind(address).with_context(|| format!("cannot listen on {address}; {advice}"))?;
    let address = socket.local_addr()?;
    Ok(Bound { socket, address })
}

fn client_url(scheme: &str, address: SocketAddr, base_path: &str) -> String {
    if address.ip().is_unspecified() {
        format!("{scheme}://THIS-MACHINE:{}{base_path}", address.port())
    } else {
        format!("{scheme}://{address}{base_path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_does_not_give_clients_that_address() {
        assert_eq!(
            client_url("https", "0.0.0.0:80".parse().unwrap(), "/c"),
            "https://THIS-MACHINE:80/c"
        );
        assert_eq!(
            client_url("http", "127.0.0.1:80".parse().unwrap(), ""),
            "http://127.0.0.1:80"
        );
    }
}
