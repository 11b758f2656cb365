"""Optimum's exports, and the smaller forms that packs come in."""
import pathlib
import shutil
import tempfile

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.exporters.onnx import main_export

GRAPHS = ["encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"]


def export(model, folder, task, **options):
    """Exports a model of transformers and returns the folder of its ONNX files, a temporary one that the caller removes."""
    target = pathlib.Path(folder)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        main_export(saved, output=target, task=task, do_validation=False, no_post_process=False, **options)
    return target


def exported(model, keep_in, task, graphs=GRAPHS, **options):
    """Exports and copies the named graphs to `keep_in`."""
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder, task, **options)
        for name in graphs:
            shutil.copy(pathlib.Path(folder) / f"{name}.onnx", keep_in / f"{name}.onnx")


def int8(path: pathlib.Path):
    """Dynamic quantisation, as `optimum-cli onnxruntime quantize` does it; `name_int8.onnx` stands beside `name.onnx`."""
    target = path.with_name(f"{path.stem}_int8.onnx")
    quantize_dynamic(str(path), str(target), weight_type=QuantType.QUInt8, op_types_to_quantize=["MatMul"], extra_options={"EnableSubgraph": True})
    return target


def fp16(path: pathlib.Path):
    """16-bit floats throughout, inputs and outputs included."""
    target = path.with_name(f"{path.stem}_fp16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=False, disable_shape_infer=True), str(target))
    return target
