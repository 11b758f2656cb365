"""What happens to speech on its way: rooms, Opus at low rates, the telephone, noise, gain.

Place in the flow: `corpus.py` draws one way per training segment, `evaluate.py` a fixed one. Rule: input and output have equal length
and are aligned to the sample; every draw comes from the generator passed in.
"""

import subprocess

import numpy as np
from scipy.signal import fftconvolve, lfilter, resample_poly


def room(wave, random):
    """A small room: direct path, a few early reflections, a decaying noise tail of 0.1-0.5 s."""
    decay = random.uniform(0.1, 0.5)
    time = np.arange(int(16000 * decay)) / 16000
    tail = random.standard_normal(len(time)) * np.exp(-6.9 * time / decay)
    tail[:int(random.integers(40, 200))] = 0
    impulse = tail * random.uniform(0.1, 0.5) / np.sqrt(np.sum(tail ** 2) + 1e-9)
    impulse[0] = 1.0
    for _ in range(int(random.integers(2, 6))):
        impulse[int(random.integers(16, 500))] += random.uniform(-0.4, 0.4)
    out = fftconvolve(wave, impulse)[:len(wave)]
    return (out * np.sqrt(np.mean(wave ** 2) / (np.mean(out ** 2) + 1e-12))).astype(np.float32)


def opus(wave, kilobits):
    """Through a real Opus encoder and decoder (ffmpeg, libopus, voip)."""
    raw = ["-f", "s16le", "-ar", "16000", "-ac", "1"]
    pcm = (np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes()
    base = ["ffmpeg", "-v", "error", "-threads", "1"]
    packed = subprocess.run(base + raw + ["-i", "-", "-c:a", "libopus", "-application", "voip", "-b:a", f"{kilobits}k", "-f", "ogg", "-"],
                            input=pcm, capture_output=True, check=True).stdout
    plain = subprocess.run(base + ["-f", "ogg", "-i", "-"] + raw + ["-"], input=packed, capture_output=True, check=True).stdout
    out = np.frombuffer(plain, "<i2").astype(np.float32) / 32768
    return np.pad(out, (0, max(0, len(wave) - len(out))))[:len(wave)]


def telephone(wave):
    """8 kHz and mu-law (ITU-T G.711's curve)."""
    narrow = np.clip(resample_poly(wave, 1, 2), -1, 1)
    code = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    narrow = np.sign(code) * (256 ** np.abs(code) - 1) / 255
    return resample_poly(narrow, 2, 1)[:len(wave)].astype(np.float32)


def coloured_noise(length, random):
    """Noise between white and brown with a slowly wandering level."""
    pole = random.choice([0.0, 0.5, 0.9, 0.97])
    noise = lfilter([1.0], [1.0, -pole], random.standard_normal(length))
    level = np.interp(np.arange(length), np.linspace(0, length, 9), random.uniform(0.5, 1.0, 9))
    return (noise * level / (np.std(noise) + 1e-9)).astype(np.float32)


def add_noise(wave, random, snr_db):
    noise = coloured_noise(len(wave), random)
    active = wave[np.abs(wave) > 0.003]
    speech = np.sqrt(np.mean(active ** 2)) if len(active) else 0.05
    return (wave + noise / np.sqrt(np.mean(noise ** 2)) * speech * 10 ** (-snr_db / 20)).astype(np.float32)
