"""Runs `python -m mer_jax.main` and fails if TensorFlow was imported by training, evaluation or the report."""

import atexit
import os
import runpy
import sys


def check():
    if "tensorflow" in sys.modules:
        print("TensorFlow was imported", file=sys.stderr, flush=True)
        os._exit(99)


if __name__ == "__main__":
    atexit.register(check)
    runpy.run_module("mer_jax.main", run_name="__main__")
