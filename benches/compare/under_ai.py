"""A speech load on a running AuraLink: streams that speak without end, in real time, until this process is told to stop.

    python under_ai.py GRPC_ADDRESS STREAMS     with LIVEKIT_API_KEY and LIVEKIT_API_SECRET; SIGTERM ends it

Prints one JSON line when all streams have been heard from, and one at the end: segments closed, and how far the text of
each was behind its audio (milliseconds from the sending of a segment's end to its arrival, with the configured silence).
"""

import asyncio
import json
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/python"))

from auralink_grpc import bearer, stubs  # noqa: E402
from conftest import Server  # noqa: E402
from speech import spoken, unseen_sentences  # noqa: E402

import grpc  # noqa: E402

RATE = 16_000
CHUNK = RATE // 10  # 100 ms


async def stream(number: int, server: Server, samples: bytes, stop: asyncio.Event, heard: asyncio.Queue):
    speech_pb2, speech_grpc = stubs()[2:]
    started = time.monotonic()

    async def requests():
        yield speech_pb2.TranscribeRequest(
            config=speech_pb2.TranscribeConfig(encoding=speech_pb2.TranscribeConfig.ENCODING_S16LE, sample_rate_hz=RATE, channels=1, interim=True)
        )
        chunk = 0
        while not stop.is_set():
            at = (chunk * 2 * CHUNK + number * 7919 * 2) % (len(samples) - 2 * CHUNK)  # each stream elsewhere in the text
            yield speech_pb2.TranscribeRequest(audio=samples[at - at % 2 : at - at % 2 + 2 * CHUNK])
            chunk += 1
            await asyncio.sleep(max(0, started + chunk * CHUNK / RATE - time.monotonic()))

    async with grpc.aio.insecure_channel(server.grpc) as channel:
        async for response in speech_grpc.SpeechStub(channel).Transcribe(requests(), metadata=bearer(server.token("load", f"load-{number}"))):
            if response.HasField("segment"):
                behind = 1000 * (time.monotonic() - started) - response.segment.end_ms
                heard.put_nowait((number, response.segment.final, behind))


async def main():
    address, count = sys.argv[1], int(sys.argv[2])
    server = Server("", os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"], address)
    samples = spoken(tuple(unseen_sentences(5)), RATE, 0.6).tobytes()
    stop, heard = asyncio.Event(), asyncio.Queue()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    streams = [asyncio.create_task(stream(n, server, samples, stop, heard)) for n in range(count)]
    speaking, behind = set(), []
    everything = asyncio.gather(*streams)
    while not everything.done():
        waiting = asyncio.create_task(heard.get())
        await asyncio.wait({waiting, everything}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            break
        number, final, late = waiting.result()
        if number not in speaking:
            speaking.add(number)
            if len(speaking) == count:
                print(json.dumps({"streams": count}), flush=True)
        if final:
            behind.append(late)
    await everything
    behind.sort()
    at = lambda p: round(behind[min(len(behind) - 1, len(behind) * p // 100)]) if behind else None  # noqa: E731
    print(json.dumps({"streams_heard_from": len(speaking), "segments": len(behind), "behind_ms_p50": at(50), "behind_ms_p95": at(95)}), flush=True)


asyncio.run(main())
