"""Malformed and oversized signal messages: that peer gets an error or loses its connection; the server and everyone else
go on. The peer here speaks the signal protocol by hand."""

import asyncio
import base64
import gzip
import os
import random

import aiohttp
import pytest
from conftest import PATIENCE_S, auralink_only, until
from livekit import rtc
from livekit.protocol import models as proto_models
from livekit.protocol import rtc as proto

MESSAGE_LIMIT = 2 * 1024 * 1024


@pytest.fixture
async def bystander(join):
    """Someone well-behaved in the same room; `ok` fails when the room does not work for them any more."""
    packets = []
    ana = await join("ana")
    ben = await join("ben", prepare=lambda room: room.on("data_received", packets.append))

    async def ok():
        seen = len(packets)
        await ana.local_participant.publish_data("still here?")
        await until(lambda: len(packets) > seen, "data between the others")
        assert ana.connection_state == ben.connection_state == rtc.ConnectionState.CONN_CONNECTED

    return ok


@pytest.fixture
async def by_hand(server, http, room_name):
    """A signal connection without an SDK: the socket, and the join response that it began with."""
    socket = await http.ws_connect(
        f"{server.http}/rtc", params={"access_token": server.token(room_name, "mallory"), "protocol": "17", "auto_subscribe": "0"}
    )
    message = await asyncio.wait_for(socket.receive(), PATIENCE_S)
    response = proto.SignalResponse.FromString(message.data)
    assert response.WhichOneof("message") == "join"
    assert response.join.participant.identity == "mallory"
    yield socket
    await socket.close()


