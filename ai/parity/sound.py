"""Sounds that both sides make by the same formulas: a fixture names them, nobody stores them.

A sound is a list of parts, each a name and its seconds, at 16 kHz. `ai/tests/parity/sound.rs` is the other side.
"""
import pathlib
import wave

import numpy as np

RATE = 16_000


def speech(count):
    """The recording of the tests, 8 kHz stereo: the mean of its channels, each second sample between its neighbours, again and again."""
    path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "speech.wav"
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    mono = pcm.astype(np.float64).sum(axis=1) / 65536.0
    following = np.append(mono[1:], 0.0)
    doubled = np.stack([mono, (mono + following) / 2.0], axis=1).reshape(-1)
    return np.resize(doubled, count)


def noise(count):
    values, state = np.empty(count), 12_345
    for index in range(count):
        state = (state * 1_664_525 + 1_013_904_223) % (1 << 32)
        values[index] = state / 2.0**31 - 1.0
    return 0.1 * values


def tone(count):
    return 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(count) / RATE)


def sweep(count):
    """From 100 Hz to 4 kHz in four seconds, again and again, three times a second louder."""
    time = np.arange(count) / RATE
    part = np.fmod(time, 4.0)
    return 0.4 * np.sin(2 * np.pi * (100.0 * part + 487.5 * part * part)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3.0 * time))


def voice(count):
    """Ten harmonics of a pitch that wanders, in syllables."""
    time = np.arange(count) / RATE
    phase = 2 * np.pi * 120.0 * time + (30.0 / 0.7) * (1.0 - np.cos(2 * np.pi * 0.7 * time))
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 11))
    return 0.2 * harmonics * np.maximum(0.0, np.sin(2 * np.pi * 2.1 * time)) ** 0.5


PARTS = {"speech": speech, "noise": noise, "tone": tone, "sweep": sweep, "voice": voice, "silence": np.zeros}


def sound(parts):
    """Samples in [-1, 1], float32."""
    return np.concatenate([PARTS[name](round(seconds * RATE)) for name, seconds in parts]).astype(np.float32)
