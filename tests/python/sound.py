"""Tones into a room and their frequency out of it, by the native SDK."""

import asyncio

import numpy as np
from livekit import rtc

RATE = 48_000
FRAME = RATE // 50  # 20 ms


async def publish_tone(room: rtc.Room, frequency_hz: float) -> asyncio.Task:
    """Publishes a microphone track and hums into it until the task is cancelled."""
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    await room.local_participant.publish_track(
        track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
    )

    async def hum():
        position = 0
        while True:
            samples = 0.3 * np.sin(2 * np.pi * frequency_hz * (position + np.arange(FRAME)) / RATE)
            await source.capture_frame(rtc.AudioFrame((samples * 32767).astype(np.int16).tobytes(), RATE, 1, FRAME))
            position += FRAME

    return asyncio.create_task(hum())


async def listen(track: rtc.RemoteTrack, seconds: float) -> np.ndarray:
    """The next samples of a track, mono, -1 to 1, from the first that is not silence on."""
    stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1)
    parts: list[np.ndarray] = []
    try:
        async for event in stream:
            samples = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64) / 32768
            if parts or np.sqrt(np.mean(samples**2)) > 0.01:
                parts.append(samples)
            if sum(map(len, parts)) >= seconds * RATE:
                break
    finally:
        await stream.aclose()
    return np.concatenate(parts)


def dominant_frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))
