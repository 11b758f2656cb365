"""Small transducers of random weights in sherpa-onnx's layout, and what its own runtime hears with them.

    python -m parity transducer

Every network has the tensors and the metadata of the real exports, and nothing of their inside: what matters is that each state counts and
that each step is the next one's past.
"""
import json
import pathlib
import shutil
import wave

import kaldi_native_fbank as knf
import numpy as np
import onnx
import sherpa_onnx
from onnx import TensorProto, helper, numpy_helper

RATE, MELS = 16_000, 80
WINDOW, CHUNK, SUBSAMPLING = 45, 32, 4
D, CONTEXT = 16, 2
PIECES = ["<blk>", "<sos/eos>", "<unk>"] + [f"\u2581{word}" for word in "the a of to in and we go red".split()] + list("的一是不了人我在有他这中大来上国") + ["ing", "er", "qu"]
STACKS = [dict(layers=1, dim=8, keys=6, values=4, left=12, kernel=5), dict(layers=2, dim=12, keys=4, values=6, left=6, kernel=7)]
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


class Graph:
    """Nodes as they are written, with weights drawn by a seed."""

    def __init__(self, seed):
        self.random, self.nodes, self.weights, self.count = np.random.default_rng(seed), [], [], 0

    def __call__(self, op, *inputs, outputs=1, name=None, **attributes):
        self.count += 1
        names = [name] if name else [f"n{self.count}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, values, kind=np.float32):
        self.count += 1
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), f"c{self.count}"))
        return self.weights[-1].name

    def weight(self, *shape, scale=1.0):
        return self.constant(self.random.normal(0, scale / np.sqrt(shape[0]), shape))

    def save(self, path, inputs, outputs, metadata):
        info = lambda tensors: [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in tensors]
        model = helper.make_model(
            helper.make_graph(self.nodes, path.stem, info(inputs), info(outputs), self.weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        )
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def states():
    """Name, shape with 1 for the streams, axis of the streams, and type of each state of a streaming Zipformer2."""
    found, layer = [], 0
    for stack in STACKS:
        for _ in range(stack["layers"]):
            left, dim = stack["left"], stack["dim"]
            found += [
                (f"cached_key_{layer}", [left, 1, stack["keys"] * 2], 1),
                (f"cached_nonlin_attn_{layer}", [1, 1, left, 3 * dim // 4], 1),
                (f"cached_val1_{layer}", [left, 1, stack["values"] * 2], 1),
                (f"cached_val2_{layer}", [left, 1, stack["values"] * 2], 1),
                (f"cached_conv1_{layer}", [1, dim, stack["kernel"] // 2], 0),
                (f"cached_conv2_{layer}", [1, dim, stack["kernel"] // 2], 0),
            ]
            layer += 1
    found.append(("embed_states", [1, 128, 3, 19], 0))
    return found


def log_probs(graph, out, blank):
    """Of tokens, for CTC: the blank likelier by `blank`."""
    bias = np.zeros(len(PIECES))
    bias[0] = blank
    graph("LogSoftmax", graph("Add", graph("MatMul", out, graph.weight(D, len(PIECES), scale=3.0)), graph.constant(bias)), axis=-1, name="log_probs")


def encoder(path, seed, ctc=False):
    graph = Graph(seed)
    inputs = [("x", F32, ["N", WINDOW, MELS])]
    outputs = [("log_probs", F32, ["N", CHUNK // SUBSAMPLING, len(PIECES)]) if ctc else ("encoder_out", F32, ["N", CHUNK // SUBSAMPLING, D])]
    frames = graph("Slice", "x", graph.constant([0], np.int64), graph.constant([CHUNK], np.int64), graph.constant([1], np.int64))
    ahead = graph("ReduceMean", "x", axes=[1], keepdims=1)
    groups = graph("Reshape", frames, graph.constant([0, CHUNK // SUBSAMPLING, SUBSAMPLING * MELS], np.int64))
    scaled = graph("Mul", groups, graph.constant(0.25))
    heard = graph("Add", graph("MatMul", scaled, graph.weight(SUBSAMPLING * MELS, D, scale=2.0)), graph("MatMul", ahead, graph.weight(MELS, D, scale=0.3)))
    for name, shape, axis in states():
        others = [index for index in range(len(shape)) if index != axis]
        # [N] as [N, 1, 1]: one number of each state, which all outputs have a share of.
        mean = graph("Reshape", graph("ReduceMean", name, axes=others, keepdims=0), graph.constant([-1, 1, 1], np.int64))
        heard = graph("Add", heard, graph("Mul", mean, graph.constant(graph.random.normal(0, 1.2, [1, 1, D]))))
    lens = graph("Reshape", graph("Mul", graph("Cast", "processed_lens", to=F32), graph.constant(0.01)), graph.constant([-1, 1, 1], np.int64))
    heard = graph("Add", heard, graph("Mul", graph("Sin", lens), graph.constant(graph.random.normal(0, 0.4, [1, 1, D]))))
    out = graph("Tanh", heard, name="hidden" if ctc else "encoder_out")
    if ctc:
        log_probs(graph, out, 2.0)
    for index, (name, shape, axis) in enumerate(states()):
        free = list(shape)
        free[axis] = "N"
        inputs.append((name, F32, free))
        outputs.append((f"new_{name}", F32, free))
        # What was, fading, and what was heard now.
        share = graph("Gather", graph("ReduceMean", out, axes=[1], keepdims=0), graph.constant(index % D, np.int64), axis=1)
        target = [1] * len(shape)
        target[axis] = -1
        fresh = graph("Reshape", share, graph.constant(target, np.int64))
        wave_ = graph.constant(np.cos(np.arange(int(np.prod(shape)))).reshape(shape))
        graph("Tanh", graph("Add", graph("Mul", name, graph.constant(0.7)), graph("Mul", fresh, wave_)), name=f"new_{name}")
    inputs.append(("processed_lens", I64, ["N"]))
    outputs.append(("new_processed_lens", I64, ["N"]))
    graph("Add", "processed_lens", graph.constant([CHUNK // 2], np.int64), name="new_processed_lens")
    each = lambda key: ",".join(str(stack[key]) for stack in STACKS)
    graph.save(path, inputs, outputs, {
        "model_type": "zipformer2", "version": 1, "model_author": "parity", "comment": "random weights",
        "decode_chunk_len": CHUNK, "T": WINDOW, "num_encoder_layers": each("layers"), "encoder_dims": each("dim"), "cnn_module_kernels": each("kernel"),
        "left_context_len": each("left"), "query_head_dims": each("keys"), "value_head_dims": each("values"), "num_heads": "2,2",
    })


def offline_encoder(path, seed, ctc=False):
    graph = Graph(seed)
    shape = graph("Shape", "x")
    frames = graph("Gather", shape, graph.constant([1], np.int64))
    whole = graph("Mul", graph("Div", frames, graph.constant([SUBSAMPLING], np.int64)), graph.constant([SUBSAMPLING], np.int64))
    cut = graph("Slice", "x", graph.constant([0], np.int64), whole, graph.constant([1], np.int64))
    groups = graph("Mul", graph("Reshape", cut, graph.constant([0, -1, SUBSAMPLING * MELS], np.int64)), graph.constant(0.25))
    heard = graph("MatMul", groups, graph.weight(SUBSAMPLING * MELS, D, scale=2.0))
    mean = graph("ReduceMean", heard, axes=[1], keepdims=1)
    out = graph("Tanh", graph("Sub", heard, mean), name="hidden" if ctc else "encoder_out")
    names = ("log_probs", "log_probs_len") if ctc else ("encoder_out", "encoder_out_lens")
    if ctc:
        log_probs(graph, out, 2.0)
    graph("Div", "x_lens", graph.constant([SUBSAMPLING], np.int64), name=names[1])
    width = len(PIECES) if ctc else D
    graph.save(
        path, [("x", F32, ["N", "T", MELS]), ("x_lens", I64, ["N"])], [(names[0], F32, ["N", "T4", width]), (names[1], I64, ["N"])],
        {"model_type": "zipformer2_ctc" if ctc else "zipformer2", "version": 1, "model_author": "parity", "comment": "non-streaming"},
    )


def decoder(path, seed):
    graph = Graph(seed)
    embedded = graph("Gather", graph.constant(graph.random.normal(0, 1.0, [len(PIECES), D])), "y")
    first = graph("Mul", embedded, graph.constant(np.array([0.6, 1.0])[None, :, None]))
    graph("MatMul", graph("ReduceSum", first, graph.constant([1], np.int64), keepdims=0), graph.weight(D, D), name="decoder_out")
    graph.save(path, [("y", I64, ["N", CONTEXT])], [("decoder_out", F32, ["N", D])], {"context_size": CONTEXT, "vocab_size": len(PIECES)})


def joiner(path, seed, blank):
    graph = Graph(seed)
    joined = graph("Tanh", graph("Add", "encoder_out", "decoder_out"))
    bias = np.zeros(len(PIECES))
    bias[0] = blank
    graph("Add", graph("MatMul", joined, graph.weight(D, len(PIECES), scale=3.0)), graph.constant(bias), name="logit")
    graph.save(path, [("encoder_out", F32, ["N", D]), ("decoder_out", F32, ["N", D])], [("logit", F32, ["N", len(PIECES)])], {"joiner_dim": D})


def tokens(folder):
    (folder / "tokens.txt").write_text("".join(f"{piece} {index}\n" for index, piece in enumerate(PIECES)), encoding="utf-8")


def speech():
    path = pathlib.Path(__file__).resolve().parent.parent / "packs" / "en-demo" / "golden.wav"
    with wave.open(str(path)) as file:
        assert file.getframerate() == RATE and file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def sounds():
    random, voice = np.random.default_rng(5), speech()
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12_345) / RATE)
    return {"speech": voice, "tone": tone.astype(np.float32), "noise": (0.05 * random.normal(size=20_000)).astype(np.float32), "silence": np.zeros(16_000, np.float32),
            "short": voice[8_000:8_700], "loud": np.clip(4 * voice[:40_000], -1, 1)}


def features(samples):
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges, options.frame_opts.samp_freq = 0, False, RATE
    options.mel_opts.num_bins, options.mel_opts.high_freq = MELS, -400
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(RATE, samples.tolist())
    bank.input_finished()
    return np.array([bank.get_frame(index) for index in range(bank.num_frames_ready)], np.float32)


def heard(result):
    return {"tokens": list(result.tokens), "timestamps": [round(float(at), 4) for at in result.timestamps], "text": result.text}


def online(folder, samples, piece, tail, **options):
    names = {part: str(folder / f"{part}-epoch-1-avg-1-chunk-16-left-128.onnx") for part in ("encoder", "decoder", "joiner")}
    if (folder / "model.onnx").exists():
        recogniser = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(tokens=str(folder / "tokens.txt"), model=str(folder / "model.onnx"), num_threads=1)
    else:
        recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), **names, num_threads=1, provider="cpu", **options)
    stream = recogniser.create_stream()
    segments = []
    def run():
        while recogniser.is_ready(stream):
            recogniser.decode_stream(stream)
            if options.get("enable_endpoint_detection") and recogniser.is_endpoint(stream):
                segments.append(heard(recogniser.get_result_all(stream)))
                recogniser.reset(stream)
    for start in range(0, len(samples), piece):
        stream.accept_waveform(RATE, samples[start : start + piece])
        run()
    stream.accept_waveform(RATE, np.zeros(int(tail * RATE), np.float32))
    stream.input_finished()
    run()
    result = recogniser.get_result_all(stream)
    return segments + [{**heard(result), "probs": [round(float(p), 4) for p in result.ys_probs]}]


def offline(folder, samples, **options):
    names = {part: str(folder / f"{part}-epoch-1-avg-1.onnx") for part in ("encoder", "decoder", "joiner")}
    if (folder / "model.onnx").exists():
        recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(tokens=str(folder / "tokens.txt"), model=str(folder / "model.onnx"), num_threads=1)
    else:
        recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(tokens=str(folder / "tokens.txt"), **names, num_threads=1, **options)
    stream = recogniser.create_stream()
    stream.accept_waveform(RATE, samples)
    recogniser.decode_stream(stream)
    return heard(stream.result)


def make(folder):
    shutil.rmtree(folder, ignore_errors=True)
    streaming, whole, ctc, whole_ctc = (folder / name for name in ("streaming", "offline", "streaming-ctc", "offline-ctc"))
    for part in (streaming, whole, ctc, whole_ctc):
        part.mkdir(parents=True)
        tokens(part)
    name = "epoch-1-avg-1-chunk-16-left-128"
    encoder(streaming / f"encoder-{name}.onnx", 61)
    decoder(streaming / f"decoder-{name}.onnx", 62)
    joiner(streaming / f"joiner-{name}.onnx", 63, 2.5)
    offline_encoder(whole / "encoder-epoch-1-avg-1.onnx", 71)
    decoder(whole / "decoder-epoch-1-avg-1.onnx", 72)
    joiner(whole / "joiner-epoch-1-avg-1.onnx", 73, 2.5)
    encoder(ctc / "model.onnx", 64, ctc=True)
    offline_encoder(whole_ctc / "model.onnx", 74, ctc=True)
    expected = {"features": {}, "streaming": [], "offline": [], "streaming-ctc": [], "offline-ctc": []}
    for sound, samples in sounds().items():
        samples.astype(np.float32).tofile(folder / f"{sound}.f32")
        frames = features(samples)
        expected["features"][sound] = {"frames": len(frames), "every": 25, "values": [[round(float(v), 5) for v in frame] for frame in frames[::25]]}
        expected["streaming-ctc"].append({"sound": sound, "tail": 0.5, "options": {}, "segments": online(ctc, samples, 3_200, 0.5)})
        expected["offline-ctc"].append({"sound": sound, "options": {}, **offline(whole_ctc, samples)})
        hotwords = folder / "hotwords.txt"
        hotwords.write_text("是有大 :2.5\n大我\n上我 :3.0\n")
        for options in [
            dict(decoding_method="modified_beam_search", max_active_paths=4, hotwords_file=str(hotwords), hotwords_score=2.0),
            dict(decoding_method="greedy_search"),
            dict(decoding_method="greedy_search", blank_penalty=1.5),
            dict(decoding_method="modified_beam_search", max_active_paths=4),
            dict(decoding_method="modified_beam_search", max_active_paths=2, blank_penalty=1.0),
        ]:
            found = online(streaming, samples, 3_200, 0.5, **options)
            whole_heard = offline(whole, samples, **options)
            options = {key: value for key, value in options.items() if key != "hotwords_file"}
            expected["streaming"].append({"sound": sound, "tail": 0.5, "options": options, "segments": found})
            expected["offline"].append({"sound": sound, "options": options, **whole_heard})
    (folder / "hotwords.txt").unlink()
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False), encoding="utf-8")
    for kind in ("streaming", "offline", "streaming-ctc", "offline-ctc"):
        rows = [case["segments"][-1]["tokens"] if "segments" in case else case["tokens"] for case in expected[kind]]
        print(kind, [len(row) for row in rows], "different tokens", len({token for row in rows for token in row}))
