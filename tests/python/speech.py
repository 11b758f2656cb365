"""Speech into the tests: espeak-ng's voice as samples, and how many words of it came back right."""

import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import wave

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
VOICE = "en-us"
WORD_ERROR_BOUND = 0.35


@functools.cache
def unseen_sentences(count: int) -> list[str]:
    """Some of the committed test sentences: fixed before any training, never trained on."""
    return test_sentences()[7::40][:count]


@functools.cache
def test_sentences() -> list[str]:
    """All of them."""
    return (ROOT / "ai/training/test_sentences.txt").read_text().strip().split("\n")


test_sentences.__test__ = False  # pytest collects by name


@functools.cache
def spoken(sentences: tuple[str, ...], rate: int, pause_s: float = 1.5, voice: str = VOICE) -> np.ndarray:
    """The sentences, said with silence before, between and after them: mono, 16-bit samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/speech.wav"
        subprocess.run(
            [sys.executable, "-B", ROOT / "tests/e2e/fixture/speak.py", voice, path, "0.5", str(pause_s), "2"],
            input="\n".join(sentences), text=True, check=True, capture_output=True,
        )
        with wave.open(path) as file:
            own, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    at = np.arange(int(len(samples) * rate / own)) * own / rate
    return np.interp(at, np.arange(len(samples)), samples).astype(np.int16)


def words(text: str) -> list[str]:
    return re.sub(r"[^\w' ]+", " ", text.lower()).split()


def word_error_rate(reference: str, hypothesis: str) -> float:
    a, b = words(reference), words(hypothesis)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1] / len(a)


def check(reference: list[str], hypothesis: list[str], what: str, bound: float = WORD_ERROR_BOUND):
    """Prints the word error rate, and fails when it is above the bound."""
    rate = word_error_rate(" ".join(reference), " ".join(hypothesis))
    print(json.dumps({"what": what, "said": reference, "read": hypothesis, "word_error_rate": round(rate, 3)}))
    assert rate <= bound, (reference, hypothesis)
