"""Both stages of a system, compiled for a TPU slice that is not there: memory a chip, collectives, compile time.

The TPU compiler comes with libtpu and runs on any Linux host (pip install "mer_jax[tpu]"). It gets the very programs of
a run, over a mesh of described devices, with shapes instead of arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.errors import UserError
from mer_jax.training import mesh
from mer_jax.training.pretrain import PretrainEngine, PretrainSettings
from mer_jax.training.programs import Programs

GIB = 2**30
# Memory of a chip in GiB (cloud.google.com/tpu/docs, one page a version).
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
    "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_COLLECTIVE = re.compile(
    r"= (?P<shape>\(?[^=]*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?P<start>-start)?\("
)
_COMMENT = re.compile(r"/\*.*?\*/")  # "/*index=5*/" in long tuples
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one program.

    Attributes:
      program: its name.
      memory: bytes a chip: arguments, results that share no memory with them, and temporaries.
      temporaries: bytes a chip of these.
      collectives: kind -> (how many, bytes of their results on a chip).
      seconds: time to compile.
    """

    program: str
    memory: int
    temporaries: int
    collectives: dict[str, tuple[int, int]]
    seconds: float


def describe(topology: str, slices: int = 1) -> Sequence[Any]:
    """The devices of slices that are not there.

    Args:
      topology: version and shape, e.g. "v5e:4x4", "v4:2x2x2".
      slices: how many.

    Raises:
      UserError: libtpu is missing, or does not know the topology.
    """
    from jax.experimental import topologies

    if topology.split(":")[0] not in MEMORY:
        raise UserError(f"--topology is {topology!r}; expected one of {', '.join(MEMORY)} and a shape, as in v5e:4x4")
    how: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology.startswith("v4:"):
        how["chip_config_name"] = "megacore"  # one device a chip, as jax sees a v4 by default
    try:
        return list(topologies.get_topology_desc(topology_name=topology, platform="tpu", **how).devices)
    except Exception as error:
        raise UserError(
            f"--topology {topology}: {str(error).strip().splitlines()[0]}. Expected one that libtpu knows, "
            'as in v5e:4x4, and libtpu itself: pip install "mer_jax[tpu]"'
        ) from None


@contextlib.contextmanager
def _chosen_for(platform: str) -> Iterator[None]:
    """Has traced code that asks for the platform (faster forms of a layer) choose for another one than this host's."""
    own = jax.default_backend
    jax.default_backend = lambda: platform
    try:
        yield
    finally:
        jax.default_backend = own


def pretraining(system: Any, settings: PretrainSettings, batch: Any, devices: Sequence[Any]) -> Compiled:
    """The step of the pre-training stage for global batches of these shapes."""
    with _chosen_for(devices[0].platform):
        engine = PretrainEngine(system, settings, mesh.mesh_of(devices, mesh.DATA))
        return compiled("pre-training step", engine.lower(batch))


def folds(system: Any, settings: Any, store: Any, smallest: int, devices: Sequence[Any]) -> list[Compiled]:
    """A chunk of a wave and its evaluation.

    Args:
      system: a `systems.base.System`.
      settings: `folds.FoldSettings` without "auto".
      store: a ClipStore whose facts are arrays; frames, landmarks and motion may be shapes.
      smallest: clips of the smallest training set.
      devices: described.
    """
    over, buckets = mesh.mesh_of(devices, mesh.FOLD), system.buckets(store)
    with _chosen_for(devices[0].platform):
        programs = Programs(system, settings, over, buckets, smallest)
        wave, clips = programs.wave_size, store.start.shape[0]
        whole = functools.partial(_shapes, sharding=mesh.replicated(over))
        divided = functools.partial(_shapes, sharding=mesh.split(over))
        masks, keys = divided((np.zeros((wave, clips), bool), np.zeros((wave, 2), np.uint32)))
        store = whole(store)
        states = divided(jax.eval_shape(programs.init, masks, keys, store, None))
        number = jax.ShapeDtypeStruct((), jnp.int32)
        bucket = len(buckets.lengths) - 1 if buckets else 0  # the longest clips need most
        steps = settings.chunk_steps if settings.chunk_mode == "scan" else 1
        chunk = programs.chunk.lower(states, masks, keys, store, number, number, steps, bucket)
        tested = divided(np.zeros((wave, min(32, settings.batch) if buckets else 32), np.int32))
        evaluate = programs.evaluate.lower(states.final_variables, tested, store, bucket)
        return [
            compiled(f"{wave} folds, {steps} steps" if steps > 1 else f"{wave} folds, a step", chunk),
            compiled(f"{wave} folds, evaluation", evaluate),
        ]


def _shapes(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def compiled(program: str, lowered: Any) -> Compiled:
    """Compiles, and reads the answer."""
    begin = time.perf_counter()
    done = lowered.compile()
    seconds = time.perf_counter() - begin
    memory = done.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = int(memory.temp_size_in_bytes)
    return Compiled(program, int(own) + temporaries, temporaries, collectives(done.as_text()), seconds)


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Communication in a compiled program: kind -> (how many, bytes of their results on one chip).

    An operation within a loop counts once. Of an asynchronous pair the first half counts; those of a gather and of a
    permutation list their operands before their results.
    """
    found: dict[str, tuple[int, int]] = {}
    for match in _COLLECTIVE.finditer(_COMMENT.sub("", text)):
        sizes = [
            _BYTES.get(kind, 1) * math.prod(int(n) for n in shape.split(",") if n)
            for kind, shape in _ARRAY.findall(match["shape"])
        ]
        if match["start"] and match["kind"] == "all-gather":
            sizes = sizes[len(sizes) // 2 :]
        elif match["start"] and match["kind"] == "collective-permute":
            sizes = sizes[1:2]
        count, total = found.get(match["kind"], (0, 0))
        found[match["kind"]] = count + 1, total + sum(sizes)
    return dict(sorted(found.items()))
