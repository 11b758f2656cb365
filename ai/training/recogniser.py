"""Runs a pack: features into the ONNX model chunk by chunk, states carried along. The reference for the server's recogniser.

Place in the flow: between `features.py` and `decode.py`. Rule: reads the pack's manifest and nothing of the training code but the features.
"""

import json

import numpy as np
import onnxruntime

from .features import log_mel


class Recogniser:
    def __init__(self, pack, threads=1):
        self.manifest = json.loads((pack / "manifest.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(pack / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.states = [(s["input"], s["output"], s["shape"]) for s in self.manifest["model"]["states"]]
        self.chunk = self.manifest["model"]["chunk_frames"]
        self.factor = self.manifest["model"]["subsampling"]
        lines = (pack / "tokens.txt").read_text().splitlines()
        self.symbols = [line.rsplit(" ", 1)[0] for line in lines]

    def fresh_states(self, streams=1):
        return {name: np.zeros([streams] + list(shape[1:]), np.float32) for name, _, shape in self.states}

    def step(self, features, states):
        """[N, T, mels] -> log_probs [N, T / 4, V] and the states after it."""
        names = ["log_probs"] + [output for _, output, _ in self.states]
        log_probs, *new = self.session.run(names, {"x": features, **states})
        return log_probs, {name: value for (name, _, _), value in zip(self.states, new)}

    def log_probs(self, samples, whole=False):
        """All outputs for one utterance, ended by `tail_padding_ms` of zeros so that the last word can be emitted."""
        tail = np.zeros(16 * self.manifest["decoder"]["tail_padding_ms"], np.float32)
        features = log_mel(np.concatenate([samples, tail]))
        size = len(features) // self.factor * self.factor if whole else self.chunk
        states, parts = self.fresh_states(), []
        for start in range(0, len(features) - size + 1, size):
            out, states = self.step(features[None, start:start + size], states)
            parts.append(out[0])
        return np.concatenate(parts)
