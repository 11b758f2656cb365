//! Addresses of sandboxes: which is free, which hardware address goes with it, which name servers it can reach.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest, Sha256};

use super::NetworkConfig;
use crate::vm::SandboxId;

/// What no sandbox reaches unless an operator allows it: "this" network, private use (RFC 1918), shared (RFC 6598), loopback, link-local with
/// the clouds' metadata services, protocol assignments, benchmarking, multicast, reserved and broadcast.
pub(super) const PRIVATE: [(Ipv4Addr, u8); 11] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether the network `inner` and `outer` have an address in common.
pub(super) fn overlap(one: (Ipv4Addr, u8), other: (Ipv4Addr, u8)) -> bool {
    let bits = u32::from(one.1.min(other.1));
    let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
    u32::from(one.0) & mask == u32::from(other.0) & mask
}

/// Whether `inner` lies wholly in `outer`.
pub(super) fn within(inner: (Ipv4Addr, u8), outer: (Ipv4Addr, u8)) -> bool {
    inner.1 >= outer.1 && overlap(inner, outer)
}

/// A free address: by the id first, so that a sandbox mostly keeps its own, then the next free one. None when all are in use.
pub(super) fn pick(config: &NetworkConfig, id: &SandboxId, used: &BTreeSet<Ipv4Addr>, attempt: u32) -> Option<Ipv4Addr> {
    let hosts = (1_u32 << (32 - u32::from(config.prefix))) - 3; // without the network, the gateway and the broadcast
    let hash = Sha256::digest(id.as_str().as_bytes());
    let wish = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).wrapping_add(attempt.wrapping_mul(7_919));
    (0..hosts).map(|n| Ipv4Addr::from(u32::from(config.subnet) + 2 + wish.wrapping_add(n) % hosts)).find(|address| !used.contains(address))
}

/// A locally administered hardware address that says the same as the address.
pub(super) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:a1:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// This machine's name servers that a sandbox can reach.
pub(super) fn reachable_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let all = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok());
    all.filter(|address| !PRIVATE.iter().any(|net| within((*address, 32), *net))).take(3).map(IpAddr::V4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let config = NetworkConfig { prefix: 29, ..NetworkConfig::default() };
        let mut used = BTreeSet::new();
        for _ in 0..5 {
            let address = pick(&config, &SandboxId::random().unwrap(), &used, 0).unwrap();
            assert!(used.insert(address));
            assert!(u32::from(address) > u32::from(config.gateway()) && address.octets()[3] < 7, "{address}");
        }
        assert_eq!(pick(&config, &SandboxId::random().unwrap(), &used, 3), None);
    }

    #[test]
    fn networks_overlap_and_lie_within() {
        let net = |text: &str, bits| (text.parse().unwrap(), bits);
        assert!(within(net("10.1.2.3", 32), net("10.0.0.0", 8)));
        assert!(!within(net("0.0.0.0", 0), net("10.0.0.0", 8)));
        assert!(overlap(net("0.0.0.0", 0), net("10.0.0.0", 8)));
        assert!(!overlap(net("11.0.0.0", 8), net("10.0.0.0", 8)));
        assert_eq!(mac("10.213.0.2".parse().unwrap()), "02:a1:0a:d5:00:02");
    }
}
