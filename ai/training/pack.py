"""Assembles the pack folder: model, tokens, words, language model, manifest, golden utterance.

Place in the flow: after `train.py`; `evaluate.py` then measures it. Rule: the manifest says everything a reader needs; files carry their SHA-256.

    python -m training.pack              # from the checkpoint in the cache, or from the committed weights when there is none
"""

import hashlib
import json
import sys

import numpy as np
import soundfile

from . import export, lm, tokens
from .corpus import CACHE, Text, test_sentences
from .decode import Lexicon, beam_text, greedy
from .export import PACK, STATES
from .features import SPEC, log_mel
from .model import BLOCKS, KERNEL
from .recogniser import Recogniser
from .voices import HELD_OUT, Espeak

LM_SENTENCES = 100_000   # more of them lets the grammar speak louder than the language: perplexity on dev_sentences rises again
CHUNK, SUBSAMPLING = 8, 4  # 80 ms: 16 cost 30 % less time and 70 ms more delay
DECODER = {"type": "ctc_prefix_beam", "beam": 24, "lm_weight": 0.5, "word_bonus": 2.0, "unknown_penalty": -20.0, "token_threshold": -7.0,
           "beam_threshold": 14.0, "tail_padding_ms": 480}


def write_language_model():
    text = Text(7)
    words = text.words
    known = set(words)
    sentences = (s for s in (text.sentence().split() for _ in range(LM_SENTENCES)) if known.issuperset(s))
    (PACK / "lm.bin").write_bytes(lm.train(sentences, words))
    symbols = tokens.SYMBOLS
    lines = [f"{word}\t{' '.join(symbols[i] for i in tokens.spell(word))}" for word in words]
    (PACK / "words.txt").write_text("\n".join(lines) + "\n")


def read_lexicon():
    entries = (line.split("\t") for line in (PACK / "words.txt").read_text().splitlines())
    return Lexicon((word, [tokens.ID[s] for s in spelling.split(" ")]) for word, spelling in entries)


def manifest(version, decoder):
    files = {name: {"sha256": hashlib.sha256((PACK / name).read_bytes()).hexdigest(), "bytes": (PACK / name).stat().st_size}
             for name in ("model.onnx", "tokens.txt", "words.txt", "lm.bin")}
    states = [{"input": name, "output": "new_" + name, "shape": ["N"] + shape, "dtype": "float32", "initial": 0.0}
              for name, shape in STATES.items()]
    return {
        "format": "auralink-ctc", "format_version": 1, "name": "en-demo", "version": version, "language": "en", "task": "automatic-speech-recognition",
        "description": "Demonstrator trained on synthetic speech alone; not tested on human speech. See CARD.md.", "licence": "Apache-2.0",
        "features": SPEC,
        "model": {
            "file": "model.onnx", "type": "streaming_ctc", "opset": 17, "input": "x", "input_shape": ["N", "T", SPEC["n_mels"]],
            "output": "log_probs", "output_shape": ["N", "T/4", len(tokens.SYMBOLS)], "output_scale": "natural_log_softmax",
            "chunk_frames": CHUNK, "subsampling": SUBSAMPLING, "frame_ms": 10, "output_ms": 10 * SUBSAMPLING, "look_ahead_ms": 0,
            "emission_delay_ms": 250,  # measured: `cargo run -p auralink-ai --example latency`
            "left_context_ms": BLOCKS * (KERNEL - 1) * 40 + 120, "states": states,
            "note": "T is any multiple of 4, N any batch; feature normalisation is inside; output j depends on frames <= 4 j + 3",
        },
        "tokens": {"file": "tokens.txt", "count": len(tokens.SYMBOLS), "blank": tokens.BLANK, "word_end": tokens.WORD_END,
                   "word_end_symbol": "\u2581", "note": "the word end follows every word; a token's symbol is its text"},
        "lexicon": {"file": "words.txt", "format": "word TAB token symbols separated by spaces; the line number is the word id"},
        "lm": {"file": "lm.bin", "format": "AURALM01", "order": 3, "unit": "1/1000 natural log",
               "layout": "magic[8], u32 W B T, i16[W] logp1, i16[W] backoff1, u32[W+1] start1, u16[B] word2, i16[B] logp2, i16[B] backoff2, "
                         "u32[B+1] start2, u16[T] word3, i16[T] logp3; little-endian; ids 0..W-3 are words.txt lines, W-2 <s>, W-1 </s>"},
        "decoder": decoder,
        "files": files,
    }


def write_golden():
    """One utterance of a held-out voice and what every stage makes of it, for readers in other languages to compare with."""
    text = "we will discuss the results after lunch and send you a short report"
    assert text not in test_sentences()
    wave = 0.5 * Espeak().say(text, HELD_OUT[1])
    soundfile.write(PACK / "golden.wav", wave, 16000, subtype="PCM_16")
    samples, _ = soundfile.read(PACK / "golden.wav", dtype="float32")  # PCM_16 / 32768, as any reader has it
    reader = Recogniser(PACK)
    chunked, whole = reader.log_probs(samples), reader.log_probs(samples, whole=True)
    difference = float(np.abs(chunked - whole[:len(chunked)]).max())
    if difference > 1e-3:
        raise SystemExit(f"chunked and whole runs differ by {difference}")
    options = reader.manifest["decoder"]
    golden = {
        "wav": "golden.wav", "samples": len(samples), "sample_scale": "int16 / 32768", "text": text, "voice": HELD_OUT[1],
        "tail_padding_samples": 16 * options["tail_padding_ms"], "tolerance": 1e-3,
        "features_first_20_frames": np.round(log_mel(samples)[:20], 5).tolist(), "feature_frames": int((len(samples) + 16 * options["tail_padding_ms"] - 400) // 160 + 1),
        "chunks": [{"argmax": chunk.argmax(-1).tolist(), "max": np.round(chunk.max(-1), 5).tolist(), "mean": round(float(chunk.mean()), 5)}
                   for chunk in chunked.reshape(-1, CHUNK // SUBSAMPLING, chunked.shape[-1])],
        "log_probs_output_20": np.round(chunked[20], 5).tolist(),
        "greedy": greedy(chunked, reader.symbols),
        "beam": beam_text(chunked, reader.symbols, read_lexicon(), lm.LanguageModel((PACK / "lm.bin").read_bytes()), **options),
        "chunked_minus_whole_max": difference,
    }
    (PACK / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    print("golden:", golden["greedy"], "|", golden["beam"])


def main(version="0.3.0"):
    PACK.mkdir(parents=True, exist_ok=True)
    checkpoint = CACHE / "checkpoint.pt"
    if checkpoint.exists():
        model = export.build(export.weights_from_checkpoint(checkpoint), len(tokens.SYMBOLS))
        (PACK / "model.onnx").write_bytes(model.SerializeToString())
    elif not (PACK / "model.onnx").exists():
        raise SystemExit("no checkpoint in the cache and no model.onnx in the pack: run python -m training.train first")
    (PACK / "tokens.txt").write_text("".join(f"{symbol} {index}\n" for index, symbol in enumerate(tokens.SYMBOLS)))
    if not (PACK / "lm.bin").exists() or "--lm" in sys.argv:
        write_language_model()
    (PACK / "manifest.json").write_text(json.dumps(manifest(version, DECODER), indent=1, ensure_ascii=False) + "\n")
    write_golden()


if __name__ == "__main__":
    main()
