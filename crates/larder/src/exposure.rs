//! Whether the server may listen where it was told to (G9), and who counts as local.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

/// Refuses an address that other machines can reach, unless the operator has decided so.
pub(crate) fn check(listen: SocketAddr, insecure_http: bool) -> anyhow::Result<()> {
    if insecure_http || is_loopback(listen.ip()) {
        return Ok(());
    }
    anyhow::bail!(
        "refusing to listen on {listen}: other machines can reach this address, and without TLS \
         tokens would cross the network readable for everyone on the way.\n\
         Listen on 127.0.0.1 behind a proxy that speaks TLS; or, if the network is private, allow \
         plain HTTP with --insecure-http (or insecure_http = true in [http])."
    )
}

/// Whether a request comes from a process on this machine and not, through a proxy on it, from
/// somewhere else.
pub(crate) fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    const PROXIES: [&str; 5] = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "via",
    ];
    is_loopback(peer.ip()) && !PROXIES.iter().any(|name| headers.contains_key(*name))
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_needs_no_decision() {
        for address in [
            "127.0.0.1:0",
            "127.8.8.8:80",
            "[::1]:9092",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(check(address.parse().unwrap(), false).is_ok(), "{address}");
        }
        for address in [
            "0.0.0.0:9092",
            "[::]:9092",
            "192.168.1.1:80",
            "[fe80::1]:80",
        ] {
            let address = address.parse().unwrap();
            let error = check(address, false).unwrap_err().to_string();
            assert!(error.contains("--insecure-http"), "{error}");
            assert!(check(address, true).is_ok());
        }
    }

    #[test]
    fn what_a_proxy_forwards_is_not_local() {
        let mut headers = HeaderMap::new();
        assert!(is_local("127.0.0.1:1".parse().unwrap(), &headers));
        assert!(!is_local("10.0.0.1:1".parse().unwrap(), &headers));
        headers.insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
        assert!(!is_local("127.0.0.1:1".parse().unwrap(), &headers));
    }
}
