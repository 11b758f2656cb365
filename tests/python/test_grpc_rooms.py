"""auralink.v1.Rooms: a backend service makes and ends rooms, follows what is said, and speaks into a room."""

import asyncio

import grpc
import pytest
from auralink_grpc import bearer, channel, stubs
from conftest import PATIENCE_S, auralink_only, until
from livekit import api, rtc
from sound import RATE, dominant_frequency, listen
from speech import check, spoken, unseen_sentences
from test_captions import microphone, say

import numpy as np

pytestmark = auralink_only


@pytest.fixture
async def rooms(server):
    async with channel(server) as connection:
        yield stubs()[1].RoomsStub(connection)


@pytest.fixture
def messages():
    return stubs()[0]


async def test_rooms_are_made_listed_and_ended(rooms, messages, server, room_name, room_service):
    admin = bearer(server.token(room_name, "backend", room_create=True, room_list=True))
    made = await rooms.Create(messages.CreateRequest(name=room_name, metadata="by gRPC", max_participants=3), metadata=admin)
    assert (made.name, made.metadata, made.max_participants, made.participants) == (room_name, "by gRPC", 3, 0)
    assert made.sid.startswith("RM_")
    listed = await rooms.List(messages.ListRequest(names=[room_name]), metadata=admin)
    assert [room.sid for room in listed.rooms] == [made.sid]
    # The same rooms as LiveKit's RoomService sees.
    seen = await room_service.list_rooms(api.ListRoomsRequest(names=[room_name]))
    assert [room.sid for room in seen.rooms] == [made.sid]
    await rooms.End(messages.EndRequest(name=room_name), metadata=admin)
    assert not (await rooms.List(messages.ListRequest(names=[room_name]), metadata=admin)).rooms


async def test_captions_are_set_as_a_room_is_made_every_time(rooms, messages, server, room_name, http):
    """The room exists from the moment of the answer for captions too, whoever asks next: Create itself, REST, Follow."""
    admin = bearer(server.token(room_name, "backend", room_create=True))
    for number in range(200):
        name = f"{room_name}-{number}"
        wanted = number % 2 == 0
        made = await rooms.Create(messages.CreateRequest(name=name, captions=wanted), metadata=admin)
        assert made.captions == wanted, name
        token = server.token(name, "backend", room_admin=True)
        if number % 4 == 1:
            path = f"{server.http}/api/v1/rooms/{name}/captions"
            async with http.put(path, json={"enabled": True}, headers={"Authorization": f"Bearer {token}"}) as response:
                assert response.status == 204, await response.text()
        if number % 4 == 2:
            call = rooms.Follow(messages.FollowRequest(room=name), metadata=bearer(token))
            await call.initial_metadata()
            call.cancel()
        await rooms.End(messages.EndRequest(name=name), metadata=admin)


async def test_a_room_made_anew_is_not_the_old_one(rooms, messages, server, room_name):
    admin = bearer(server.token(room_name, "backend", room_create=True, room_list=True))
    for number in range(50):
        wanted = number % 2 == 0
        made = await rooms.Create(messages.CreateRequest(name=room_name, captions=wanted), metadata=admin)
        listed = await rooms.List(messages.ListRequest(names=[room_name]), metadata=admin)
        assert [(room.sid, room.captions) for room in listed.rooms] == [(made.sid, wanted)]
        await rooms.End(messages.EndRequest(name=room_name), metadata=admin)


@pytest.mark.parametrize(
    ("method", "request_", "grants", "code"),
    [
        ("Create", {"name": "x"}, None, "UNAUTHENTICATED"),
        ("List", {}, None, "UNAUTHENTICATED"),
        ("Create", {"name": "x"}, {}, "PERMISSION_DENIED"),
        ("List", {}, {}, "PERMISSION_DENIED"),
        ("End", {"name": "x"}, {}, "PERMISSION_DENIED"),
        ("End", {"name": "no such room"}, {"room_create": True}, "NOT_FOUND"),
        ("Create", {"name": "r" * 257}, {"room_create": True}, "INVALID_ARGUMENT"),
        ("Create", {"name": ""}, {"room_create": True}, "INVALID_ARGUMENT"),
    ],
)
async def test_calls_are_refused_with_a_reason(rooms, messages, server, method, request_, grants, code):
    metadata = [] if grants is None else bearer(server.token("here", "backend", **grants))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(rooms, method)(getattr(messages, f"{method}Request")(**request_), metadata=metadata)
    assert refused.value.code().name == code
    assert refused.value.details()


