//! Whether the server may listen where it was told to (G9), where a request comes from, and who counts as local.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use larder_protocols::Peer;

use crate::config::Network;

/// Refuses plain HTTP on an address that other machines can reach, unless the operator has decided so.
pub(crate) fn check(listen: Option<SocketAddr>, insecure_http: bool) -> anyhow::Result<()> {
    let Some(listen) = listen.filter(|listen| !insecure_http && !is_loopback(listen.ip())) else {
        return Ok(());
    };
    anyhow::bail!(
        "refusing to listen on {listen}: other machines can reach this address, and without TLS \
         tokens would cross the network readable for everyone on the way.\n\
         Give the server a certificate: certificate, key and listen = \"{listen}\" in [tls], and leave plain \
         HTTP on 127.0.0.1 (docs/tls.md says how to make one). Or listen on 127.0.0.1 behind a proxy that \
         speaks TLS; or, if the network is private, allow plain HTTP with --insecure-http (or \
         insecure_http = true in [http])."
    )
}

/// Who asks: whoever is at the other end of the connection, or, if that is a trusted proxy, whom it forwards. A certificate
/// vouches for the other end alone, so what comes from a proxy has none, whether the proxy says for whom it asks or not:
/// many do not, and some leave it out if their client tells them to.
///
/// Each proxy adds the address that it was called from at the right of `X-Forwarded-For`; what is left of the last address
/// that is no trusted proxy is anybody's invention.
pub(crate) fn origin(peer: &Arc<Peer>, headers: &HeaderMap, proxies: &[Network]) -> Arc<Peer> {
    let trusted = |address| proxies.iter().any(|network| network.contains(address));
    if proxies.is_empty() || !trusted(peer.address) {
        return Arc::clone(peer);
    }
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    if lines.is_empty() && peer.certificate.is_none() {
        return Arc::clone(peer);
    }
    let hops = lines.iter().rev().flat_map(|line| {
        let line = line.to_str().unwrap_or_default();
        line.rsplit(',').map(str::trim)
    });
    let mut address = peer.address;
    for hop in hops {
        // Who cannot be told is not passed over: the nearest proxy that is known has to answer for it.
        let Some(known) = hop_address(hop) else { break };
        address = known;
        if !trusted(address) {
            break;
        }
    }
    Arc::new(Peer {
        address,
        encrypted: peer.encrypted,
        certificate: None,
    })
}

/// An address, or one with a port, as some proxies write it.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = match hop.parse::<SocketAddr>() {
        Ok(with_port) => with_port.ip(),
        Err(_) => hop.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// Whether a request comes from a process on this machine and not, through a proxy on it, from
/// somewhere else. Proxies are known by the headers that they add. Where one of `proxies` is on this machine nobody is local:
/// not every request shows that it came through it.
pub(crate) fn is_local(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> bool {
    const ADDED: [&str; 7] = [
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-request-start",
    ];
    const ADDED_PREFIXES: [&str; 3] = ["x-forwarded-", "x-original-", "x-envoy-"];
    let is_added = |name: &HeaderName| {
        let name = name.as_str();
        ADDED.contains(&name) || ADDED_PREFIXES.iter().any(|it| name.starts_with(it))
    };
    is_loopback(peer)
        && !proxies.iter().any(|network| network.contains(peer))
        && !headers.keys().any(is_added)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use larder_auth::CertificateNames;

    use super::*;

    #[test]
    fn only_loopback_needs_no_decision() {
        for address in [
            "127.0.0.1:0",
            "127.8.8.8:80",
            "[::1]:9092",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(check(address.parse().ok(), false).is_ok(), "{address}");
        }
        assert!(check(None, false).is_ok());
        for address in [
            "0.0.0.0:9092",
            "[::]:9092",
            "192.168.1.1:80",
            "[fe80::1]:80",
        ] {
            let address = Some(address.parse().unwrap());
            let error = check(address, false).unwrap_err().to_string();
            assert!(error.contains("--insecure-http"), "{error}");
            assert!(error.contains("[tls]"), "{error}");
            assert!(check(address, true).is_ok());
        }
    }

    #[test]
    fn what_a_proxy_forwards_is_not_local() {
        let mut headers = HeaderMap::new();
        let here = "127.0.0.1".parse().unwrap();
        headers.insert("user-agent", "Prometheus".parse().unwrap());
        assert!(is_local(here, &headers, &[]));
        assert!(!is_local("10.0.0.1".parse().unwrap(), &headers, &[]));
        for added in [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Envoy-External-Address",
            "Via",
        ] {
            let mut headers = headers.clone();
            let name: HeaderName = added.parse().unwrap();
            headers.insert(name, "10.0.0.1".parse().unwrap());
            assert!(!is_local(here, &headers, &[]), "{added}");
        }
        // A proxy need not add any.
        let elsewhere = "10.0.0.0/8".parse().unwrap();
        assert!(is_local(here, &headers, &[elsewhere]));
        for proxy in ["127.0.0.1", "127.0.0.0/8"] {
            let proxies = [elsewhere, proxy.parse().unwrap()];
            assert!(!is_local(here, &headers, &proxies), "{proxy}");
        }
    }

    /// The address that counts when `peer` sends these lines to a server that trusts the proxies in 10.0.0.0/8 and fd00::/8.
    #[track_caller]
    fn check_origin(peer: &str, lines: &[&str], expected: &str) {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let peer = Arc::new(Peer {
            address: peer.parse().unwrap(),
            encrypted: true,
            certificate: Some(CertificateNames {
                subject_alternative_names: Vec::new(),
                not_after_ms: 0,
            }),
        });
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let found = origin(&peer, &headers, &proxies);
        assert_eq!(found.address.to_string(), expected, "{lines:?}");
        let of_proxy = proxies.iter().any(|proxy| proxy.contains(peer.address));
        assert_eq!(
            found.certificate.is_none(),
            of_proxy,
            "a proxy's certificate is not its client's, and only a proxy's: {lines:?}"
        );
        let untrusting = origin(&peer, &headers, &[]);
        assert_eq!(untrusting.address, peer.address);
        assert!(untrusting.certificate.is_some());
    }

    #[test]
    fn a_trusted_proxy_says_who_asks_and_nobody_else_does() {
        check_origin("10.0.0.1", &["192.0.2.7"], "192.0.2.7");
        check_origin("fd00::1", &["2001:db8::7"], "2001:db8::7");
        check_origin("192.0.2.1", &["198.51.100.9"], "192.0.2.1");
        check_origin("127.0.0.1", &["198.51.100.9"], "127.0.0.1");
        check_origin("10.0.0.1", &[], "10.0.0.1");
    }

    #[test]
    fn what_a_client_wrote_itself_is_left_of_what_counts() {
        check_origin("10.0.0.1", &["127.0.0.1, 192.0.2.7"], "192.0.2.7");
        check_origin("10.0.0.1", &["10.9.9.9, 192.0.2.7, 10.0.0.2"], "192.0.2.7");
        check_origin("10.0.0.1", &["10.9.9.9", "192.0.2.7"], "192.0.2.7");
        check_origin("10.0.0.1", &["192.0.2.7", "10.9.9.9"], "192.0.2.7");
        check_origin("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_way_back() {
        check_origin("10.0.0.1", &["192.0.2.7, unknown"], "10.0.0.1");
        check_origin("10.0.0.1", &["192.0.2.7, _x, 10.0.0.2"], "10.0.0.2");
        check_origin("10.0.0.1", &[""], "10.0.0.1");
        check_origin("10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7");
        check_origin("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7");
        check_origin("10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7");
    }
}
