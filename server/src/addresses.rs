//! Which addresses this machine has, for media sockets, candidates and the printed URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The configured addresses, with `0.0.0.0` and `::` replaced by the interfaces' own: that of the default route first, since
/// bridges and virtual machines have addresses too; loopback last; no link-local.
pub fn concrete(bind: &[IpAddr]) -> std::io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in bind {
        if !address.is_unspecified() {
            found.push(*address);
            continue;
        }
        let mut interfaces: Vec<IpAddr> = if_addrs::get_if_addrs()?
            .into_iter()
            .filter(|interface| !interface.is_link_local())
            .map(|interface| interface.ip())
            .filter(|ip| ip.is_ipv4() || address.is_ipv6())
            .collect();
        let routed = default_routes();
        interfaces.sort_by_key(|ip| (ip.is_loopback(), !routed.contains(ip), ip.is_ipv6(), *ip));
        found.extend(interfaces);
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|ip| seen.insert(*ip));
    Ok(found)
}

/// The addresses from which this machine would speak to the world. Connecting a UDP socket asks for the route and sends nothing.
fn default_routes() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): routed like any other, and nobody's.
    let towards: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(203, 0, 113, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    towards
        .into_iter()
        .filter_map(|(from, to)| {
            let socket = UdpSocket::bind((from, 0)).ok()?;
            socket.connect((to, 9)).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_becomes_the_interfaces_own() {
        let all = concrete(&[IpAddr::V4(Ipv4Addr::UNSPECIFIED)]).unwrap();
        assert!(all.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)) && all.iter().all(|ip| !ip.is_unspecified()));
        if let Some(routed) = default_routes().iter().find(|ip| all.contains(ip)) {
            assert_eq!(all.first(), Some(routed), "the default route's address is the one to print");
        }
        assert_eq!(concrete(&[IpAddr::V4(Ipv4Addr::LOCALHOST); 2]).unwrap().len(), 1);
    }
}
