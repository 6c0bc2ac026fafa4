//! Which addresses are nobody's to ask from a server: link-local ones, and those at which clouds answer their own machines.
//!
//! Whoever may say where a server fetches something could otherwise have it ask there for the machine's credentials. Names are
//! looked up here, so that what was looked at is what is connected to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Where clouds answer their machines, if not at a link-local address: Azure, Alibaba, Oracle; Amazon and Google over IPv6.
const OF_CLOUDS: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether the address is link-local, or one of those.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            // NAT64 (RFC 6052) leads to the address in the last four bytes.
            if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() {
                let inner = (u32::from(high) << 16) | u32::from(low);
                return is_link_local(Ipv4Addr::from(inner).into());
            }
            address.is_unicast_link_local()
        }
    };
    link_local || OF_CLOUDS.contains(&address)
}

/// The host of a URI, if it is written as such an address.
pub(crate) fn is_link_local_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = bare.unwrap_or(host).parse::<IpAddr>();
    address.is_ok_and(is_link_local)
}

/// Every address of the name is link-local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkLocal;

impl fmt::Display for LinkLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a link-local address")
    }
}

impl std::error::Error for LinkLocal {}

/// Looks names up with the system, and leaves out what must not be asked.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    system: GaiResolver,
    link_local: bool,
}

impl Names {
    /// `link_local`: nothing is left out.
    pub(crate) fn new(link_local: bool) -> Self {
        Self {
            system: GaiResolver::new(),
            link_local,
        }
    }
}

type Found = Result<std::vec::IntoIter<SocketAddr>, Box<dyn std::error::Error + Send + Sync>>;

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Found> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.system.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (asked, all) = (self.system.call(name), self.link_local);
        Box::pin(async move {
            let found: Vec<SocketAddr> = asked.await?.collect();
            let kept = found.iter().filter(|it| all || !is_link_local(it.ip()));
            let kept: Vec<SocketAddr> = kept.copied().collect();
            if kept.is_empty() && !found.is_empty() {
                return Err(LinkLocal.into());
            }
            Ok(kept.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, expected: bool) {
        assert_eq!(is_link_local_host(host), expected, "{host}");
    }

    #[test]
    fn addresses_of_links_and_clouds_are_known_in_every_spelling_of_an_address() {
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "[fe80::1]",
            "[febf::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "168.63.129.16",
            "100.100.100.200",
            "[fd00:ec2::254]",
        ] {
            check(host, true);
        }
        for host in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.253.255.255",
            "169.255.0.0",
            "[::1]",
            "[fec0::1]",
            "[fd00::1]",
            "[64:ff9b::a00:1]",
            "169.254.169.254.example",
            "localhost",
        ] {
            check(host, false);
        }
    }
}
