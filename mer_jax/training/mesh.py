"""Devices, meshes and host/device traffic: the one module that holds version-dependent or multi-process jax calls."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

DATA, FOLD = "data", "fold"
SMALL = 2**12  # entries; a smaller leaf costs more to collect than to keep everywhere
_A_YEAR = 365 * 24 * 3600 * 1000  # ms
_WAIT_SECONDS = 4 * 3600  # for a process that is late; one that is lost ends the wait much earlier (heartbeats)


def make_mesh(axis: str) -> Mesh:
    """A one-dimensional mesh over all devices. Axes are Auto: Linen's partitioning needs them so.

    Slice after slice, and in a slice process after process: sums between slices cross their slower network once, folds
    never do, and row n of a global batch is slot n of the stream on any number of processes. (jax.make_mesh follows the
    wires of a slice and mixes the processes; sums over all devices do not depend on the order.)
    """
    return mesh_of(jax.devices(), axis)


def mesh_of(devices: Sequence[Any], axis: str) -> Mesh:
    """`make_mesh` over some devices, described ones included (`training.compile`)."""
    ordered = sorted(devices, key=lambda d: (getattr(d, "slice_index", 0), d.process_index, d.id))
    return Mesh(np.array(ordered), (axis,), axis_types=(AxisType.Auto,))


def devices() -> str:
    """How many of which kind there are: "8 x cpu"."""
    kinds = sorted({d.device_kind for d in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)}"


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis is divided over the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def spread(tree: Any, mesh: Mesh) -> Any:
    """A sharding for each leaf, so that no device holds more than its share of the large ones (FSDP, ZeRO).

    A leaf is divided along its largest axis among those that divide by the number of devices, the last one of equals;
    leaves of fewer than SMALL entries, and those without such an axis, are whole on every device.

    Args:
      tree: arrays or shapes.
      mesh: one-dimensional.
    """

    def one(x: Any) -> NamedSharding:
        able = [(n, axis) for axis, n in enumerate(x.shape) if n % mesh.size == 0]
        if not able or math.prod(x.shape) < SMALL:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * max(able)[1], mesh.axis_names[0]))

    return jax.tree.map(one, tree)


def put(tree: Any, sharding: Any) -> Any:
    """Global arrays from host arrays of which every process holds the whole.

    Args:
      tree: of arrays.
      sharding: one, or a tree of one a leaf.
    """

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), sharding))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)


def put_local(tree: Any, sharding: NamedSharding) -> Any:
    """Global arrays from each process's own slice of the leading axis."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def fetch(tree: Any) -> Any:
    """Numpy copies of global arrays, whole on every process."""

    def one(x: Any) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x)
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(one, tree)


def agree(value: float) -> float:
    """The first process's number, on all processes: what is decided by timing must be decided once."""
    return float(agree_on(np.float64(value)))


def agree_on(values: Any) -> Any:
    """The first process's arrays (a tree), on all processes; all give the same shapes and types."""
    if jax.process_count() > 1 and jax.tree.leaves(values):
        barrier("agree")
        values = multihost_utils.broadcast_one_to_all(values)
    return jax.tree.map(np.asarray, values)


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of what the processes hold, on all of them."""
    if jax.process_count() == 1:
        return values
    barrier("sum")
    return np.asarray(multihost_utils.process_allgather(values)).sum(axis=0)


def agree_on_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The first process's facts (JSON), on all processes; to be called by all of them, each with its own."""
    if jax.process_count() == 1:
        return facts
    own = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    text = np.zeros(int(agree_on(np.int32(len(own)))), np.uint8)
    if is_writer():
        text[:] = own
    agreed: dict[str, Any] = json.loads(agree_on(text).tobytes())
    return agreed


def per_device(function: Callable[..., Any], mesh: Mesh, split_arguments: tuple[bool, ...]) -> Callable[..., Any]:
    """`function` on each device's own slice, without collectives; outputs are split along their leading axis.

    Args:
      function: called with the local slices.
      mesh: one-dimensional.
      split_arguments: for each argument, whether its leading axis is divided (else it is replicated).
    """
    axis = PartitionSpec(mesh.axis_names[0])
    in_specs = tuple(axis if s else PartitionSpec() for s in split_arguments)
    # check_vma=False: scans with a fresh zero carry (recurrent networks) would be refused otherwise.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=axis, check_vma=False)


def is_writer() -> bool:
    """Whether this process writes logs, tables and reports."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes, as long as they are alive.

    The service of jax.distributed keeps the wait. A collective would too, but that of CPUs (gloo) gives up after 30
    seconds, and one process may well read or compile that much longer than the others. But a collective sees at once
    that another process is gone, the service only after its time-out: what is well in step needs no barrier.

    Raises:
      jax.errors.JaxRuntimeError: another process is lost.
    """
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=f"mer_jax_{name}", timeout_ms=_WAIT_SECONDS * 1000)


def tell(name: str, text: str) -> None:
    """Leaves a text for `hear`; of several under one name the first counts."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is one already, or process 0 is gone
        _service().key_value_set(f"mer_jax_{name}", text)


def hear(name: str) -> str:
    """Waits for what a process tells under a name.

    Raises:
      jax.errors.JaxRuntimeError: this process leaves, or process 0 is gone.
    """
    return str(_service().blocking_key_value_get(f"mer_jax_{name}", _A_YEAR))


def _service() -> Any:
    """The service of jax.distributed, which keeps small values by name; jax has no public way to it."""
    from jax._src import distributed

    return distributed.global_state.client


class Together:
    """A jitted function that all processes have compiled before one of them goes on (`barrier`).

    Args:
      function: of jax.jit; the shapes of its arguments are functions of the static ones.
      static: positions of its static arguments.
      collectives: whether it holds any. Then all compile it before one runs it; else they meet after their first call,
        since what it gives is exchanged later.
    """

    def __init__(self, function: Any, static: tuple[int, ...] = (), collectives: bool = True) -> None:
        self._function, self._static, self._collectives = function, static, collectives
        self._known: dict[tuple[Any, ...], Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Runs the function."""
        key = tuple(arguments[i] for i in self._static)
        first = key not in self._known
        if not self._collectives:
            results = self._function(*arguments)
            if first:
                self._known[key] = self._function
                barrier("compiled")
            return results
        if first:
            self._known[key] = self._function.lower(*arguments).compile()
            barrier("compiled")
        return self._known[key](*(a for i, a in enumerate(arguments) if i not in self._static))

    def lower(self, *arguments: Any) -> Any:
        """As that of the function."""
        return self._function.lower(*arguments)


class Preemption:
    """Asks whether the run should stop (SIGTERM to any process); all processes hear the same answer.

    One object a process: the service counts calls.
    """

    def __init__(self) -> None:
        self._calls, self._heard = 0, False

    def reached(self) -> bool:
        """To be called equally often by all processes; once True, it stays so."""
        self._calls += 1
        self._heard = bool(multihost_utils.reached_preemption_sync_point(self._calls)) or self._heard
        return self._heard
