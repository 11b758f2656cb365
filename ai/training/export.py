"""Writes the trained recogniser as `model.onnx`: the arithmetic of `model.py`, one chunk at a time, with its states as tensors.

Place in the flow: after `train.py`, before `pack.py`. Rule: the graph is written out node by node from plain operators (opset 17), weights are
stored as float16 and cast once when the model is loaded; initialisers carry the names of the network's parameters, so that training
can start again from a pack.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from .grammar import FOLDER
from .model import BLOCKS, EPSILON, FRONT, FRONT_KERNEL, KERNEL, MEAN, MELS, SCALE, WIDTH

PACK = FOLDER.parent / "packs" / "en-demo"
STATES = {"state_front1": [MELS, FRONT_KERNEL - 2], "state_front2": [FRONT, FRONT_KERNEL - 2], "state_blocks": [BLOCKS, WIDTH, KERNEL - 1]}


def build(weights, symbols):
    """weights: name -> float32 array, as in `Recogniser.state_dict()`."""
    nodes, initialisers = [], []

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(name, array):
        initialisers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(name):
        constant(name, weights[name].astype(np.float16))
        return node("Cast", [name], name + ".f32", to=TensorProto.FLOAT)

    def rms(x, gain, name):
        square = node("Mul", [x, x], name + "_square")
        mean = node("ReduceMean", [square], name + "_mean", axes=[-1], keepdims=1)
        root = node("Sqrt", [node("Add", [mean, "epsilon"], name + "_safe")], name + "_root")
        return node("Mul", [node("Div", [x, root], name + "_unit"), weight(gain)], name + "_rms")

    def with_state(state, x, keep, name):
        """[N, C, S] before [N, C, T] along time; the last `keep` columns are the next state."""
        joined = node("Concat", [state, x], name + "_joined", axis=2)
        start = constant(name + "_start", np.array([-keep], np.int64))
        return joined, node("Slice", [joined, start, "far", "time"], name + "_kept")

    constant("epsilon", np.array(EPSILON, np.float32))
    constant("far", np.array([2 ** 31 - 1], np.int64))
    constant("time", np.array([2], np.int64))
    constant("one", np.array([1], np.int64))
    centred = node("Sub", ["x", constant("mean", np.array(MEAN, np.float32))], "centred")
    scaled = node("Div", [centred, constant("scale", np.array(SCALE, np.float32))], "scaled")
    x = node("Transpose", [scaled], "bands", perm=[0, 2, 1])
    for number in (1, 2):
        joined, kept = with_state(f"state_front{number}", x, FRONT_KERNEL - 2, f"front{number}")
        node("Identity", [kept], f"new_state_front{number}")
        y = node("Conv", [joined, weight(f"front{number}.weight"), weight(f"front{number}.bias")], f"front{number}_conv", strides=[2], pads=[0, 0], dilations=[1])
        x = node("Relu", [y], f"front{number}_out")
    x = node("Transpose", [x], "rows", perm=[0, 2, 1])                           # [N, T / 4, WIDTH] between the blocks
    states = []
    for block in range(BLOCKS):
        name = f"blocks.{block}"
        index = constant(name + "_index", np.array(block, np.int64))
        state = node("Gather", ["state_blocks", index], name + "_state", axis=1)
        columns = node("Transpose", [x], name + "_columns", perm=[0, 2, 1])
        joined, kept = with_state(state, columns, KERNEL - 1, name)
        states.append(node("Unsqueeze", [kept, "one"], name + "_kept4"))
        # taps[k, channel] of the training form is the depthwise kernel [channel, 1, k]
        constant(name + ".taps", weights[name + ".taps"].T[:, None, :].astype(np.float16))
        taps = node("Cast", [name + ".taps"], name + ".taps.f32", to=TensorProto.FLOAT)
        y = node("Conv", [joined, taps, weight(name + ".bias")], name + "_conv", group=WIDTH, strides=[1], pads=[0, 0], dilations=[1])
        y = rms(node("Transpose", [y], name + "_mixed", perm=[0, 2, 1]), name + ".gain", name)
        for part, relu in (("up", True), ("down", False)):
            # stored transposed, ready for MatMul
            constant(f"{name}.{part}.weight", weights[f"{name}.{part}.weight"].T.astype(np.float16))
            matrix = node("Cast", [f"{name}.{part}.weight"], f"{name}.{part}.weight.f32", to=TensorProto.FLOAT)
            y = node("MatMul", [y, matrix], f"{name}_{part}_product")
            y = node("Add", [y, weight(f"{name}.{part}.bias")], f"{name}_{part}")
            if relu:
                y = node("Relu", [y], f"{name}_relu")
        x = node("Add", [x, y], name + "_out")
    node("Concat", states, "new_state_blocks", axis=1)
    constant("out.weight", weights["out.weight"].T.astype(np.float16))
    matrix = node("Cast", ["out.weight"], "out.weight.f32", to=TensorProto.FLOAT)
    logits = node("Add", [node("MatMul", [rms(x, "gain", "last"), matrix], "out_product"), weight("out.bias")], "logits")
    node("LogSoftmax", [logits], "log_probs", axis=-1)

    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    inputs = [tensor("x", ["N", "T", MELS])] + [tensor(k, ["N"] + v) for k, v in STATES.items()]
    outputs = [tensor("log_probs", ["N", "T_out", symbols])] + [tensor("new_" + k, ["N"] + v) for k, v in STATES.items()]
    graph = helper.make_graph(nodes, "auralink_ctc", inputs, outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="auralink-training")
    onnx.checker.check_model(model)
    return model


def weights_from_pack():
    """The committed model's weights as a state dict of `Recogniser`."""
    found = {}
    for tensor in onnx.load(PACK / "model.onnx").graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        if tensor.name.endswith(".taps"):
            array = array[:, 0, :].T
        elif tensor.name == "out.weight" or tensor.name.endswith((".up.weight", ".down.weight")):
            array = array.T
        if tensor.name == "gain" or "." in tensor.name and not tensor.name.endswith(("_index", "_start")):
            found[tensor.name] = torch.from_numpy(array.copy())
    return found


def weights_from_checkpoint(path):
    return {name: value.float().cpu().numpy() for name, value in torch.load(path, map_location="cpu")["average"].items()}
