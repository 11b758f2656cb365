"""The training corpus: segments of eight seconds, each some sentences of one voice, as features and targets in the cache.

Place in the flow: after `grammar.py`, before `train.py`. Rule: a shard depends on its number alone, so the corpus can be continued,
and made in parallel; no test sentence is ever spoken here.

    nice -n 19 python -m training.corpus --shards 0-37
"""

import argparse
import hashlib
import os
from pathlib import Path

import numpy as np

from . import effects, tokens
from .features import log_mel
from .grammar import FOLDER, Grammar
from .voices import TRAINING, VARIANTS, Espeak

CACHE = Path(os.environ.get("AURALINK_TRAINING_CACHE", Path.home() / ".cache/auralink/train"))
FRAMES = 800                       # per segment: 8 s, 200 outputs of the model
SAMPLES = FRAMES * 160 + 240
SEGMENTS = 100                     # per shard
RANDOM_WORDS = 0.35                # share of utterances that are words in no order: the sound of every word, whatever its neighbours


def test_sentences():
    """The fixed test set; refuses to go on when the file is not the one whose hash was committed."""
    data = (FOLDER / "test_sentences.txt").read_bytes()
    expected = (FOLDER / "test_sentences.sha256").read_text().split()[0]
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SystemExit(f"test_sentences.txt has SHA-256 {found}, but {expected} was fixed before training: restore the file")
    return data.decode().splitlines()


class Text:
    def __init__(self, seed):
        self.grammar = Grammar(seed)
        self.words = self.grammar.vocabulary()
        self.forbidden = set(test_sentences())

    def sentence(self):
        while True:
            text = self.grammar.sentence()
            if text not in self.forbidden and len(text.split()) <= 14:
                return text

    def utterance(self):
        random = self.grammar.random
        if random.random() < RANDOM_WORDS:
            return " ".join(random.choice(self.words) for _ in range(random.randint(2, 7)))
        return self.sentence()


def segment(text, espeak, random):
    """-> (samples, token ids). Silence of 0.1-0.7 s between utterances, more at the end."""
    voice = str(random.choice(TRAINING))
    if random.random() < 0.7:
        voice += "+" + str(random.choice(VARIANTS))
    rate = float(np.clip(random.normal(168, 20), 120, 220))
    pitch, spread = random.uniform(25, 75), random.uniform(30, 70)
    wave, ids, at = np.zeros(SAMPLES, np.float32), [], int(random.integers(0, 4800))
    while True:
        sentence = text.utterance()
        sound = espeak.say(sentence, voice, rate, pitch, spread)
        if at + len(sound) > SAMPLES - 6400:
            if ids:
                break
            continue
        wave[at:at + len(sound)] += sound
        ids += tokens.encode(sentence)
        at += len(sound) + int(random.integers(1600, 11200))
        if at > SAMPLES - 16000:
            break
    return wave, ids


def on_its_way(wave, random):
    draw = random.random()
    if random.random() < 0.35:
        wave = effects.room(wave, random)
    if draw < 0.12:
        wave = effects.opus(wave, int(random.choice([8, 12, 16, 24])))
    elif draw < 0.22:
        wave = effects.telephone(wave)
    return wave


def shard_path(number):
    return CACHE / "corpus" / f"shard-{number:04}.npz"


def make_shard(number, espeak):
    path = shard_path(number)
    if path.exists():
        return
    random, text = np.random.default_rng([20, number]), Text(1000 + number)
    features, targets = np.zeros((SEGMENTS, FRAMES, 40), np.float16), []
    for index in range(SEGMENTS):
        wave, ids = segment(text, espeak, random)
        features[index] = log_mel(on_its_way(wave, random))
        targets.append(np.array(ids, np.int16))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, features=features, targets=np.concatenate(targets), lengths=[len(t) for t in targets])
    partial.rename(path)


def load(number):
    with np.load(shard_path(number)) as data:
        features, flat, lengths = data["features"], data["targets"], data["lengths"]
    return features, np.split(flat, np.cumsum(lengths)[:-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make corpus shards (100 segments of 8 s each)")
    parser.add_argument("--shards", default="0-37", help="first-last")
    first, last = map(int, parser.parse_args().shards.split("-"))
    speaker = Espeak()
    for number in range(first, last + 1):
        make_shard(number, speaker)
