#!/usr/bin/env python3
"""Stands for Firecracker's jailer: takes the documented options alone, and does what its documentation says (docs/jailer.md) as far as the stub of
Firecracker shows it: a root folder, the program's copy, the user, a file with the number of a process in a namespace of its own."""
import os, pathlib, shutil, socket, subprocess, sys, threading, time, json  # all of it now: in the jail there is nothing to import

arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("Jailer v1.17.0 (a stub)")
    sys.exit(0)
options, flags = {}, set()
while arguments and (name := arguments.pop(0)) != "--":
    if name in ("--daemonize", "--new-pid-ns"):
        flags.add(name)
    elif name in ("--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--cgroup-version", "--netns"):
        options[name] = arguments.pop(0)
    else:
        sys.exit(f"unexpected argument {name}")
for name in ("--id", "--exec-file", "--uid", "--gid"):
    if name not in options:
        sys.exit(f"{name} is missing")
program = pathlib.Path(options["--exec-file"]).resolve(strict=True)
if "firecracker" not in program.name:
    sys.exit(f"{program.name} does not contain `firecracker`")
if os.getpid() == os.getpgrp():
    sys.exit("a leader of a process group cannot begin a session")
root = pathlib.Path(options["--chroot-base-dir"]) / program.name / options["--id"] / "root"
root.mkdir(parents=True, exist_ok=True)
shutil.copy(program, root / program.name)
# Beside what the jailer does: the schema, and what the stub's guest is made of.
guest = os.environ.get("AURALINK_GUEST") or os.path.join(os.environ.get("AURALINK_CACHE", os.path.expanduser("~/.cache/auralink")), "guest/auralink-guest")
for source, target in ((program.parent / "schema.json", "schema.json"), (guest, "guest"), ("/usr/bin/busybox", "busybox")):
    shutil.copy(source, root / target)
(root / "bin").mkdir()
for name in ("sh", "id", "ls", "echo"):
    os.symlink("/busybox", root / "bin" / name)
(root / "tmp").mkdir(mode=0o777)
uid, gid = int(options["--uid"]), int(options["--gid"])
text = (root / program.name).read_text()
os.chown(root, uid, gid)
if "--netns" in options:
    import ctypes
    handle = os.open(options["--netns"], os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000) != 0:
        sys.exit("cannot join the network namespace")
null = os.open("/dev/null", os.O_RDWR)
os.setsid()
for standard in (0, 1, 2):
    os.dup2(null, standard)
child = os.fork()
if child:
    (root / f"{program.name}.pid").write_text(str(child))
    os._exit(0)
os.chroot(root)
os.chdir("/")
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
os.environ.clear()
os.environ.update(AURALINK_GUEST="/guest", PATH="/bin")
sys.argv = [f"/{program.name}", f"--id={options['--id']}", "--start-time-us=1", "--start-time-cpu-us=1", *arguments]
exec(compile(text, sys.argv[0], "exec"), {"__name__": "__main__", "__file__": sys.argv[0]})