async def test_a_forged_token_is_refused(rooms, messages, server):
    for token in (server.forged_token(secret="x" * 40, video={"roomList": True}), server.forged_token(exp=1, video={"roomList": True}), "garbage"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rooms.List(messages.ListRequest(), metadata=bearer(token))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_follows_what_is_said(rooms, messages, server, room_name, join):
    speaker = await join("speaker", token=server.token(room_name, "speaker"))
    source, publication = await microphone(speaker)
    events = []
    call = rooms.Follow(
        messages.FollowRequest(room=room_name, interim=True), metadata=bearer(server.token(room_name, "backend", room_admin=True))
    )

    async def follow():
        async for event in call:
            events.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "captions to run")
    sentences = unseen_sentences(2)
    await say(source, spoken(tuple(sentences), RATE))
    await until(lambda: sum(event.final for event in events) >= len(sentences), "closed segments")
    following.cancel()

    said = [event for event in events if event.text]
    assert {event.participant_identity for event in said} == {"speaker"}
    assert {event.track_sid for event in said} == {publication.sid}
    assert any(not event.final for event in said), "interim text was asked for"
    for event in said:
        assert event.committed <= len(event.text.encode())
        assert all(word.start_ms <= word.end_ms for word in event.words)
        assert [w.start_ms for w in event.words] == sorted(w.start_ms for w in event.words)
    check(sentences, [event.text for event in said if event.final], "Rooms.Follow")


async def test_following_needs_the_room(rooms, messages, server, room_name, join):
    await join("someone")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in rooms.Follow(messages.FollowRequest(room=room_name), metadata=bearer(server.token("another room", "mallory"))):
            pass
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_who_may_only_watch_does_not_turn_captions_on(rooms, messages, server, room_name):
    admin = bearer(server.token(room_name, "backend", room_create=True))
    await rooms.Create(messages.CreateRequest(name=room_name, captions=False), metadata=admin)
    watcher = bearer(server.token(room_name, "watcher", can_publish=False))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in rooms.Follow(messages.FollowRequest(room=room_name), metadata=watcher):
            pass
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    passive = rooms.Follow(messages.FollowRequest(room=room_name, passive=True), metadata=watcher)
    await passive.initial_metadata()
    passive.cancel()


async def test_followers_are_told_who_turns_captions_on(rooms, messages, server, room_name):
    admin = bearer(server.token(room_name, "backend", room_create=True, room_admin=True))
    await rooms.Create(messages.CreateRequest(name=room_name, captions=False), metadata=admin)
    call = rooms.Follow(messages.FollowRequest(room=room_name, passive=True), metadata=admin)
    await call.initial_metadata()
    await rooms.Create(messages.CreateRequest(name=room_name, captions=True), metadata=admin)
    event = await asyncio.wait_for(call.read(), PATIENCE_S)
    assert (event.notice, event.participant_identity) == ("backend turned captions on", "backend")
    call.cancel()


async def test_following_ends_with_the_room(rooms, messages, server, room_name, join, room_service):
    await join("someone")
    call = rooms.Follow(messages.FollowRequest(room=room_name), metadata=bearer(server.token(room_name, "backend", room_admin=True)))

    async def follow():
        return [event async for event in call]

    following = asyncio.create_task(follow())
    await call.initial_metadata()
    await room_service.delete_room(api.DeleteRoomRequest(room=room_name))
    await asyncio.wait_for(following, PATIENCE_S)


async def test_a_service_speaks_into_a_room(rooms, messages, server, room_name, join):
    subscribed = asyncio.get_running_loop().create_future()

    def prepare(room: rtc.Room):
        @room.on("track_subscribed")
        def _(track, publication, participant):
            subscribed.set_result((track, participant))

    await join("listener", prepare=prepare)
    samples = (0.3 * 32767 * np.sin(2 * np.pi * 600 * np.arange(4 * RATE) / RATE)).astype(np.int16).tobytes()

    async def requests():
        yield messages.PublishRequest(config=messages.PublishConfig(room=room_name, identity="radio", name="Radio", track_name="music"))
        for start in range(0, len(samples), 64_000):
            yield messages.PublishRequest(audio=samples[start : start + 64_000])

    call = rooms.Publish(requests(), metadata=bearer(server.token(room_name, "backend", room_admin=True)))

    async def publish():
        return [response async for response in call]

    publishing = asyncio.create_task(publish())
    track, participant = await asyncio.wait_for(subscribed, PATIENCE_S)
    assert (participant.identity, participant.name) == ("radio", "Radio")
    heard = await asyncio.wait_for(listen(track, 2.0), PATIENCE_S)
    assert abs(dominant_frequency(heard[len(heard) // 4 :]) - 600) < 3
    responses = await asyncio.wait_for(publishing, PATIENCE_S)
    assert responses[0].participant_sid == participant.sid
    assert responses[-1].played_ms == 4000


async def test_health_is_told(server):
    """The standard health service, by hand: an empty request, and status SERVING in the answer."""
    async with channel(server) as connection:
        check_health = connection.unary_unary("/grpc.health.v1.Health/Check")
        assert await check_health(b"") == b"\x08\x01"


async def test_services_are_listed_by_reflection(server):
    """What `grpcurl list` asks, by hand: ServerReflectionRequest.list_services (field 7) is an empty text."""
    async with channel(server) as connection:
        reflect = connection.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        answer = await reflect(iter([b"\x3a\x00"])).read()
    for service in (b"auralink.v1.Rooms", b"auralink.v1.Speech", b"grpc.health.v1.Health"):
        assert service in answer
