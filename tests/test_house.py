"""The rules of the house: arrows point down, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from the top of the house to its ground: a room imports itself and what is below
ROOMS = ("analysis", "systems", "evaluation", "training", "data", "nn")
GROUND = {"errors", "files", "progress", "settings"}  # modules of mer_jax that every room may use
TOP_ONLY = {
    "main",
    "run",
    "prepare",
    "stages",
    "pretraining",
    "convert",
    "plan",
    "ablation",
    "workdir",
    "startup",
    "rescore",
    "predict",
    "export",
    "compiling",
}


def imports(path):
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    above = set(ROOMS[: ROOMS.index(room)])
    for path in (ROOT / "mer_jax" / room).rglob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "tfds_builders":
                raise AssertionError(f"{path} imports {module}")
            if parts[0] == "mer_jax" and len(parts) > 1:
                assert parts[1] not in above | TOP_ONLY, f"{path} imports {module}"
                assert parts[1] in (*ROOMS, *GROUND) or len(parts) == 2, f"{path} imports {module}"


def test_nn_knows_only_jax_and_flax():
    for path in (ROOT / "mer_jax" / "nn").glob("*.py"):
        heads = {m.split(".")[0] for m in imports(path)} - set(sys.stdlib_module_names)
        assert heads <= {"jax", "flax", "numpy", "mer_jax", "einops", "__future__"}, path
        assert all(m.startswith("mer_jax.nn") for m in imports(path) if m.startswith("mer_jax.")), path


def test_training_knows_no_paper_and_no_score():
    for path in (ROOT / "mer_jax" / "training").glob("*.py"):
        assert not [m for m in imports(path) if m.startswith(("mer_jax.systems", "mer_jax.evaluation"))], path


def test_config_dicts_and_tensorflow_stay_where_they_belong():
    for path in (ROOT / "mer_jax").rglob("*.py"):
        found = set(imports(path))
        assert not {m for m in found if m.split(".")[0] == "tensorflow"}, path
        if path.name not in ("startup.py", "main.py", "run.py"):
            assert not {m for m in found if m.split(".")[0] == "ml_collections"}, path
    for path in (ROOT / "configs").glob("*.py"):
        assert not [m for m in imports(path) if m.startswith("mer_jax")], path


def test_networks_training_and_benchmarks_import_without_the_data_packages():
    """A machine that only trains may lack tfds, grain, ml_collections and TensorFlow."""
    script = """
import importlib, pathlib, sys
for name in ("tensorflow_datasets", "grain", "ml_collections", "tensorflow", "array_record", "tensorboardX"):
    sys.modules[name] = None
for room in ("nn", "systems", "training"):
    for path in sorted(pathlib.Path("mer_jax", room).glob("*.py")):
        importlib.import_module(f"mer_jax.{room}.{path.stem}" if path.stem != "__init__" else f"mer_jax.{room}")
for path in sorted(pathlib.Path("tests/benchmarks").glob("*.py")):
    importlib.import_module(f"tests.benchmarks.{path.stem}")
from tests.benchmarks import bench_engine
assert bench_engine.settings_of("tiny").data.size == 32
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_stay_readable():
    for folder in ("mer_jax", "configs", "tfds_builders", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 500, path
