"""Sound goes through: a tone published by one participant is heard by another at its own frequency."""

import asyncio

import numpy as np
import pytest
from conftest import PATIENCE_S, until
from livekit import rtc
from sound import dominant_frequency, listen, publish_tone


@pytest.mark.parametrize("single", [False, True], ids=["two connections", "one connection"])
async def test_a_tone_is_heard_at_its_frequency(join, single):
    subscribed = asyncio.get_running_loop().create_future()

    def prepare(room: rtc.Room):
        @room.on("track_subscribed")
        def _(track, publication, participant):
            if track.kind == rtc.TrackKind.KIND_AUDIO and not subscribed.done():
                subscribed.set_result((track, participant.identity))

    speaker = await join("speaker", single_peer_connection=single)
    await join("listener", prepare=prepare, single_peer_connection=single)
    hum = await publish_tone(speaker, 440)
    try:
        track, identity = await asyncio.wait_for(subscribed, PATIENCE_S)
        assert identity == "speaker"
        heard = await asyncio.wait_for(listen(track, 2.0), PATIENCE_S)
    finally:
        hum.cancel()
    # The first half second may still hold the jitter buffer's start.
    steady = heard[len(heard) // 4 :]
    assert abs(dominant_frequency(steady) - 440) < 3
    assert 0.1 < np.sqrt(2 * np.mean(steady**2)) < 0.6, "amplitude 0.3 was sent"


async def test_two_speakers_are_told_apart(join):
    tracks: dict[str, rtc.RemoteTrack] = {}

    def prepare(room: rtc.Room):
        @room.on("track_subscribed")
        def _(track, publication, participant):
            tracks[participant.identity] = track

    tones = {"low": 300.0, "high": 900.0}
    hums = [await publish_tone(await join(identity), tone) for identity, tone in tones.items()]
    try:
        await join("listener", prepare=prepare)
        await until(lambda: tracks.keys() == tones.keys(), "both tracks to be subscribed")
        heard = await asyncio.wait_for(asyncio.gather(*(listen(tracks[who], 1.5) for who in tones)), PATIENCE_S)
    finally:
        for hum in hums:
            hum.cancel()
    for tone, samples in zip(tones.values(), heard):
        assert abs(dominant_frequency(samples[len(samples) // 3 :]) - tone) < 3
