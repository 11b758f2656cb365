//! Which addresses this machine has, for media sockets, candidates and the printed URL.

use std::net::IpAddr;

/// The configured addresses, with `0.0.0.0` and `::` replaced by the interfaces' own (loopback last; no link-local).
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
        interfaces.sort_by_key(|ip| (ip.is_loopback(), *ip));
        found.extend(interfaces);
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|ip| seen.insert(*ip));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn unspecified_becomes_the_interfaces_own() {
        let all = concrete(&[IpAddr::V4(Ipv4Addr::UNSPECIFIED)]).unwrap();
        assert!(all.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)) && all.iter().all(|ip| !ip.is_unspecified()));
        assert_eq!(concrete(&[IpAddr::V4(Ipv4Addr::LOCALHOST); 2]).unwrap().len(), 1);
    }
}
