"""WebSockets into a sandbox: a program with its terminal or its pipes, and a connection to a port."""

import asyncio
import json

import aiohttp
import pytest
from conftest import PATIENCE_S, auralink_only

pytestmark = auralink_only


@pytest.fixture
def headers(server):
    claim = {"scopes": ["sandboxes:read", "sandboxes:write"], "tenant": "default"}
    return {"authorization": f"Bearer {server.forged_token(video=None, sub='tester', auralink=claim)}"}


@pytest.fixture
async def path(server, http, headers):
    """A running sandbox's; gone at the end."""
    limits = {"memory_bytes": 128 << 20, "disk_bytes": 64 << 20}
    async with http.post(f"{server.http}/api/v1/sandboxes", json=limits, headers=headers) as made:
        assert made.status == 201, await made.text()
        path = f"{server.http}/api/v1/sandboxes/{(await made.json())['id']}"
    yield path
    async with http.delete(path, headers=headers) as gone:
        assert gone.status == 204, await gone.text()


async def everything(socket) -> tuple[bytes, bytes, dict]:
    """Both outputs, and the last word."""
    outputs = {1: bytearray(), 2: bytearray()}
    while True:
        message = await socket.receive(timeout=PATIENCE_S)
        if message.type == aiohttp.WSMsgType.TEXT:
            return bytes(outputs[1]), bytes(outputs[2]), json.loads(message.data)
        assert message.type == aiohttp.WSMsgType.BINARY, message
        outputs[message.data[0]] += message.data[1:]


async def test_a_terminal_has_input_a_size_and_an_exit(http, headers, path):
    async with http.ws_connect(f"{path}/attach", headers=headers) as socket:
        await socket.send_json({"argv": ["sh"], "tty": {"rows": 24, "columns": 80}})
        await socket.send_json({"resize": {"rows": 50, "columns": 132}})
        await socket.send_bytes(b"stty size; exit 6\n")
        output, _, last = await everything(socket)
    assert last["exit"]["code"] == 6 and b"50 132" in output


async def test_pipes_a_signal_and_an_end_of_input(http, headers, path):
    async with http.ws_connect(f"{path}/attach", headers=headers) as socket:
        await socket.send_json({"argv": ["sh", "-c", "cat; echo err >&2"]})
        await socket.send_bytes(b"in")
        await socket.send_json({"close": True})
        stdout, stderr, last = await everything(socket)
    assert (stdout, stderr, last["exit"]["code"]) == (b"in", b"err\n", 0)
    async with http.ws_connect(f"{path}/attach", headers=headers) as socket:
        await socket.send_json({"argv": ["sleep", "600"]})
        await socket.send_json({"signal": 15})
        assert (await everything(socket))[2]["exit"]["signal"] == 15


async def test_what_cannot_be_run_is_said(http, headers, path):
    for first, word in [("no JSON", "first message"), ('{"argv": ["no-such-program"]}', "no-such-program"), ('{"argv": []}', "argv")]:
        async with http.ws_connect(f"{path}/attach", headers=headers) as socket:
            await socket.send_str(first)
            assert word in (await everything(socket))[2]["error"]["message"]
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await http.ws_connect(f"{path}/attach")
    assert caught.value.status == 401


async def test_a_port_is_reached(http, headers, path):
    script = "import socket\ns=socket.create_server(('127.0.0.1',8080))\nprint('up',flush=True)\nc,_=s.accept()\nc.sendall(c.recv(9)[::-1])"
    async with http.ws_connect(f"{path}/attach", headers=headers) as program:
        await program.send_json({"argv": ["python3", "-c", script]})
        assert await program.receive_bytes(timeout=PATIENCE_S) == b"\x01up\n"
        async with http.ws_connect(f"{path}/ports/8080", headers=headers) as connection:
            await connection.send_bytes(b"abc")
            assert await asyncio.wait_for(connection.receive_bytes(), PATIENCE_S) == b"cba"
