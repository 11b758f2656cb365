#!/usr/bin/env python3
"""Stands for Firecracker where it cannot be had: checks each request by schema.json, keeps the order that Firecracker wants (configuration
before the start, a paused machine before a snapshot, a snapshot's disks where they were), and has the real guest agent behind its vsock socket
("CONNECT PORT" -> "OK PORT"). With a network interface the agent runs in a network namespace with an `eth0` of its own. What the server says to the
agent is also written to the file `said`.
What it refused is also written to the file `refused` beside the API's socket, so that a test sees it."""
import json, os, pathlib, socket, subprocess, sys, threading, time

if "--version" in sys.argv:
    print("Firecracker v1.17.0 (a stub)")
    sys.exit(0)
api_socket = pathlib.Path(sys.argv[sys.argv.index("--api-sock") + 1])
home = api_socket.parent
schema = json.loads((pathlib.Path(__file__).resolve().parent / "schema.json").read_text())["requests"]
state = {"state": "Not started", "seen": set(), "vsock": None, "agent": None, "drives": {}, "networks": {}}
said = open(home / "said", "ab", buffering=0)
PLAIN = {"string": str, "integer": int, "boolean": bool, "array": list}


def wrong(body, want, where):
    if not isinstance(body, dict):
        return f"{where}: not an object"
    for name in want["required"]:
        if name not in body:
            return f"{where}: {name} is missing"
    for name, value in body.items():
        kind = want["properties"].get(name)
        if kind is None:
            return f"{where}: {name} is unknown"
        if isinstance(kind, list):
            bad = value not in kind
        elif isinstance(kind, dict):
            found = wrong(value, kind, f"{where}.{name}")
            if found:
                return found
            bad = False
        else:
            bad = not isinstance(value, PLAIN[kind]) or (kind == "integer" and isinstance(value, bool))
        low, high = want.get("ranges", {}).get(name, (None, None))
        if bad or (low is not None and not low <= value <= high):
            return f"{where}: {name} is {value!r}"
    return None


def serve_vsock(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=bridge, args=(client,), daemon=True).start()


def bridge(client):
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            return
        line += byte
    inside = socket.socket(socket.AF_UNIX)
    try:
        assert line == b"CONNECT 1024\n", line
        inside.connect(str(home / "inside.sock"))
    except (OSError, AssertionError):
        client.close()
        return
    client.sendall(b"OK 1073741824\n")
    threading.Thread(target=copy, args=(client, inside, said.write), daemon=True).start()
    copy(inside, client, len)


