//! A range of addresses, as `10.0.0.0/8` or `192.0.2.7`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// Its first address: what follows the prefix is 0.
    first: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether `address` is one of its addresses. An IPv4 address is so in either notation.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        first_of(address.to_canonical(), self.prefix_bits) == Some(self.first)
    }
}

/// The first address of the network that `address` is in; `None` if an address has fewer bits than that.
fn first_of(address: IpAddr, prefix_bits: u8) -> Option<IpAddr> {
    let rest = |bits: u8| Some(u32::from(bits.checked_sub(prefix_bits)?));
    Some(match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(rest(32)?).unwrap_or(0);
            IpAddr::V4((four.to_bits() & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(rest(128)?).unwrap_or(0);
            IpAddr::V6((six.to_bits() & mask).into())
        }
    })
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| {
            let text = text.escape_debug();
            format!("\"{text}\" is {what}; write one like \"10.0.0.0/8\" or \"192.0.2.7\"")
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| fault("no range of addresses"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().map_err(|_| fault("no range of addresses"))?,
        };
        let first = first_of(address, prefix_bits).ok_or_else(|| fault("no range of addresses"))?;
        if first != address {
            // Which of the two was meant?
            return Err(fault("an address inside a range and not its first"));
        }
        Ok(Self { first, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, inside: &[&str], outside: &[&str]) {
        let network: Network = network.parse().unwrap();
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for address in addresses {
                let contained = network.contains(address.parse().unwrap());
                assert_eq!(contained, expected, "{address} in {network}");
            }
        }
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"],
            &["9.255.255.255", "11.0.0.0", "::", "::a00:1"],
        );
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]);
        check("0.0.0.0/0", &["1.2.3.4"], &["::1"]);
        check(
            "fd00::/8",
            &["fd12::1", "fdff:ffff::"],
            &["fe00::", "10.0.0.1"],
        );
        check("::/0", &["::1", "ffff::"], &["1.2.3.4", "::ffff:1.2.3.4"]);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "::/129",
            "example.com",
            "10.0.0.1/8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
    }
}