async def answers_ping(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Is the connection still good? False when the server closed it."""
    number = random.getrandbits(40)
    try:
        await socket.send_bytes(proto.SignalRequest(ping_req=proto.Ping(timestamp=number)).SerializeToString())
    except (ConnectionError, aiohttp.ClientError):
        return False
    async with asyncio.timeout(PATIENCE_S):
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            response = proto.SignalResponse.FromString(message.data)
            if response.WhichOneof("message") == "pong_resp" and response.pong_resp.last_ping_timestamp == number:
                return True
    return False


def offer(sdp: str) -> bytes:
    return proto.SignalRequest(offer=proto.SessionDescription(type="offer", sdp=sdp)).SerializeToString()


SDP_START = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"

MALFORMED = {
    "no protobuf": b"\xff\xff\xff\xff\xff",
    "random bytes": random.Random(7).randbytes(3000),
    "a truncated message": offer(SDP_START)[:-5],
    "an offer that is no SDP": offer("hello"),
    "an empty offer": offer(""),
    "an offer without credentials": offer(SDP_START + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"),
    "an offer of 5,000 sections": offer(SDP_START + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 5000),
    "an answer to nothing": proto.SignalRequest(answer=proto.SessionDescription(type="answer", sdp=SDP_START)).SerializeToString(),
    "a candidate that is no JSON": proto.SignalRequest(trickle=proto.TrickleRequest(candidateInit="{", target=0)).SerializeToString(),
    "a candidate that is no candidate": proto.SignalRequest(
        trickle=proto.TrickleRequest(candidateInit='{"candidate":"candidate:x y z","sdpMid":"0","sdpMLineIndex":0}', target=1)
    ).SerializeToString(),
    "a mute of a track that is not": proto.SignalRequest(mute=proto.MuteTrackRequest(sid="TR_none", muted=True)).SerializeToString(),
    "a subscription to nothing": proto.SignalRequest(
        subscription=proto.UpdateSubscription(track_sids=["TR_none"] * 1000, subscribe=True)
    ).SerializeToString(),
    "a track setting of nothing": proto.SignalRequest(
        track_setting=proto.UpdateTrackSettings(track_sids=["TR_none"], width=2**32 - 1, quality=proto_models.VideoQuality.OFF)
    ).SerializeToString(),
    "a track of no kind": proto.SignalRequest(add_track=proto.AddTrackRequest(cid="", type=77)).SerializeToString(),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_message_harms_no_one_else(by_hand, bystander, case):
    await by_hand.send_bytes(MALFORMED[case])
    await answers_ping(by_hand)  # goes on or is closed: either will do, hanging will not
    await bystander()


@auralink_only
@pytest.mark.parametrize("case", ["no protobuf", "a truncated message"])
async def test_a_message_that_is_none_is_answered_by_a_leave_or_a_close(by_hand, case):
    await by_hand.send_bytes(MALFORMED[case])
    async with asyncio.timeout(PATIENCE_S):
        async for message in by_hand:
            if message.type is aiohttp.WSMsgType.BINARY and proto.SignalResponse.FromString(message.data).HasField("leave"):
                return
    assert by_hand.closed and by_hand.close_code is not None


async def test_text_that_is_no_json_harms_no_one_else(by_hand, bystander):
    await by_hand.send_str("{]")
    await answers_ping(by_hand)
    await bystander()


async def test_two_thousand_tracks_harm_no_one_else(by_hand, bystander):
    for number in range(2000):
        request = proto.AddTrackRequest(cid=f"c{number}", name="n" * 200, type=proto_models.TrackType.AUDIO)
        try:
            await by_hand.send_bytes(proto.SignalRequest(add_track=request).SerializeToString())
        except (ConnectionError, aiohttp.ClientError):
            break
    await answers_ping(by_hand)
    await bystander()


@auralink_only
@pytest.mark.parametrize("size", [MESSAGE_LIMIT + 1, 3 * MESSAGE_LIMIT, 20 * MESSAGE_LIMIT], ids=["by a byte", "three times", "twenty times"])
async def test_an_oversized_message_is_answered_by_a_leave_and_a_close(by_hand, bystander, size):
    """LiveKit 1.13.5 takes such a message; AuraLink says goodbye and closes with the code for it, however much is still on its way."""
    request = proto.SignalRequest(update_metadata=proto.UpdateParticipantMetadata(metadata="m" * size))
    sending = asyncio.create_task(by_hand.send_bytes(request.SerializeToString()))
    left = False
    async with asyncio.timeout(PATIENCE_S):
        async for message in by_hand:
            if message.type is aiohttp.WSMsgType.BINARY:
                left |= proto.SignalResponse.FromString(message.data).HasField("leave")
    await asyncio.gather(sending, return_exceptions=True)
    assert left
    assert by_hand.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await bystander()


async def test_metadata_over_the_limit_is_refused(by_hand, bystander):
    request = proto.UpdateParticipantMetadata(metadata="m" * (512 * 1024 + 1), request_id=7)
    await by_hand.send_bytes(proto.SignalRequest(update_metadata=request).SerializeToString())
    async with asyncio.timeout(PATIENCE_S):
        async for message in by_hand:
            response = proto.SignalResponse.FromString(message.data)
            if response.WhichOneof("message") == "request_response" and response.request_response.request_id == 7:
                assert response.request_response.reason == proto.RequestResponse.Reason.LIMIT_EXCEEDED
                assert response.request_response.message
                break
    await bystander()


@auralink_only
async def test_a_join_request_that_swells_is_refused(server, http, room_name):
    """A few kilobytes that unpack to 64 MiB: LiveKit 1.13.5 spends 537 MB on such a request."""
    packed = gzip.compress(b"\0" * (64 * 1024 * 1024), 9)
    wrapped = proto.WrappedJoinRequest(compression=proto.WrappedJoinRequest.Compression.GZIP, join_request=packed)
    request = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
    parameters = {"access_token": server.token(room_name, "mallory"), "join_request": request}
    try:
        async with http.get(f"{server.http}/rtc/v1/validate", params=parameters) as response:
            assert response.status in (400, 413, 414, 431), await response.text()
    except (ConnectionError, aiohttp.ServerDisconnectedError):
        pass  # refused before it was read
    async with http.get(f"{server.http}/health") as response:
        assert response.status == 200


@auralink_only
async def test_an_api_body_over_the_limit_is_refused(server, http):
    token = server.forged_token(video={"roomList": True})
    body = b'{"names": ["' + os.urandom(1).hex().encode() * (11 * 1024 * 1024 // 2) + b'"]}'
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        async with http.post(f"{server.http}/twirp/livekit.RoomService/ListRooms", data=body, headers=headers) as response:
            assert response.status in (400, 413), await response.text()
    except (ConnectionError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        pass  # the connection is closed while the body still comes
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as fresh,  # the other one's connection may be closed
        fresh.post(f"{server.http}/twirp/livekit.RoomService/ListRooms", json={}, headers=headers) as response,
    ):
        assert response.status == 200
