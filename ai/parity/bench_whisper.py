"""Times Whisper in `transformers` over ONNX Runtime (Optimum), on one thread: `python -m parity.bench_whisper FOLDER [TOKENS]`."""
import sys
import time

import numpy as np
import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
from transformers import GenerationConfig, WhisperFeatureExtractor

ROUNDS = 3


def main(folder, tokens=60):
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = ORTModelForSpeechSeq2Seq.from_pretrained(folder, use_merged=True, session_options=options)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    time_axis = np.arange(480_000, dtype=np.float32)
    samples = 0.3 * np.sin(time_axis * 0.05) * np.sin(time_axis * 0.0001)
    extractor = WhisperFeatureExtractor()

    def timed(name, run):
        run()
        begun = time.perf_counter()
        for _ in range(ROUNDS):
            answer = run()
        print(f"{name}: {(time.perf_counter() - begun) * 1e3 / ROUNDS:.1f} ms for {answer} tokens")

    features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features

    def encode():
        heard = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        model.encoder(heard, attention_mask=None)
        return 0

    timed("encode", encode)
    for beams in (1, 5):
        timed(
            f"encode and decode with {beams} beams",
            lambda: model.generate(features, language="en", num_beams=beams, max_new_tokens=int(tokens)).shape[1],
        )


main(*sys.argv[1:])
