"""Captions as LiveKit's clients expect them: text streams on `lk.transcription` and transcription packets, under the
speaker's identity; and nobody is heard who opted out."""

import asyncio

import numpy as np
import pytest
from conftest import auralink_only, until
from livekit import rtc
from sound import RATE
from speech import check, spoken, unseen_sentences

pytestmark = auralink_only

TOPIC = "lk.transcription"
FRAME = RATE // 50


class Reader:
    """Collects what a client sees of the captions."""

    def __init__(self):
        self.streams: list[dict] = []
        self.packets: list = []

    def prepare(self, room: rtc.Room):
        room.register_text_stream_handler(TOPIC, self._on_stream)
        room.on("transcription_received", lambda segments, participant, publication: self.packets.append((segments, participant, publication)))

    def _on_stream(self, reader: rtc.TextStreamReader, identity: str):
        async def read():
            text = await reader.read_all()
            self.streams.append({"identity": identity, "text": text, **reader.info.attributes})

        asyncio.get_running_loop().create_task(read())

    def finals(self) -> list[str]:
        """Text of the closed segments, in order of their closing."""
        return [stream["text"] for stream in self.streams if stream["lk.transcription_final"] == "true"]


async def microphone(room: rtc.Room) -> tuple[rtc.AudioSource, rtc.LocalTrackPublication]:
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    return source, await room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))


async def say(source: rtc.AudioSource, samples: np.ndarray):
    for start in range(0, len(samples) - FRAME, FRAME):
        await source.capture_frame(rtc.AudioFrame(samples[start : start + FRAME].tobytes(), RATE, 1, FRAME))
    await source.wait_for_playout()


async def test_captions_arrive_as_livekits_components_expect_them(join):
    reader = Reader()
    speaker = await join("speaker")
    await join("reader", prepare=reader.prepare)
    source, publication = await microphone(speaker)
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "to be told that captions run")
    sentences = unseen_sentences(3)
    await say(source, spoken(tuple(sentences), RATE))
    await until(lambda: len(reader.finals()) >= len(sentences), "a closed segment for each sentence")

    assert {stream["identity"] for stream in reader.streams} == {"speaker"}
    assert {stream["lk.transcribed_track_id"] for stream in reader.streams} == {publication.sid}
    assert all(stream["lk.segment_id"] for stream in reader.streams)
    segments = {}
    for stream in reader.streams:
        assert segments.get(stream["lk.segment_id"]) != "true", "nothing comes after a segment is closed"
        segments[stream["lk.segment_id"]] = stream["lk.transcription_final"]
    assert set(segments.values()) == {"true"}
    interim = [stream for stream in reader.streams if stream["lk.transcription_final"] == "false"]
    assert interim, "text comes before its segment is closed"
    check(sentences, reader.finals(), "text streams to the Python SDK")

    closed = {segment.id: segment.text for packet, _, _ in reader.packets for segment in packet if segment.final}
    assert list(closed.values()) == reader.finals(), "the packets for older clients say the same"
    assert {participant.identity for _, participant, _ in reader.packets} == {"speaker"}


@pytest.mark.parametrize("how", ["opted out", "captions off"])
async def test_who_must_not_be_heard_is_not(join, server, room_name, http, how):
    reader = Reader()
    token = server.token(room_name, "speaker", room_admin=True)
    speaker = await join("speaker", token=token)
    await join("reader", prepare=reader.prepare)
    source, _ = await microphone(speaker)
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "to be told that captions run")

    base = f"{server.http}/api/v1/rooms/{room_name}/captions"
    path, body, state = (f"{base}/me", {"opted_out": True}, "opted-out") if how == "opted out" else (base, {"enabled": False}, "off")
    async with http.put(path, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status in (200, 204), await response.text()
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == state, f"to be told: {state}")

    unheard, heard = unseen_sentences(2)
    await say(source, spoken((unheard,), RATE))
    assert not reader.streams and not reader.packets

    # Back in, the same microphone is heard: so it was the choice that kept it out.
    body = {"opted_out": False} if how == "opted out" else {"enabled": True}
    async with http.put(path, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status in (200, 204), await response.text()
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "to be told that captions run again")
    await say(source, spoken((heard,), RATE))
    await until(reader.finals, "a closed segment")


async def test_settings_of_captions_need_the_room(server, room_name, http):
    base = f"{server.http}/api/v1/rooms/{room_name}/captions"
    async with http.put(base, json={"enabled": True}) as response:
        assert response.status == 401
    other = server.token("another room", "mallory")
    for path, body in ((base, {"enabled": True}), (f"{base}/me", {"opted_out": True})):
        async with http.put(path, json=body, headers={"Authorization": f"Bearer {other}"}) as response:
            assert response.status in (401, 403), await response.text()


async def test_a_muted_microphone_is_not_captioned(join):
    reader = Reader()
    speaker = await join("speaker")
    await join("reader", prepare=reader.prepare)
    source, publication = await microphone(speaker)
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "to be told that captions run")
    publication.track.mute()
    await say(source, spoken((unseen_sentences(1)[0],), RATE))
    assert not reader.streams


async def test_who_encrypts_the_microphone_is_told_that_it_is_not_captioned(join, room_name):
    key = rtc.KeyProviderOptions(shared_key=b"between the people alone")
    speaker = await join("speaker", encryption=rtc.E2EEOptions(key_provider_options=key))
    other = await join("other")
    await microphone(speaker)
    await microphone(other)
    attributes = speaker.local_participant.attributes
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "refused", "to be told")
    assert "encrypted" in speaker.local_participant.attributes["auralink.captions.reason"], attributes
    await until(lambda: other.local_participant.attributes.get("auralink.captions") == "on", "the other to be heard")
    assert "auralink.captions.reason" not in other.local_participant.attributes
