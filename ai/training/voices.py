"""Synthetic speech: espeak-ng through its library (in-process, about 100 times real time) and flite through its command.

Place in the flow: `corpus.py` and `evaluate.py` get their sound here, as float32 at 16 kHz. Rule: the two held-out voices never train.
"""

import ctypes
import ctypes.util
import subprocess
import tempfile

import numpy as np
import soundfile
from scipy.signal import resample_poly

TRAINING = ["en-gb", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"]
HELD_OUT = ["en-gb-scotland", "en-us-nyc"]
VARIANTS = ["f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"]
# The library finds voices by their file; the command line's language names differ.
FILES = {"en-gb": "en", "en-us": "en-US", "en-gb-x-rp": "en-GB-x-rp", "en-gb-x-gbclan": "en-GB-x-gbclan", "en-us-nyc": "en-US-nyc",
         "en-gb-x-gbcwmd": "en-GB-x-gbcwmd", "en-029": "en-029", "en-gb-scotland": "en-GB-scotland"}
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER of speak_lib.h: words per minute, base pitch 0-100, pitch range 0-100


class Espeak:
    def __init__(self):
        name = ctypes.util.find_library("espeak-ng")
        if not name:
            raise RuntimeError("libespeak-ng is not installed: apt-get install espeak-ng")
        self.library = ctypes.CDLL(name)
        rate = self.library.espeak_Initialize(2, 0, None, 0)  # AUDIO_OUTPUT_SYNCHRONOUS
        if rate <= 0:
            raise RuntimeError("espeak-ng did not start: its data files are missing")
        self.rate, self.pieces = rate, []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = prototype(self._collect)
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, wave, count, _events):
        if wave and count:
            self.pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def say(self, text, voice, rate=175, pitch=50, pitch_range=50):
        """float32 at 16 kHz, silence at both ends cut to 20 ms."""
        base, _, variant = voice.partition("+")
        name = f"gmw/{FILES[base]}" + (f"+{variant}" if variant else "")
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range)):
            self.library.espeak_SetParameter(parameter, int(value), 0)
        self.pieces = []
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        if not self.pieces:
            raise RuntimeError(f"espeak-ng said nothing for {text!r}")
        wave = np.concatenate(self.pieces).astype(np.float32) / 32768.0
        return trim(resample_poly(wave, 320, 441) if self.rate == 22050 else resample_poly(wave, 16000, self.rate))


def flite(text, voice="slt"):
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, capture_output=True)
        wave, rate = soundfile.read(file.name, dtype="float32")
    return trim(wave if rate == 16000 else resample_poly(wave, 16000, rate))


def trim(wave, keep=320):
    loud = np.flatnonzero(np.abs(wave) > 0.003)
    if not len(loud):
        return wave.astype(np.float32)
    return wave[max(0, loud[0] - keep):loud[-1] + keep].astype(np.float32)
