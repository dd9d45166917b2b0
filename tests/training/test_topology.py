"""What the compiler says of a program: read from text, and from programs of the toy system on this machine's device."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mer_jax.data import motion, shapes
from mer_jax.errors import UserError
from mer_jax.training import mesh, topology
from tests.training import test_pretrain, test_waves, toy

ROOT = Path(__file__).parents[2]
TEXT = """
  %all-reduce.3 = f32[16,8]{1,0:T(8,128)} all-reduce(%fusion.7), channel_id=1, replica_groups={{0,1}}
  %all-reduce-start = (f32[4]{0}, /*index=1*/bf16[2,2]{1,0}) all-reduce-start(%a, %b), channel_id=2
  %all-reduce-done = (f32[4]{0}, bf16[2,2]{1,0}) all-reduce-done(%all-reduce-start)
  %ag = (f32[4]{0:T(128)}, f32[64]{0:T(256)}) all-gather-start(%c), dimensions={0}
  %agd = f32[64]{0:T(256)} all-gather-done(%ag)
  %cp = (s32[8]{0}, s32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%d)
  %not = f32[8]{0} fusion(%all-reduce.3), calls=%computation
"""


def test_collectives_are_counted_once_with_the_bytes_of_their_results():
    assert topology.collectives(TEXT) == {
        "all-gather": (1, 64 * 4),
        "all-reduce": (2, 16 * 8 * 4 + 4 * 4 + 4 * 2),
        "collective-permute": (1, 8 * 4),
    }


def test_a_fold_parallel_chunk_has_no_collectives_and_more_folds_need_more_memory():
    settings = dataclasses.replace(
        test_waves.SETTINGS, fold_mode="loop", chunk_mode="dispatch", folds_per_device=1, chunk_steps=1
    )
    small = topology.folds(toy.ToySystem(), settings, toy.store(), 4, jax.devices()[:1])
    more = dataclasses.replace(settings, folds_per_device=2)
    large = topology.folds(toy.ToySystem(), more, toy.store(), 4, jax.devices()[:1])
    assert [one.program for one in small] == ["1 folds, a step", "1 folds, evaluation"]
    assert all(one.collectives == {} for one in (*small, *large))
    assert all(0 < a.memory < b.memory for a, b in zip(small, large, strict=True))


def test_a_pretraining_step_is_compiled_from_shapes():
    batch = toy.Stream(test_pretrain.SETTINGS.batch)(0)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    step = topology.pretraining(toy.ToySystem(), test_pretrain.SETTINGS, shapes, jax.devices()[:1])
    assert step.memory >= sum(x.nbytes for x in batch.values())
    assert jax.default_backend() == "cpu"  # restored


@pytest.mark.parametrize("kind", ["flow_pairs", "dynamic_image", "flow_image", "flow_onset_apex", "strain_onset_apex"])
def test_shapes_of_motion_targets_are_those_that_are_computed(kind, monkeypatch):
    spec = motion.MotionSpec(kind, phases=3, side=14)
    monkeypatch.setattr(motion, "flow_fields", lambda a, b, settings=None: np.zeros((*np.shape(a), 2), np.float32))
    frames = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 1), np.uint8)
    found = motion.clip_target(frames, 1, 4, 8, spec)
    assert shapes.target_shape(spec, 32, 8) == (found.shape, found.dtype.type)


@dataclasses.dataclass(frozen=True)
class Chip:
    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "chip"
    process_index: int = 0


@pytest.mark.parametrize("axis", [mesh.DATA, mesh.FOLD])
def test_slices_and_processes_follow_each_other_on_the_axis(axis):
    """Whatever order the devices come in: slot n of the stream is row n of the global batch."""
    chips = [Chip(i, slice_index=i % 2, process_index=2 * (i % 2) + (i // 2) % 2) for i in range(16)]
    over = mesh.mesh_of(chips, axis)
    assert over.axis_names == (axis,)
    assert [chip.slice_index for chip in over.devices] == [0] * 8 + [1] * 8
    assert [chip.process_index for chip in over.devices] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert sorted(chip.id for chip in over.devices) == list(range(16))


def test_an_unknown_version_is_refused():
    with pytest.raises(UserError, match="--topology is 'v9:4x4'; expected one of v4, v5e, v5p, v6e and a shape"):
        topology.describe("v9:4x4")


def test_a_slice_that_cannot_be_described_is_one_message():
    """Of a shape that no compiler knows, or without the compiler."""
    pytest.importorskip("ml_collections.config_flags")  # a machine that only trains may lack it
    command = ["-m", "mer_jax.training.compile", "--config", "configs/ma2mi.py:tiny", "--topology", "v5e:banana"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "mer_jax: --topology v5e:banana: " in done.stderr
    assert "Traceback" not in done.stderr
