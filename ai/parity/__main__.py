"""Makes the packs and the expected outputs of the parity tests: `python -m parity [FAMILY...]`, in the folder `ai`.

A family is a module of this package with a function `make(folder)`.
"""
import importlib
import os
import pathlib
import sys

FAMILIES = ["runtime", "whisper", "moonshine", "translation", "transducer"]


def main(names):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tests = pathlib.Path(__file__).resolve().parent.parent / "tests" / "parity"
    for name in names or FAMILIES:
        importlib.import_module(f"parity.{name}").make(tests / name)
        print(f"{name}: made", flush=True)


if os.environ.get("PYTHONHASHSEED") != "0":
    # Optimum goes through sets of names: in one order, so that the files come out alike.
    # Small networks: more threads only wait for one another.
    alike = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONHASHSEED": "0"}
    os.execve(sys.executable, [sys.executable, "-m", "parity", *sys.argv[1:]], alike)
main(sys.argv[1:])
