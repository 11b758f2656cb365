//! The system calls that a sandboxed program may not make.
//!
//! Place: `bubblewrap` hands two filters to the kernel before the agent begins. Rule: what is listed here is never needed by ordinary
//! programs and has a history of kernel bugs, or would let a program build namespaces and mounts of its own. The first filter answers
//! EPERM; the second answers ENOSYS where programs fall back to something older (`clone3` to `clone`, whose flags a filter can read;
//! `io_uring` to epoll).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

const NOT_THERE: &[libc::c_long] = &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The flags of `clone` that make namespaces.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The two filters, as bubblewrap's `--add-seccomp-fd` reads them.
///
/// # Errors
/// On a processor that `seccompiler` does not know.
pub(super) fn filters() -> Result<[Vec<u8>; 2], String> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let mut clone = Vec::new();
    for &flag in NAMESPACES {
        let flag = u64::from(flag.cast_unsigned());
        clone.push(rule(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    refused.insert(libc::SYS_clone, clone);
    // Typing into the terminal of whoever watches.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| rule(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request));
    refused.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
    // Of the families of sockets: vsock would reach the hypervisor, the rest is seldom used and often wrong.
    let families = [
        libc::AF_VSOCK,
        libc::AF_PACKET,
        libc::AF_ALG,
        libc::AF_KEY,
        libc::AF_TIPC,
        libc::AF_RDS,
        libc::AF_BLUETOOTH,
        libc::AF_CAN,
        libc::AF_XDP,
    ];
    let families = families.map(|family| rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(family.cast_unsigned())));
    refused.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    let absent = NOT_THERE.iter().map(|&call| (call, Vec::new())).collect();
    let mut absent = compiled(absent, libc::ENOSYS)?;
    if cfg!(target_arch = "x86_64") {
        absent.splice(0..0, NO_X32.iter().flat_map(|(code, jt, jf, k)| instruction(*code, *jt, *jf, *k)));
    }
    Ok([compiled(refused, libc::EPERM)?, absent])
}

/// Calls of x32 have bit 30 set, and so numbers that no rule names: load the number; where it is that large, ENOSYS.
const NO_X32: [(u16, u8, u8, u32); 3] =
    [(0x20, 0, 0, 0), (0x35, 0, 1, 0x4000_0000), (0x06, 0, 0, 0x0005_0000 | libc::ENOSYS.cast_unsigned())];

/// `struct sock_filter` of linux/filter.h.
fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Vec<u8> {
    [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()[..]].concat()
}

fn rule(argument: u8, length: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, length, operator, value).map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<Vec<u8>, String> {
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error.cast_unsigned()), target);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| e.to_string())?;
    Ok(program.iter().flat_map(|i| instruction(i.code, i.jt, i.jf, i.k)).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_of_x32_are_not_there() {
        let [_, absent] = super::filters().unwrap();
        let words = absent.as_chunks::<4>().0;
        assert_eq!(u32::from_ne_bytes(words[3]), 0x4000_0000);
        assert_eq!(u32::from_ne_bytes(words[5]), 0x0005_0000 + 38);
    }

    #[test]
    fn filters_fit_what_the_kernel_takes() {
        for filter in super::filters().unwrap() {
            assert!(filter.len() > 8 && filter.len() % 8 == 0 && filter.len() / 8 < 4096);
        }
    }
}
