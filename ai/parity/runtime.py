"""Small graphs that hold the runtime seam to its promises: 16-bit floats, truth values, empty axes, metadata, data beside the file.

    python -m parity runtime
"""
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name, element, shape):
    return helper.make_tensor_value_info(name, element, shape)


def save(path, nodes, inputs, outputs, initialisers=(), metadata=None, **options):
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, list(initialisers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(path), **options)


def make(folder: pathlib.Path):
    """Writes the graphs into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    f32, f16, i64, boolean = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL

    half = numpy_helper.from_array(np.array([0.5], np.float16), "half")
    save(folder / "halves.onnx", [helper.make_node("Mul", ["x", "half"], ["y"])], [value("x", f16, ["N"])], [value("y", f16, ["N"])], [half])

    # A cache as Optimum's merged decoders have it: nothing at first, then what came before and what is new.
    branch = lambda name, nodes: helper.make_graph(nodes, name, [], [value(f"{name}_present", f32, ["P", 2])])
    with_cache = branch("with", [helper.make_node("Concat", ["past", "x"], ["with_present"], axis=0)])
    without = branch("without", [helper.make_node("Identity", ["x"], ["without_present"])])
    save(
        folder / "cache.onnx",
        [
            helper.make_node("If", ["use_cache_branch"], ["present"], then_branch=with_cache, else_branch=without),
            helper.make_node("ReduceSum", ["present"], ["sum"], keepdims=0),
        ],
        [value("x", f32, ["T", 2]), value("past", f32, ["P", 2]), value("use_cache_branch", boolean, [1])],
        [value("present", f32, ["P1", 2]), value("sum", f32, [])],
        metadata={"model_type": "cache", "T": "45"},
    )

    table = numpy_helper.from_array(np.arange(512, dtype=np.float32), "table")
    save(
        folder / "external.onnx",
        [helper.make_node("Gather", ["table", "at"], ["y"])],
        [value("at", i64, ["N"])],
        [value("y", f32, ["N"])],
        [table],
        save_as_external_data=True,
        location="external.onnx_data",
        size_threshold=0,
    )
