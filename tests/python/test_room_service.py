"""RoomService by LiveKit's own API client: create, list, participants, remove, send data, delete."""

import asyncio

import pytest
from conftest import PATIENCE_S, until
from livekit import api, rtc
from sound import publish_tone


async def test_a_room_is_made_and_listed(room_service, room_name):
    made = await room_service.create_room(
        api.CreateRoomRequest(name=room_name, metadata="about it", max_participants=7, empty_timeout=60)
    )
    assert made.sid.startswith("RM_")
    assert (made.name, made.metadata, made.max_participants, made.empty_timeout) == (room_name, "about it", 7, 60)
    listed = await room_service.list_rooms(api.ListRoomsRequest(names=[room_name]))
    assert [room.sid for room in listed.rooms] == [made.sid]
    again = await room_service.create_room(api.CreateRoomRequest(name=room_name))
    assert again.sid == made.sid, "making it twice returns the one there is"
    everything = await room_service.list_rooms(api.ListRoomsRequest())
    assert made.sid in {room.sid for room in everything.rooms}


async def test_participants_are_listed_with_what_they_publish(room_service, join, room_name):
    speaker = await join("speaker")
    await join("listener")
    hum = await publish_tone(speaker, 440)
    people = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            # A track is listed once its first packet has come; LiveKit counts people a moment later.
            while not (people and people["speaker"].tracks and room.num_participants == 2):
                (room,) = (await room_service.list_rooms(api.ListRoomsRequest(names=[room_name]))).rooms
                listed = await room_service.list_participants(api.ListParticipantsRequest(room=room_name))
                people = {person.identity: person for person in listed.participants}
    finally:
        hum.cancel()
    assert people.keys() == {"speaker", "listener"}
    assert people["speaker"].sid == speaker.local_participant.sid
    assert [track.source for track in people["speaker"].tracks] == [api.TrackSource.MICROPHONE]
    assert people["listener"].state == api.ParticipantInfo.State.ACTIVE


async def test_a_removed_participant_leaves(room_service, join, room_name):
    gone = asyncio.get_running_loop().create_future()
    watcher = await join("watcher")
    await join("unwanted", prepare=lambda room: room.on("disconnected", lambda reason: gone.done() or gone.set_result(reason)))
    await until(lambda: "unwanted" in watcher.remote_participants, "the watcher to see the other")
    await room_service.remove_participant(api.RoomParticipantIdentity(room=room_name, identity="unwanted"))
    assert await asyncio.wait_for(gone, PATIENCE_S) == rtc.DisconnectReason.PARTICIPANT_REMOVED
    await until(lambda: not watcher.remote_participants, "the watcher to see the other gone")
    with pytest.raises(api.TwirpError) as missing:
        await room_service.remove_participant(api.RoomParticipantIdentity(room=room_name, identity="unwanted"))
    assert (missing.value.code, missing.value.status) == ("not_found", 404)


async def test_a_deleted_room_ends_for_everyone(room_service, join, room_name):
    loop = asyncio.get_running_loop()
    gone = {identity: loop.create_future() for identity in ("ana", "ben")}
    for identity, future in gone.items():
        await join(identity, prepare=lambda room, f=future: room.on("disconnected", lambda reason: f.done() or f.set_result(reason)))
    await room_service.delete_room(api.DeleteRoomRequest(room=room_name))
    assert await asyncio.wait_for(asyncio.gather(*gone.values()), PATIENCE_S) == [rtc.DisconnectReason.ROOM_DELETED] * 2
    assert not (await room_service.list_rooms(api.ListRoomsRequest(names=[room_name]))).rooms
    with pytest.raises(api.TwirpError) as missing:
        await room_service.delete_room(api.DeleteRoomRequest(room=room_name))
    assert (missing.value.code, missing.value.status) == ("not_found", 404)


async def test_data_is_sent_into_a_room(room_service, join, room_name):
    packets = {"ana": [], "ben": []}
    for identity, kept in packets.items():
        await join(identity, prepare=lambda room, kept=kept: room.on("data_received", kept.append))
    kind = rtc.DataPacketKind.KIND_RELIABLE
    await room_service.send_data(api.SendDataRequest(room=room_name, data=b"to all", kind=kind, topic="news"))
    await room_service.send_data(
        api.SendDataRequest(room=room_name, data=b"to ben", kind=kind, topic="news", destination_identities=["ben"])
    )
    await until(lambda: len(packets["ben"]) == 2 and packets["ana"], "the packets")
    assert [p.data for p in packets["ben"]] == [b"to all", b"to ben"]
    assert [p.data for p in packets["ana"]] == [b"to all"]
    assert packets["ana"][0].topic == "news" and packets["ana"][0].participant is None


async def test_a_full_room_takes_no_one_more(room_service, join, room_name):
    await room_service.create_room(api.CreateRoomRequest(name=room_name, max_participants=1))
    await join("first")
    with pytest.raises(rtc.ConnectError):
        await join("second")


@pytest.mark.parametrize(
    ("grants", "method", "body", "status", "code"),
    [
        (None, "ListRooms", {}, 401, "unauthenticated"),
        ({"roomJoin": True, "room": "here"}, "ListRooms", {}, 401, "unauthenticated"),
        ({"roomJoin": True, "room": "here"}, "CreateRoom", {"name": "there"}, 401, "unauthenticated"),
        ({"roomAdmin": True, "room": "here"}, "ListParticipants", {"room": "there"}, 401, "unauthenticated"),
        ({"roomAdmin": True, "room": "here"}, "RemoveParticipant", {"room": "there", "identity": "x"}, 401, "unauthenticated"),
        ({"roomAdmin": True, "room": "here"}, "SendData", {"room": "there", "data": "aGk="}, 401, "unauthenticated"),
        ({"roomAdmin": True, "room": "here"}, "RemoveParticipant", {"room": "here", "identity": "x"}, 404, "not_found"),
        ({"roomJoin": True, "room": "here"}, "DeleteRoom", {"room": "here"}, 401, "unauthenticated"),
        ({"roomCreate": True}, "CreateRoom", {"name": "r" * 300}, 400, "invalid_argument"),
        ({"roomList": True}, "ListRooms", [1], 400, "malformed"),
        ({"roomList": True}, "NoSuchMethod", {}, 404, "bad_route"),
    ],
)
async def test_calls_are_refused_as_livekit_refuses_them(server, http, grants, method, body, status, code):
    headers = {} if grants is None else {"Authorization": f"Bearer {server.forged_token(video=grants)}"}
    async with http.post(f"{server.http}/twirp/livekit.RoomService/{method}", json=body, headers=headers) as response:
        assert response.status == status, await response.text()
        answer = await response.json()
    assert answer["code"] == code
    assert answer["msg"]
