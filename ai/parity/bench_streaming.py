"""Times sherpa-onnx on a streaming transducer of usual size and random weights, on one thread; makes the pack first.

    python -m parity.bench_streaming FOLDER          # makes the pack, then times sherpa-onnx
    cargo run --release -p auralink-ai --example bench_streaming FOLDER    # times ours over the same files
"""
import pathlib
import sys
import time

import numpy as np
import sherpa_onnx

from . import transducer
from .transducer import CHUNK, F32, I64, MELS, RATE, SUBSAMPLING, WINDOW, Graph, states

WIDTH, BLOCKS, VOCABULARY, SECONDS, ROUNDS = 256, 16, 500, 20, 3


def encoder(path):
    """As `transducer.encoder`, with blocks of a usual network's work: 8.4 million weights."""
    graph = Graph(81)
    inputs, outputs = [("x", F32, ["N", WINDOW, MELS])], [("encoder_out", F32, ["N", CHUNK // SUBSAMPLING, WIDTH])]
    frames = graph("Slice", "x", graph.constant([0], np.int64), graph.constant([CHUNK], np.int64), graph.constant([1], np.int64))
    heard = graph("MatMul", graph("Reshape", frames, graph.constant([0, CHUNK // SUBSAMPLING, SUBSAMPLING * MELS], np.int64)), graph.weight(SUBSAMPLING * MELS, WIDTH))
    for _ in range(BLOCKS):
        inner = graph("Relu", graph("MatMul", graph("Tanh", heard), graph.weight(WIDTH, 4 * WIDTH)))
        heard = graph("Add", heard, graph("MatMul", inner, graph.weight(4 * WIDTH, WIDTH)))
    for name, shape, axis in states():
        others = [index for index in range(len(shape)) if index != axis]
        mean = graph("Reshape", graph("ReduceMean", name, axes=others, keepdims=0), graph.constant([-1, 1, 1], np.int64))
        heard = graph("Add", heard, graph("Mul", mean, graph.constant(graph.random.normal(0, 1.0, [1, 1, WIDTH]))))
        free = list(shape)
        free[axis] = "N"
        inputs.append((name, F32, free))
        outputs.append((f"new_{name}", F32, free))
    out = graph("Tanh", heard, name="encoder_out")
    for index, (name, shape, axis) in enumerate(states()):
        share = graph("Gather", graph("ReduceMean", out, axes=[1], keepdims=0), graph.constant(index, np.int64), axis=1)
        target = [1] * len(shape)
        target[axis] = -1
        fresh = graph("Reshape", share, graph.constant(target, np.int64))
        graph("Add", graph("Mul", name, graph.constant(0.7)), fresh, name=f"new_{name}")
    inputs.append(("processed_lens", I64, ["N"]))
    outputs.append(("new_processed_lens", I64, ["N"]))
    graph("Add", "processed_lens", graph.constant([CHUNK // 2], np.int64), name="new_processed_lens")
    each = lambda key: ",".join(str(stack[key]) for stack in transducer.STACKS)
    graph.save(path, inputs, outputs, {
        "model_type": "zipformer2", "version": 1, "model_author": "bench", "comment": "random weights",
        "decode_chunk_len": CHUNK, "T": WINDOW, "num_encoder_layers": each("layers"), "encoder_dims": each("dim"), "cnn_module_kernels": each("kernel"),
        "left_context_len": each("left"), "query_head_dims": each("keys"), "value_head_dims": each("values"), "num_heads": "2,2",
    })


def pack(folder):
    folder.mkdir(parents=True, exist_ok=True)
    transducer.STACKS[:] = [dict(layers=2, dim=192, keys=32, values=12, left=128, kernel=31), dict(layers=2, dim=256, keys=32, values=12, left=64, kernel=31)]
    transducer.D, transducer.PIECES[:] = WIDTH, ["<blk>", "<sos/eos>", "<unk>"] + [f"\u2581w{index}" for index in range(VOCABULARY - 3)]
    transducer.tokens(folder)
    encoder(folder / "encoder.onnx")
    transducer.decoder(folder / "decoder.onnx", 82)
    transducer.joiner(folder / "joiner.onnx", 83, 6.0)


def sound(seed):
    return (0.1 * np.random.default_rng(seed).normal(size=SECONDS * RATE)).astype(np.float32)


def hear(recogniser, count):
    streams = [recogniser.create_stream() for _ in range(count)]
    pieces = [sound(index) for index in range(count)]
    begun = time.perf_counter()
    for start in range(0, SECONDS * RATE, RATE * CHUNK // 100):
        for stream, samples in zip(streams, pieces):
            stream.accept_waveform(RATE, samples[start : start + RATE * CHUNK // 100])
        ready = [stream for stream in streams if recogniser.is_ready(stream)]
        if ready:
            recogniser.decode_streams(ready)
    return (time.perf_counter() - begun) / (count * SECONDS), sum(len(recogniser.tokens(stream)) for stream in streams)


def main(folder):
    folder = pathlib.Path(folder)
    pack(folder)
    names = {part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner")}
    recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), **names, num_threads=1)
    hear(recogniser, 1)
    for count in (1, 4, 16):
        timed = sorted(hear(recogniser, count) for _ in range(ROUNDS))
        print(f"sherpa-onnx, {count} streams: {timed[0][0]:.5f} of real time each (median {timed[ROUNDS // 2][0]:.5f}), {timed[0][1]} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
