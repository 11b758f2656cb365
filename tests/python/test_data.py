"""Data between participants: packets, text streams, attributes, metadata, calls."""

import asyncio

import pytest
from conftest import PATIENCE_S, until
from livekit import rtc


@pytest.fixture
def packets():
    return []


def keeping(packets):
    def prepare(room: rtc.Room):
        room.on("data_received", packets.append)

    return prepare


@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "lossy"])
async def test_a_data_packet_reaches_the_others_with_its_topic(join, packets, reliable):
    sender = await join("sender")
    await join("receiver", prepare=keeping(packets))
    await sender.local_participant.publish_data(b"\x00\xffbytes", reliable=reliable, topic="things")
    await until(lambda: packets, "the packet")
    assert (packets[0].data, packets[0].topic, packets[0].participant.identity) == (b"\x00\xffbytes", "things", "sender")


async def test_a_data_packet_for_one_reaches_no_one_else(join, packets):
    others: list = []
    sender = await join("sender")
    await join("meant", prepare=keeping(packets))
    await join("other", prepare=keeping(others))
    await sender.local_participant.publish_data("secret", destination_identities=["meant"])
    await sender.local_participant.publish_data("for all")
    await until(lambda: any(p.data == b"for all" for p in others), "the packet for all")
    await until(lambda: len(packets) == 2, "both packets")
    assert [p.data for p in packets] == [b"secret", b"for all"]
    assert [p.data for p in others] == [b"for all"]


async def test_many_reliable_packets_arrive_in_order(join, packets):
    sender = await join("sender")
    await join("receiver", prepare=keeping(packets))
    sent = [f"{number:04}".encode() * 100 for number in range(300)]
    for data in sent:
        await sender.local_participant.publish_data(data)
    await until(lambda: len(packets) == len(sent), f"{len(sent)} packets")
    assert [p.data for p in packets] == sent


async def test_one_without_the_grant_sends_no_data(join, server, room_name, packets):
    await join("receiver", prepare=keeping(packets))
    mute = await join("mute", token=server.token(room_name, "mute", can_publish_data=False))
    sender = await join("sender")
    try:
        await asyncio.wait_for(mute.local_participant.publish_data("not allowed"), 5)
    except Exception:
        pass  # the SDK may refuse by itself; what counts is that nothing arrives
    await sender.local_participant.publish_data("allowed")
    await until(lambda: any(p.data == b"allowed" for p in packets), "the allowed packet")
    assert [p.data for p in packets] == [b"allowed"]


async def test_a_text_stream_arrives_whole(join):
    text = asyncio.get_running_loop().create_future()

    def on_stream(reader: rtc.TextStreamReader, identity: str):
        async def read():
            text.set_result((identity, reader.info.attributes, await reader.read_all()))

        asyncio.get_running_loop().create_task(read())

    sender = await join("sender")
    await join("receiver", prepare=lambda room: room.register_text_stream_handler("letters", on_stream))
    letter = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 1000
    await sender.local_participant.send_text(letter, topic="letters", attributes={"kind": "long"})
    identity, attributes, received = await asyncio.wait_for(text, PATIENCE_S)
    assert (identity, attributes["kind"]) == ("sender", "long")
    assert received == letter


async def test_attributes_metadata_and_name_reach_the_others(join, server, room_name):
    changer = await join("changer", token=server.token(room_name, "changer", attributes={"role": "host"}))
    watcher = await join("watcher")
    seen = watcher.remote_participants["changer"]
    assert seen.attributes["role"] == "host"
    await changer.local_participant.set_attributes({"hand": "up"})
    await until(lambda: seen.attributes.get("hand") == "up", "the new attribute")
    assert seen.attributes["role"] == "host"
    await changer.local_participant.set_metadata("about me")
    await changer.local_participant.set_name("The Changer")
    await until(lambda: (seen.metadata, seen.name) == ("about me", "The Changer"), "metadata and name")


async def test_one_calls_another(join):
    answerer = await join("answerer")
    caller = await join("caller")

    @answerer.local_participant.register_rpc_method("greet")
    async def greet(data: rtc.RpcInvocationData):
        return f"hello {data.caller_identity}, you said {data.payload}"

    answer = await asyncio.wait_for(
        caller.local_participant.perform_rpc(destination_identity="answerer", method="greet", payload="hi"), PATIENCE_S
    )
    assert answer == "hello caller, you said hi"


async def test_captions_of_others_come_from_agents_alone(join, server, room_name, packets):
    transcriptions, streams = [], []

    def listen(room: rtc.Room):
        keeping(packets)(room)
        room.on("transcription_received", lambda segments, participant, _: transcriptions.append((participant.identity, segments[0].text)))

        def on_stream(reader: rtc.TextStreamReader, identity: str):
            async def read():
                streams.append((identity, await reader.read_all()))

            asyncio.get_running_loop().create_task(read())

        room.register_text_stream_handler("lk.transcription", on_stream)

    async def say_as_ana(participant: rtc.LocalParticipant, text: str, attributes: dict):
        segment = rtc.TranscriptionSegment(id="s1", text=text, start_time=0, end_time=0, language="en", final=True)
        await participant.publish_transcription(rtc.Transcription(participant_identity="ana", track_sid="TR_of_ana", segments=[segment]))
        writer = await participant.stream_text(topic="lk.transcription", sender_identity="ana", attributes=attributes)
        await writer.write(text)
        await writer.aclose()

    await join("ana", prepare=listen)
    mallory = (await join("mallory")).local_participant
    scribe = (await join("scribe", token=server.token(room_name, "scribe", kind="agent"))).local_participant
    await say_as_ana(mallory, "I owe mallory money", {"lk.transcribed_track_id": "TR_of_ana"})
    await say_as_ana(mallory, "mallory's own words", {})
    await mallory.publish_data(b"that was all")
    await until(lambda: packets, "what mallory sent last")
    await until(lambda: streams, "mallory's stream in her own name")
    await say_as_ana(scribe, "good morning", {"lk.transcribed_track_id": "TR_of_ana"})
    await until(lambda: transcriptions and len(streams) > 1, "what the agent wrote down")
    assert transcriptions == [("ana", "good morning")]
    assert streams == [("mallory", "mallory's own words"), ("ana", "good morning")]
