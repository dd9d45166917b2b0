"""A trained network, all its folds and what comes before it, as one function of the frames of clips."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis.networks import Network, frame_count
from mer_jax.data import motion, packed
from mer_jax.errors import UserError
from mer_jax.training.step import make_predict

PLATFORMS = ("cpu", "tpu", "cuda")
LARGEST = 1_900_000_000  # bytes of weights: the file format ends at 2 GiB
Inputs = Mapping[str, Any]

MEANINGS = {
    "frames": "the frames of the clips in time order, RGB or grey (see preprocessing)",
    "length": "frames of each clip that count; what follows them is padding",
    "onset": "position of the first frame of the movement",
    "apex": "position of its strongest frame, -1 where unknown (then the middle of onset and offset is taken)",
    "offset": "position of its last frame",
    "fps": "frames a second",
    "flow_image": "flow from onset to apex and its strain as a picture, see preprocessing",
    "flow_grid": "flow around the apex on a grid, a row a step, last column 1 where there is one, see preprocessing",
}
PICTURES = "one picture a clip (t = 1) of flow and strain from onset to apex, channels u, v, strain"


def possible_inputs(system: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Everything that a system may be given of b clips with t frames each; both are symbolic."""
    b, t = jax.export.symbolic_shape("b, t")
    needs, shape = system.needs, jax.ShapeDtypeStruct
    found = {"frames": shape((b, t, needs.size, needs.size, needs.channels), jnp.uint8)}
    found |= {name: shape((b,), jnp.int32) for name in ("length", "onset", "apex", "offset")}
    found["fps"] = shape((b,), jnp.float32)
    if system.reads_targets:
        found |= packed.target_shapes(motion.named(needs.motion), needs.size, b)
    return found


def function(networks: Sequence[Network]) -> Callable[[Inputs], jax.Array]:
    """`inputs -> probabilities [b, C]`, the mean over networks of one system; inputs that are not given are blank.

    The networks run side by side (vmap), so that one program is compiled whatever their number.
    """
    system = networks[0].system
    weights = [network.variables for network in networks]
    if len(weights) == 1:
        return functools.partial(probabilities, system, weights[0])
    stacked: Any = jax.tree.map(lambda *x: np.stack(x), *weights)

    def mean(inputs: Inputs) -> jax.Array:
        one = functools.partial(probabilities, system)
        return jax.vmap(one, in_axes=(0, None))(stacked, inputs).mean(axis=0)

    return mean


def probabilities(system: Any, variables: Any, inputs: Inputs) -> jax.Array:
    """Probabilities [b, C] by one network; inputs that are not given are blank."""
    store, t = _store(system, inputs)
    clips = jnp.arange(store.start.shape[0], dtype=jnp.int32)
    found: jax.Array = make_predict(system, system.finetune)(variables, store, clips, frame_count(system, t))[
        "probabilities"
    ]
    return found


def _store(system: Any, inputs: Inputs) -> tuple[Any, Any]:
    """The clips as a store, and the number of frames of each."""
    needs, b = system.needs, next(iter(inputs.values())).shape[0]
    frames = inputs.get("frames")
    if frames is None:
        frames = jnp.zeros((b, 1, needs.size, needs.size, needs.channels), jnp.uint8)
    t = frames.shape[1]
    last = jnp.full((b,), t, jnp.int32)
    blank = {
        "length": last,
        "onset": 0 * last,
        "apex": 0 * last - 1,
        "offset": last - 1,
        "fps": jnp.full((b,), jnp.nan),
    }
    facts = {name: inputs.get(name, x) for name, x in blank.items()}
    shapes = packed.target_shapes(motion.named(needs.motion), needs.size, b)
    targets = {name: inputs[name] if name in inputs else jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    return packed.pack(frames, motion=targets, landmarks=needs.landmarks, **facts), t


def used_inputs(system: Any, shapes: Inputs, f: Callable[[Inputs], jax.Array]) -> dict[str, jax.ShapeDtypeStruct]:
    """Those of the inputs that the probabilities depend on, found by walking back through the program."""
    program = jax.make_jaxpr(f)(shapes).jaxpr
    wanted = {id(x) for x in program.outvars}
    for equation in reversed(program.eqns):
        if any(id(x) in wanted for x in equation.outvars):
            wanted |= {id(x) for x in equation.invars}
    return {name: shapes[name] for name, x in zip(sorted(shapes), program.invars, strict=True) if id(x) in wanted}


def export(networks: Sequence[Network]) -> tuple[jax.export.Exported, dict[str, dict[str, Any]]]:
    """The function for all platforms, weights included, with a free number of clips and frames.

    Returns:
      what jax.export made, called with one dict of arrays; and its inputs: name -> {shape, dtype, meaning}.

    Raises:
      UserError: the weights are too large for one file.
    """
    size = sum(int(x.nbytes) for network in networks for x in jax.tree.leaves(network.variables))
    if size > LARGEST:
        raise UserError(
            f"{len(networks)} folds have {size / 1e9:.1f} GB of weights; one file holds {LARGEST / 1e9:.1f}. Choose "
            "one fold with --fold"
        )
    system = networks[0].system
    f = function(networks)
    shapes = used_inputs(system, possible_inputs(system), function(networks[:1]))
    exported = jax.export.export(jax.jit(f), platforms=PLATFORMS)(shapes)
    meanings = MEANINGS | ({"frames": PICTURES} if system.needs.modality == "flow_strain" else {})
    return exported, {name: _described(name, x, meanings) for name, x in shapes.items()}


def _described(name: str, x: jax.ShapeDtypeStruct, meanings: Mapping[str, str]) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else str(n) for n in x.shape]
    return {"shape": shape, "dtype": str(x.dtype), "meaning": meanings.get(name, f"motion target {name}")}
