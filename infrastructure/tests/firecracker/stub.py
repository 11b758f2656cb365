#!/usr/bin/env python3
"""Stands for Firecracker where it cannot be had: checks each request by schema.json, keeps the order that Firecracker wants (configuration
before the start, a paused machine before a snapshot), and has the real guest agent behind its vsock socket ("CONNECT PORT" -> "OK PORT").
What it refused is also written to the file `refused` beside the API's socket, so that a test sees it."""
import json, os, pathlib, socket, subprocess, sys, threading, time

if "--version" in sys.argv:
    print("Firecracker v1.17.0 (a stub)")
    sys.exit(0)
api_socket = pathlib.Path(sys.argv[sys.argv.index("--api-sock") + 1])
home = api_socket.parent
schema = json.loads((pathlib.Path(__file__).parent / "schema.json").read_text())["requests"]
state = {"state": "Not started", "seen": set(), "vsock": None, "agent": None}
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
    threading.Thread(target=copy, args=(client, inside), daemon=True).start()
    copy(inside, client)


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def start_agent():
    inside = home / "inside.sock"
    inside.unlink(missing_ok=True)
    guest = os.environ.get("AURALINK_GUEST") or os.path.join(os.environ.get("AURALINK_CACHE", os.path.expanduser("~/.cache/auralink")), "guest/auralink-guest")
    state["agent"] = subprocess.Popen([guest, "--unix", str(inside)], stdin=subprocess.DEVNULL)
    threading.Thread(target=lambda: (state["agent"].wait(), os._exit(0)), daemon=True).start()


def answer(method, path, body):
    key = f"{method} {path}"
    if path.startswith("/drives/"):
        key = f"{method} /drives/{{drive_id}}"
    if key not in schema:
        return 400, f"{key} is not in the document"
    want = schema[key]
    if want is not None and (found := wrong(body, want, key)):
        return 400, found
    if path.startswith("/drives/") and path != f"/drives/{body['drive_id']}":
        return 400, "drive_id differs from the path"
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
            pathlib.Path(body[name]).write_text("stub")
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
        state["state"] = "Paused"
        return 204, None
    for name in ("kernel_image_path", "initrd_path", "path_on_host"):
        if name in body and not os.path.exists(body[name]):
            return 400, f"{name}: {body[name]} is not there"
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