def copy(source, target, heard):
    try:
        while data := source.recv(65536):
            heard(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def start_agent():
    inside = home / "inside.sock"
    inside.unlink(missing_ok=True)
    guest = os.environ.get("AURALINK_GUEST") or os.path.join(os.environ.get("AURALINK_CACHE", os.path.expanduser("~/.cache/auralink")), "guest/auralink-guest")
    command = [guest, "--unix", str(inside)]
    if state["networks"]:
        # What the agent sets up shall be a world of its own, not the test's: an interface, and the file of name servers.
        (home / "resolv.conf").touch()
        steps = f"ip link add eth0 type veth peer name peer0 && mount --bind '{home}/resolv.conf' /etc/resolv.conf && exec \"$@\""
        command = ["unshare", "--net", "--mount", "sh", "-c", steps, "sh", *command]
    # A jail has no /dev/null: its input is a pipe that nobody writes to.
    state["agent"] = subprocess.Popen(command, stdin=subprocess.PIPE)
    # A machine ends with Firecracker: what reads from the stub sees its end and kills what stands for the machine.
    state["killer"] = subprocess.Popen(["sh", "-c", f"read line; kill -9 {state['agent'].pid}"], stdin=subprocess.PIPE)
    threading.Thread(target=lambda: (state["agent"].wait(), os._exit(0)), daemon=True).start()


def opened(path, read_only):
    try:
        os.close(os.open(path, os.O_RDONLY if read_only else os.O_RDWR))
    except OSError as error:
        return f"{path}: {error}"


def tap(name):
    try:
        socket.if_nametoindex(name)
    except OSError:
        return f"there is no device {name}"


def answer(method, path, body):
    key = f"{method} {path}"
    if path.startswith("/drives/"):
        key = f"{method} /drives/{{drive_id}}"
    if path.startswith("/network-interfaces/"):
        key = f"{method} /network-interfaces/{{iface_id}}"
    if key not in schema:
        return 400, f"{key} is not in the document"
    want = schema[key]
    if want is not None and (found := wrong(body, want, key)):
        return 400, found
    if path.startswith("/drives/") and path != f"/drives/{body['drive_id']}":
        return 400, "drive_id differs from the path"
    if path.startswith("/network-interfaces/") and path != f"/network-interfaces/{body['iface_id']}":
        return 400, "iface_id differs from the path"
    running = state["state"] != "Not started"
    if key == "GET /":
        return 200, {"app_name": "Firecracker", "id": "stub", "state": state["state"], "vmm_version": "1.17.0"}
    if key in ("PATCH /vm", "PUT /snapshot/create") and not running:
        return 400, "the machine is not running"
    if key == "PATCH /vm":
        state["state"] = "Paused" if body["state"] == "Paused" else "Running"
        return 204, None
    if key == "PUT /snapshot/create":
        if state["state"] != "Paused":
            return 400, "only a paused machine can be written"
        for name in ("snapshot_path", "mem_file_path"):
            if os.path.exists(body[name]):
                return 400, f"{body[name]} is there already"
        pathlib.Path(body["snapshot_path"]).write_text(json.dumps({"drives": state["drives"], "networks": state["networks"]}))
        pathlib.Path(body["mem_file_path"]).write_text("stub")
        return 204, None
    if running:
        return 400, "the machine runs already"
    if key == "PUT /snapshot/load":
        if state["seen"]:
            return 400, "a snapshot is loaded before anything is configured"
        if ("mem_backend" in body) == ("mem_file_path" in body):
            return 400, "exactly one of mem_backend and mem_file_path"
        for file in (body["snapshot_path"], body.get("mem_file_path") or body["mem_backend"]["backend_path"]):
            if not os.path.exists(file):
                return 400, f"{file} is not there"
        state.update(json.loads(pathlib.Path(body["snapshot_path"]).read_text() or '{"drives": {}, "networks": {}}'))
        for change in body.get("network_overrides", []):
            if change.keys() != {"iface_id", "host_dev_name"} or change["iface_id"] not in state["networks"]:
                return 400, f"network_overrides: {change}"
            state["networks"][change["iface_id"]] = change["host_dev_name"]
        for found in [opened(path, only) for path, only in state["drives"].values()] + [tap(name) for name in state["networks"].values()]:
            if found:
                return 400, found
        start_agent()
        threading.Thread(target=serve_vsock, args=(body["vsock_override"]["uds_path"],), daemon=True).start()
        state["state"] = "Paused"
        return 204, None
    for name in ("kernel_image_path", "initrd_path", "path_on_host"):
        if name in body and not os.path.exists(body[name]):
            return 400, f"{name}: {body[name]} is not there"
    if path.startswith("/drives/"):
        found = opened(body["path_on_host"], body["is_read_only"])
        if found:
            return 400, found
        state["drives"][body["drive_id"]] = (body["path_on_host"], body["is_read_only"])
    if path.startswith("/network-interfaces/"):
        found = tap(body["host_dev_name"])
        if found:
            return 400, found
        state["networks"][body["iface_id"]] = body["host_dev_name"]
    if key == "PUT /vsock":
        state["vsock"] = body["uds_path"]
    if key == "PUT /actions":
        if not {"PUT /boot-source", "PUT /machine-config", "PUT /vsock"} <= state["seen"]:
            return 400, "it is not configured"
        start_agent()
        threading.Thread(target=serve_vsock, args=(state["vsock"],), daemon=True).start()
        state["state"] = "Running"
    state["seen"].add(key)
    return 204, None


def serve(client):
    stream = client.makefile("rb")
    line = stream.readline().decode().split()
    if len(line) != 3:
        return
    length = 0
    while (header := stream.readline().strip()):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    content = stream.read(length)
    try:
        status, result = answer(line[0], line[1], json.loads(content) if content else None)
    except Exception as error:
        status, result = 400, f"{type(error).__name__}: {error}"
    if status == 400:
        with open(home / "refused", "a") as refused:
            refused.write(f"{line[0]} {line[1]}: {result}\n")
        result = {"fault_message": result}
    body = json.dumps(result).encode() if result is not None else b""
    client.sendall(f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(0)


listener = socket.socket(socket.AF_UNIX)
listener.bind(str(api_socket))
listener.listen(8)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
