"""Word error rates of the pack on the fixed test set: held-out voices, clean and noisy, and flite as a second synthesiser.

Place in the flow: last. Rule: the test sentences are checked against their hash; every figure printed is measured here and now.

    python -m training.evaluate                 # the test set
    python -m training.evaluate --dev           # sixty other sentences with two training voices, for choosing decoder weights
"""

import argparse
import time

import numpy as np

from . import effects, lm, tokens
from .corpus import test_sentences
from .decode import beam_text, greedy
from .export import PACK
from .grammar import FOLDER
from .pack import read_lexicon
from .recogniser import Recogniser
from .voices import HELD_OUT, Espeak, flite


def word_errors(reference, hypothesis):
    """Substitutions, deletions and insertions of the cheapest alignment."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def noisy(wave, index):
    """A room, noise at 10 dB below the speech, Opus at 16 kbit/s: seeded by the sentence's number."""
    random = np.random.default_rng([30, index])
    return effects.opus(effects.add_noise(effects.room(wave, random), random, 10.0), 16)


def main():
    parser = argparse.ArgumentParser(description="word error rates of the pack")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--sentences", type=int, default=0, help="only the first so many")
    parser.add_argument("--set", nargs="*", default=[], help="decoder options to try, name=value")
    parser.add_argument("--conditions", default="", help="only conditions whose name contains this")
    parser.add_argument("--show", type=int, default=0)
    arguments = parser.parse_args()
    sentences = (FOLDER / "dev_sentences.txt").read_text().splitlines() if arguments.dev else test_sentences()
    if arguments.sentences:
        sentences = sentences[:arguments.sentences]
    reader, lexicon = Recogniser(PACK), read_lexicon()
    model = lm.LanguageModel((PACK / "lm.bin").read_bytes())
    options = dict(reader.manifest["decoder"])
    options.update((k, float(v) if "." in v else int(v)) for k, v in (pair.split("=") for pair in arguments.set))
    known = set(lexicon.words)
    words = [w for s in sentences for w in s.split()]
    unknown = [w for w in words if w not in known]
    print(f"{len(sentences)} sentences, {len(words)} words, lexicon {len(known)}, out of vocabulary {100 * len(unknown) / len(words):.2f} % {sorted(set(unknown))}")
    espeak = Espeak()
    voices = ["en-us", "en-gb"] if arguments.dev else HELD_OUT
    conditions = [(f"{v} {kind}", (lambda s, v=v: 0.5 * espeak.say(s, v)), kind) for v in voices for kind in ("clean", "noisy")]
    if not arguments.dev:
        conditions += [("flite slt clean", flite, "clean"), ("flite kal16 clean", lambda s: flite(s, "kal16"), "clean")]
    pooled = {}
    for name, say, kind in conditions:
        if arguments.conditions not in name:
            continue
        errors, total, seconds, spent, beam_spent, delays = np.zeros(2, int), 0, 0.0, 0.0, 0.0, []
        for index, sentence in enumerate(sentences):
            wave = say(sentence)
            if kind == "noisy":
                wave = noisy(wave, index)
            seconds += len(wave) / 16000
            begun = time.process_time()
            log_probs = reader.log_probs(wave)
            spent += time.process_time() - begun
            begun = time.process_time()
            texts = greedy(log_probs, reader.symbols), beam_text(log_probs, reader.symbols, lexicon, model, **options)
            beam_spent += time.process_time() - begun
            ends = np.flatnonzero(log_probs.argmax(-1) == tokens.WORD_END)
            if len(ends):  # output j is known 40 (j + 1) + 15 ms after the first sample; the speech ends 20 ms before the wave does
                delays.append(40 * (ends[-1] + 1) + 15 - (len(wave) / 16 - 20))
            reference = sentence.split()
            errors += [word_errors(reference, text.split()) for text in texts]
            total += len(reference)
            if index < arguments.show:
                print(f"   {sentence}\n   {texts[0]}\n   {texts[1]}\n")
        print(f"{name:24} WER greedy {100 * errors[0] / total:5.1f} %  beam {100 * errors[1] / total:5.1f} %   "
              f"model and features {spent / seconds:.4f} x real time, beam (Python) {beam_spent / seconds:.3f}, "
              f"last word end {np.median(delays) if delays else float('nan'):.0f} ms after the speech (median)", flush=True)
        group = "flite" if "flite" in name else kind
        counted = pooled.setdefault(group, np.zeros(3, int))
        counted += [errors[0], errors[1], total]
    for group, (greedy_errors, beam_errors, total) in pooled.items():
        print(f"pooled {group:17} WER greedy {100 * greedy_errors / total:5.1f} %  beam {100 * beam_errors / total:5.1f} %  ({total} words)")


if __name__ == "__main__":
    main()
