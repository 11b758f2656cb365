"""Joins that must be refused are, with the status that LiveKit gives, at the WebSocket and at the two `validate` paths
that clients ask for the reason. The statuses were read from LiveKit 1.13.5."""

import time

import aiohttp
import pytest

NOW = int(time.time())

REFUSED = {
    "wrong secret": (dict(secret="x" * 40), 401),
    "unknown key": (dict(key="nobody"), 401),
    "expired": (dict(exp=NOW - 600), 401),
    "not yet valid": (dict(nbf=NOW + 600), 401),
    "no algorithm": (dict(algorithm="none"), 401),
    "no video grant": (dict(video=None), 401),
    "no right to join": (dict(video={"room": "forged"}), 401),
    "no room": (dict(video={"roomJoin": True}), 400),
    "no identity": (dict(sub=None), 400),
    "identity too long": (dict(sub="x" * 300), 400),
    "room name too long": (dict(video={"roomJoin": True, "room": "r" * 300}), 400),
}


async def upgrade_status(http: aiohttp.ClientSession, url: str, **request) -> int:
    try:
        socket = await http.ws_connect(url, **request)
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status
    await socket.close()
    return 101


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_token_is_refused_with_the_status_and_a_sentence(server, http, case):
    claims, status = REFUSED[case]
    token = server.forged_token(**claims)
    async with http.get(f"{server.http}/rtc/validate", params={"access_token": token}) as response:
        text = await response.text()
        assert response.status == status, text
        assert text.strip(), "the reason is said"
        assert token.rsplit(".", 1)[0] not in text or status == 401
    assert await upgrade_status(http, f"{server.http}/rtc", params={"access_token": token}) == status
    assert await upgrade_status(http, f"{server.http}/rtc", headers={"Authorization": f"Bearer {token}"}) == status


@pytest.mark.parametrize("path", ["/rtc", "/rtc/v1"])
@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "e30.e30."])
async def test_what_is_no_token_is_refused(server, http, path, token):
    assert await upgrade_status(http, f"{server.http}{path}", params={"access_token": token}) == 401
    async with http.get(f"{server.http}{path}/validate", params={"access_token": token}) as response:
        assert response.status == 401


async def test_no_token_at_all_is_refused(server, http):
    for path in ("/rtc", "/rtc/v1"):
        assert await upgrade_status(http, f"{server.http}{path}") == 401
    async with http.get(f"{server.http}/rtc/validate", headers={"Authorization": "Basic YTpi"}) as response:
        assert response.status == 401


@pytest.mark.parametrize("request_", [None, "!!!", "AAAA"], ids=["missing", "no base64", "no message"])
async def test_a_single_connection_join_needs_its_request(server, http, request_):
    parameters = {"access_token": server.forged_token()} | ({} if request_ is None else {"join_request": request_})
    assert await upgrade_status(http, f"{server.http}/rtc/v1", params=parameters) == 400
    async with http.get(f"{server.http}/rtc/v1/validate", params=parameters) as response:
        assert response.status == 400
        assert "join" in (await response.text())


async def test_a_good_token_is_taken(server, http):
    token = server.forged_token()
    async with http.get(f"{server.http}/rtc/validate", params={"access_token": token}) as response:
        assert (response.status, (await response.text()).strip()) == (200, "success")
    assert await upgrade_status(http, f"{server.http}/rtc", params={"access_token": token}) == 101


async def test_the_tokens_room_is_the_one_that_is_joined(server, join, room_name, room_service):
    """A token for one room opens no other: the room in the address does not count."""
    from livekit import api

    room = await join("ana", token=server.token(room_name, "ana"))
    assert room.name == room_name
    listed = await room_service.list_participants(api.ListParticipantsRequest(room=room_name))
    assert [person.identity for person in listed.participants] == ["ana"]
