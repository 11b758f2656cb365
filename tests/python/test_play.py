"""`auralink play FILE --room R`: a sound file is heard in the room, as a participant of its own, from begin to end."""

import asyncio
import os
import pathlib
import wave

import numpy as np
import pytest
from conftest import PATIENCE_S, auralink_only
from livekit import rtc
from sound import dominant_frequency, listen

pytestmark = auralink_only

BINARY = os.environ.get("AURALINK_BIN") or str(pathlib.Path(__file__).parents[2] / "bin/auralink")


async def play(server, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        BINARY, "play", *arguments, "--server", f"http://{server.grpc}",
        env={**os.environ, "LIVEKIT_API_KEY": server.key, "LIVEKIT_API_SECRET": server.secret},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, output.decode()


@pytest.fixture
def tone_file(tmp_path):
    """Four seconds of 700 Hz, at a rate that is not the room's."""
    rate = 22_050
    samples = (0.4 * 32767 * np.sin(2 * np.pi * 700 * np.arange(4 * rate) / rate)).astype(np.int16)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return tmp_path / "tone.wav"


async def test_a_file_is_heard_in_the_room(join, server, room_name, tone_file):
    loop = asyncio.get_running_loop()
    subscribed, left = loop.create_future(), loop.create_future()

    def prepare(room: rtc.Room):
        @room.on("track_subscribed")
        def _(track, publication, participant):
            subscribed.set_result((track, participant.identity))

        room.on("participant_disconnected", lambda participant: left.done() or left.set_result(participant.identity))

    await join("listener", prepare=prepare)
    playing = asyncio.create_task(play(server, str(tone_file), "--room", room_name, "--identity", "jukebox"))
    track, identity = await asyncio.wait_for(subscribed, PATIENCE_S)
    assert identity == "jukebox"
    heard = await asyncio.wait_for(listen(track, 2.0), PATIENCE_S)
    assert abs(dominant_frequency(heard[len(heard) // 4 :]) - 700) < 3
    status, output = await playing
    assert status == 0, output
    assert await asyncio.wait_for(left, PATIENCE_S) == "jukebox"


@pytest.mark.parametrize("case", ["missing", "no sound"])
async def test_a_file_that_cannot_be_played_is_named(server, room_name, tmp_path, case):
    file = tmp_path / "talk.wav"
    if case == "no sound":
        file.write_text("this is not a sound file")
    status, output = await play(server, str(file), "--room", room_name)
    assert status != 0
    assert "talk.wav" in output


async def test_a_server_that_is_not_there_is_named(server, room_name, tone_file):
    nowhere = type(server)(server.ws, server.key, server.secret, "127.0.0.1:1")
    status, output = await play(nowhere, str(tone_file), "--room", room_name)
    assert status != 0
    assert "127.0.0.1:1" in output
