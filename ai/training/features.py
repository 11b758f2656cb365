"""Log-mel features, 100 frames a second, computed the same way in training, in the tests and by the server.

Place in the flow: between sound and model. Rule: frame k covers samples [160 k, 160 k + 400), nothing is padded or dithered.
Every constant stands in `SPEC`, which `export.py` copies into the pack's manifest.
"""

import numpy as np

SPEC = {
    "sample_rate": 16000, "frame_length": 400, "hop_length": 160, "fft_length": 512, "window": "hann_periodic",
    "spectrum": "power", "mel_scale": "htk", "mel_norm": "none", "n_mels": 40, "f_min": 60.0, "f_max": 7600.0,
    "log": "natural", "log_offset": 1e-5, "sample_range": [-1.0, 1.0], "padding": "none", "dither": 0.0,
}
WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)


def mel_filters():
    """[257, 40] triangles over FFT bin frequencies k * 16000 / 512; corners evenly spaced on mel = 2595 log10(1 + f / 700)."""
    to_mel = lambda hertz: 2595.0 * np.log10(1.0 + hertz / 700.0)
    mels = np.linspace(to_mel(SPEC["f_min"]), to_mel(SPEC["f_max"]), SPEC["n_mels"] + 2)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = np.arange(257)[:, None] * 16000.0 / 512.0
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    return np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))).astype(np.float32)


FILTERS = mel_filters()


def log_mel(samples):
    """float samples in [-1, 1] at 16 kHz -> float32 [frames, 40], frames = (samples - 400) // 160 + 1."""
    samples = np.ascontiguousarray(samples, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    spectrum = np.fft.rfft(frames * WINDOW, 512)
    power = (spectrum.real ** 2 + spectrum.imag ** 2).astype(np.float32)
    return np.log(power @ FILTERS + np.float32(SPEC["log_offset"])).astype(np.float32)
