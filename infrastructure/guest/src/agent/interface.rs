//! The address, the route and the name servers of a virtual machine, set by `ioctl`: images need not have `ip`.

use std::net::Ipv4Addr;

use auralink_guest::message::{ErrorCode, Interface};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::connection::Refusal;
use super::sys;

/// Sets the interface up.
pub fn configure(wanted: &Interface) -> Result<(), Refusal> {
    let known = wanted.name.len() < libc::IFNAMSIZ && wanted.name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !known || wanted.prefix > 32 || wanted.name_servers.len() > 3 {
        return Err(Refusal(ErrorCode::Invalid, format!("no interface is like {wanted:?}")));
    }
    set(wanted).map_err(|error| Refusal::of(format_args!("cannot set up {}", wanted.name), &error))?;
    if !wanted.name_servers.is_empty() {
        // In many images it is a link to what a resolver would write that does not run here.
        if std::fs::symlink_metadata("/etc/resolv.conf").is_ok_and(|about| about.is_symlink()) {
            let _ = std::fs::remove_file("/etc/resolv.conf");
        }
        let text: String = wanted.name_servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        std::fs::write("/etc/resolv.conf", text).map_err(|error| Refusal::of("cannot write /etc/resolv.conf", &error))?;
    }
    Ok(())
}

fn set(wanted: &Interface) -> std::io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if let Some(mac) = &wanted.mac {
        set_mac(&socket, &wanted.name, mac)?;
    }
    let mut request = named(&wanted.name);
    request.ifr_ifru.ifru_addr = sys::ipv4_sockaddr(wanted.address);
    sys::interface_ioctl(&socket, libc::SIOCSIFADDR as _, &mut request)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(wanted.prefix)).unwrap_or(0);
    request.ifr_ifru.ifru_netmask = sys::ipv4_sockaddr(Ipv4Addr::from(mask));
    sys::interface_ioctl(&socket, libc::SIOCSIFNETMASK as _, &mut request)?;
    up(&wanted.name)?;
    if let Some(gateway) = wanted.gateway {
        let mut route = sys::zeroed_rtentry();
        route.rt_dst = sys::ipv4_sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = sys::ipv4_sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = sys::ipv4_sockaddr(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        match sys::interface_ioctl(&socket, libc::SIOCADDRT as _, &mut route) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Six bytes as `02:a1:...`. A machine that was begun from a snapshot still has the one of its forebear.
fn set_mac(socket: &std::os::fd::OwnedFd, name: &str, mac: &str) -> std::io::Result<()> {
    let bytes: Option<Vec<u8>> = mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes = bytes.filter(|bytes| bytes.len() == 6).ok_or_else(|| std::io::Error::other(format!("{mac:?} is no hardware address")))?;
    let known = std::fs::read_to_string(format!("/sys/class/net/{name}/address"));
    if known.is_ok_and(|known| known.trim().eq_ignore_ascii_case(mac)) {
        return Ok(());
    }
    let mut request = named(name);
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    sys::interface_ioctl(socket, libc::SIOCSIFHWADDR as _, &mut request)
}

/// Switches an interface on.
pub fn up(name: &str) -> std::io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    sys::interface_ioctl(&socket, libc::SIOCSIFFLAGS as _, &mut request)
}

fn named(name: &str) -> libc::ifreq {
    let mut request = sys::zeroed_ifreq();
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request
}
