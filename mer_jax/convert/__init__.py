"""Released PyTorch weights as checkpoints of mer_jax.

A system's file here holds the map from the released names to its own: `variables(tensors, settings)` gives the Linen
variables, built by `assemble` from a table of `Entry`; `CLASSIFIER` is the released name of the layer that gives the
logits, whose bias says how many classes there are.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.convert.torch_checkpoint import state_dict
from mer_jax.errors import UserError
from mer_jax.training.checkpoint import Rolling
from mer_jax.training.state import Variables
from mer_jax.workdir import Workdir

MODULES = {
    "akmnet": "mer_jax.convert.akmnet",
    "fdp": "mer_jax.convert.fdp",
    "mol": "mer_jax.convert.mol",
    "ststnet": "mer_jax.convert.ststnet",
}

LINEAR = (1, 0)  # [out, in] -> [in, out]
CONV1D = (2, 1, 0)  # [out, in, t] -> [t, in, out]
CONV2D = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]
CONV3D = (2, 3, 4, 1, 0)  # [out, in, d, h, w] -> [d, h, w, in, out]
_COUNTERS = r".*\.num_batches_tracked"  # PyTorch's BatchNorm counts its updates; nothing reads it


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one released tensor goes.

    Attributes:
      path: place in the variables, "params/encoder/conv_1/kernel".
      axes: which released axis each of our axes is; None leaves the order as it is.
      shape: the released shape, where it is not a mere permutation of ours (then the permuted tensor is reshaped).
    """

    path: str
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def released_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the released tensor must have for ours."""
        if self.shape is not None:
            return self.shape
        if self.axes is None:
            return ours
        return tuple(ours[self.axes.index(i)] for i in range(len(ours)))


def norm(released: str, ours: str) -> dict[str, Entry]:
    """The four arrays of a BatchNorm, e.g. `norm("bn1", "encoder/norm_1")`."""
    return {
        f"{released}.weight": Entry(f"params/{ours}/scale"),
        f"{released}.bias": Entry(f"params/{ours}/bias"),
        f"{released}.running_mean": Entry(f"batch_stats/{ours}/mean"),
        f"{released}.running_var": Entry(f"batch_stats/{ours}/var"),
    }


def layer(released: str, ours: str, axes: tuple[int, ...], bias: bool = True) -> dict[str, Entry]:
    """Kernel and bias of a convolution or linear layer, e.g. `layer("fc1", "head/dense_1", LINEAR)`."""
    entries = {f"{released}.weight": Entry(f"params/{ours}/kernel", axes)}
    return entries | ({f"{released}.bias": Entry(f"params/{ours}/bias")} if bias else {})


def assemble(
    tensors: Mapping[str, np.ndarray], entries: Mapping[str, Entry], template: Variables, ignored: tuple[str, ...] = ()
) -> Variables:
    """Variables shaped like `template` from released tensors.

    Args:
      tensors: released name -> tensor.
      entries: released name -> where it goes.
      template: our variables, arrays or shapes (`jax.eval_shape` of the module's init). Leaves of the collection
        "constants" that no entry names are kept (they must be arrays); every other leaf must be given.
      ignored: patterns of released names that are not needed; counters of BatchNorm never are.

    Raises:
      UserError: names every unknown, missing and misshapen tensor.
      ValueError: entries and template do not fit (a bug of the map).
    """
    leaves = {"/".join(str(k.key) for k in p): x for p, x in jax.tree_util.tree_leaves_with_path(template)}
    paths = [entry.path for entry in entries.values()]
    wanted = {path for path in leaves if not path.startswith("constants/") or path in paths}
    if sorted(paths) != sorted(wanted):
        raise ValueError(f"map and network differ: {sorted(set(paths) ^ wanted) or 'a path is given twice'}")
    patterns = [re.compile(p) for p in (_COUNTERS, *ignored)]
    unknown = [n for n in tensors if n not in entries and not any(p.fullmatch(n) for p in patterns)]
    missing = [n for n in entries if n not in tensors]
    misshapen = {}
    for name, entry in entries.items():
        expected = entry.released_shape(tuple(leaves[entry.path].shape))
        if name in tensors and tensors[name].shape != expected:
            misshapen[name] = f"{name} {tensors[name].shape} instead of {expected}"
    if unknown or missing or misshapen:
        raise UserError(_problems(unknown, missing, list(misshapen.values()), list(entries)))
    flat: dict[str, Any] = {p: x for p, x in leaves.items() if p not in wanted}
    for name, entry in entries.items():
        array = tensors[name] if entry.axes is None else tensors[name].transpose(entry.axes)
        target = leaves[entry.path]
        flat[entry.path] = np.ascontiguousarray(array.reshape(target.shape), target.dtype)
    return _nested(flat)


def _problems(unknown: list[str], missing: list[str], misshapen: list[str], known: list[str]) -> str:
    parts = []
    for what, names in (("unknown", unknown), ("missing", missing), ("misshapen", misshapen)):
        if names:
            parts.append(f"{len(names)} {what}: {', '.join(names)}")
    near = [f"{n} like {m[0]}" for n in unknown[:3] if (m := difflib.get_close_matches(n, known, n=1))]
    return "the weights are not those of this network: " + "; ".join(parts) + (f" ({'; '.join(near)})" if near else "")


def _nested(flat: Mapping[str, Any]) -> Variables:
    tree: Variables = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def convert(system: str, source: Path, out: Path, settings: Any) -> Path:
    """Writes released weights as the finished pre-training of a run, for `init_from` and for analysis.

    Args:
      system: name of the system.
      source: the released .pth file.
      out: folder of the new run; must not hold one.
      settings: the resolved settings of the network that the weights are for.

    Returns:
      The checkpoint.

    Raises:
      UserError: unknown system, a file that cannot be read, weights of another network, or a folder in use.
    """
    if system not in MODULES:
        raise UserError(f"found the system {system!r}; expected one of {', '.join(sorted(MODULES))}")
    if settings.system != system:
        raise UserError(f"--config is for the system {settings.system!r}; expected one for {system!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder")
    tensors = state_dict(source)
    try:
        ours = importlib.import_module(MODULES[system])
        variables, n_classes = ours.variables(tensors, settings), len(tensors[f"{ours.CLASSIFIER}.bias"])
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    place = Workdir(out, (0,))
    place.claim(settings.to_dict())
    place.manifest(imported={"system": system, "file": source.name, "tensors": len(tensors)})
    state = {"params": variables["params"], "collections": {k: v for k, v in variables.items() if k != "params"}}
    facts = {
        "finished": True,
        "persons": None,
        "imported": system,
        "file": source.name,
        "seed": 0,
        "n_classes": n_classes,
    }
    rolling = Rolling(place.checkpoints(0, "pretrain").absolute())
    rolling.save(0, state, facts)
    rolling.close()
    return place.checkpoints(0, "pretrain", "0")
