"""Motion targets: optical flow, optical strain and dynamic images of a clip, computed once and kept.

A `MotionSpec` says what is computed; `clip_targets` computes it for decoded clips; `store_targets` adds a cache on
disk in front of it and works on a whole `ClipStore`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data import flow_grid, sampling
from mer_jax.data.clips import MODALITIES
from mer_jax.data.flow_grid import FlowGrid
from mer_jax.data.frames import with_channels
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.store import ClipStore
from mer_jax.data.tvl1 import DEFAULTS, TVL1Settings, tvl1_flow
from mer_jax.errors import UserError
from mer_jax.progress import Progress

# Raise it whenever any target changes in value: what older code left in a cache is then computed afresh.
CODE_VERSION = 1

Kind = Literal["flow_onset_apex", "strain_onset_apex", "flow_pairs", "dynamic_image", "flow_grid", "flow_image"]
Weights = Literal["harmonic", "linear"]


@dataclasses.dataclass(frozen=True)
class MotionSpec:
    """What a motion target is. Its size in pixels is that of the clip's frames.

    Attributes:
      kind: `flow_onset_apex`, float32 [H, W, 2]: TV-L1 flow from the onset to the apex (to the middle of the event
        where the apex is unknown). `strain_onset_apex`, float32 [H, W]: the strain of that flow. `flow_pairs`, float16
        [P, H, W, 2]: flow between the frames that `pair_positions` lists. `dynamic_image`, float32 [H, W]: approximate
        rank pooling of the frames that `phase_positions` lists, not scaled. `flow_grid`, float32 [steps, features + 1]:
        flow around the apex on a grid, see `data.flow_grid`; the last column is 1 where the clip has that step.
        `flow_image`, uint8 [side, side, 3]: the flow from onset to apex and its strain as a picture, see `flow_image`.
      extent: the part of the clip that `flow_pairs` and `dynamic_image` look at: `whole`, `onset_offset`, `onset_apex`.
      phases: number of frames T in a sequence of `flow_pairs` or a `dynamic_image`; 0 (`dynamic_image` only): all.
      sequences: most sequences of `flow_pairs` that are taken of a clip, see `pair_positions`; 0: all.
      weights: form of the rank pooling, see `rank_pooling_weights`.
      grid: window and grid of `flow_grid`.
      side: height and width of `flow_image` in pixels.
      border: share of the frame's sides that `flow_image` leaves out on each side.
      tvl1: settings of the flow.
      code_version: version of the code that computes; never set by hand.
    """

    kind: Kind
    extent: sampling.Extent = "onset_offset"
    phases: int = 8
    sequences: int = 0
    weights: Weights = "harmonic"
    grid: FlowGrid = FlowGrid()  # noqa: RUF009 (frozen)
    side: int = 28
    border: float = 1 / 16
    tvl1: TVL1Settings = DEFAULTS
    code_version: int = CODE_VERSION

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("extent", sampling.Extent), ("weights", Weights)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"motion target {name}: found {getattr(self, name)!r}, expected {get_args(known)}")
        if self.sequences < 0:
            raise ValueError(f"motion target {self.kind}: found sequences={self.sequences}, expected 0 or more")
        if not 0 <= self.border < 0.5:
            raise ValueError(f"motion target border: found {self.border}, expected a share of 0 or more below one half")
        least = 0 if self.kind == "dynamic_image" else 2
        if self.phases < least or self.phases == 1:
            raise ValueError(
                f"motion target {self.kind}: found phases={self.phases}, expected {least or '0, 2'} or more"
            )

    def key(self) -> str:
        """Canonical JSON of all that the values of this kind depend on beside the clip; the cache's key."""
        facts: dict[str, Any] = {"kind": self.kind, "code_version": self.code_version}
        if self.kind != "dynamic_image":
            facts["tvl1"] = dataclasses.asdict(self.tvl1)
        if self.kind in ("flow_pairs", "dynamic_image"):
            facts |= {"extent": self.extent, "phases": self.phases}
        if self.kind == "flow_pairs" and self.sequences:
            facts["sequences"] = self.sequences
        if self.kind == "dynamic_image":
            facts["weights"] = self.weights
        if self.kind == "flow_grid":
            facts["grid"] = self.grid.key()
        if self.kind == "flow_image":
            facts |= {"side": self.side, "border": self.border}
        return json.dumps(facts, sort_keys=True)

    @property
    def varies(self) -> bool:
        """Whether the target's leading axis is a number of fields that differs from clip to clip."""
        return self.kind == "flow_pairs"

    @property
    def timed(self) -> bool:
        """Whether the values depend on the frame rate."""
        return self.kind == "flow_grid" and self.grid.window == "seconds"


TARGETS: Mapping[str, MotionSpec] = {kind: MotionSpec(kind) for kind in get_args(Kind)}


def named(names: Sequence[str | MotionSpec]) -> dict[str, MotionSpec]:
    """The specifications behind a system's `needs.motion`: names of TARGETS, or specifications, called as their kind.

    Raises:
      ValueError: a name is not in TARGETS.
    """
    specs = {name.kind: name for name in names if isinstance(name, MotionSpec)}
    unknown = [name for name in names if isinstance(name, str) and name not in TARGETS]
    if unknown:
        raise ValueError(f"motion targets {unknown}: expected names among {list(TARGETS)}")
    return specs | {name: TARGETS[name] for name in names if isinstance(name, str)}


@dataclasses.dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip, uint8 [T, H, W, C] (RGB or grey), and its key frames (apex -1 where unknown).

    `fps` is set for targets that depend on it (`MotionSpec.timed`), else None.
    """

    frames: np.ndarray
    onset: int
    apex: int
    offset: int
    fps: float | None = None


def strain(flow: jax.Array) -> jax.Array:
    """Optical strain magnitude sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2) (Liong et al., STSTNet, FG 2019).

    INFERRED: derivatives are central differences, one-sided at the border; the paper names no scheme, and this one is
    exact on affine motion.

    Args:
      flow: [..., H, W, 2] in pixels, u to the right, v down; H and W at least 2.

    Returns:
      [..., H, W].
    """
    u_y, u_x = jnp.gradient(flow[..., 0], axis=(-2, -1))
    v_y, v_x = jnp.gradient(flow[..., 1], axis=(-2, -1))
    return jnp.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2)


def rank_pooling_weights(mask: jax.Array, form: Weights = "harmonic") -> jax.Array:
    """Weights alpha of approximate rank pooling (Bilen et al., CVPR 2016); their sum over the frames is 0.

    With t = 1 .. T the rank of a frame among those present:
    `harmonic`: alpha_t = sum over i = t .. T of (2 i - T - 1) / i = 2 (T - t + 1) - (T + 1) (H_T - H_{t-1}), H_n the
    n-th harmonic number (ranks of the running means of the frames); `linear`: alpha_t = 2 t - T - 1 (ranks of the
    frames themselves).

    Args:
      mask: bool [T_max], which frames are present.
      form: one of the two.

    Returns:
      float32 [T_max], 0 where a frame is absent.
    """
    rank = jnp.cumsum(mask)
    total = rank[-1]
    if form == "linear":
        alpha = (2 * rank - total - 1).astype(jnp.float32)
    else:
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, mask.shape[0] + 1))])
        table = jnp.asarray(harmonic, jnp.float32)
        alpha = 2 * (total - rank + 1) - (total + 1) * (table[total] - table[jnp.maximum(rank - 1, 0)])
    return jnp.where(mask, alpha, 0.0)


def dynamic_image(frames: jax.Array, mask: jax.Array | None = None, form: Weights = "harmonic") -> jax.Array:
    """Dynamic image of a clip: the sum of its frames weighted by approximate rank pooling, not scaled.

    The first frame is subtracted from all; the weights sum to 0, so this changes nothing but rounding, and a static
    clip gives exactly 0.

    Args:
      frames: [T_max, ...], uint8 or float.
      mask: bool [T_max], which frames are present (at least one); None for all.
      form: see `rank_pooling_weights`.

    Returns:
      float32 [...].
    """
    if mask is None:
        mask = jnp.ones(frames.shape[0], bool)
    present = mask.reshape(-1, *(1,) * (frames.ndim - 1))
    values = frames.astype(jnp.float32)
    change = jnp.where(present, values - values[jnp.argmax(mask)], 0.0)
    weights = rank_pooling_weights(mask, form)
    return jnp.tensordot(weights, change, axes=1, precision=jax.lax.Precision.HIGHEST)


def minmax(x: jax.Array) -> jax.Array:
    """Scales each map of [..., H, W] to 0 .. 1 by its own range; a constant map becomes 0."""
    low = jnp.min(x, axis=(-2, -1), keepdims=True)
    span = jnp.max(x, axis=(-2, -1), keepdims=True) - low
    return jnp.where(span > 0, (x - low) / jnp.where(span > 0, span, 1.0), 0.0)


def flow_image(flow: np.ndarray, side: int, border: float = 0.0) -> np.ndarray:
    """Flow and its strain as the field exchanges them: a picture whose channels are u, v and strain (STSTNet, FG 2019).

    Each map is scaled to 0..255 by its own range, then brought to the picture's size. INFERRED: by area averages, as
    frames are, and to whole levels, as in an image file; and without the edge of the frame, where skin that comes in or
    goes out has no flow: its strain alone would be several times what the face shows, and so its range.

    Args:
      flow: [H, W, 2] in pixels, u to the right, v down.
      side: height and width of the picture.
      border: share of the sides that is left out on each side.

    Returns:
      uint8 [side, side, 3].
    """
    y, x = (round(border * n) for n in flow.shape[:2])
    inner = _maps(jnp.asarray(flow))[:, y : flow.shape[0] - y, x : flow.shape[1] - x]
    maps = np.moveaxis(np.asarray(minmax(inner)), 0, -1)
    height, width = maps.shape[:2]
    shrinks = side <= min(height, width)
    if maps.shape[:2] != (side, side):
        maps = cv2.resize(maps, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.rint(255 * maps).astype(np.uint8)


@jax.jit
def _maps(flow: jax.Array) -> jax.Array:
    """[H, W, 2] -> u, v, strain [3, H, W]."""
    return jnp.stack([flow[..., 0], flow[..., 1], strain(flow)])


def phase_positions(length: int, phases: int) -> np.ndarray:
    """Positions of `phases` frames among `length`, as MOL and FDP take them: i * (length // phases).

    INFERRED: a clip with fewer frames than phases is not dropped; its frames are spread evenly, some twice.

    Returns:
      int [phases].
    """
    if length >= phases:
        return np.arange(phases) * (length // phases)
    return np.rint(np.linspace(0, length - 1, phases)).astype(int)


def pair_positions(length: int, phases: int, sequences: int = 0) -> np.ndarray:
    """Frame pairs of all sequences that MOL samples from a clip: sequence j takes the frames i * r + j.

    There are r = max(1, length // phases) sequences of T = `phases` frames. With `sequences` = m only
    S = min(m, r) of them are taken, spread evenly: the s-th is j_s = s r // S. Pair i of sequence j_s is row i S + s.

    Returns:
      int [(T - 1) * S, 2], positions of the earlier and the later frame.
    """
    step = max(1, length // phases)
    if length < phases:
        first = phase_positions(length, phases)
        return np.stack([first[:-1], first[1:]], axis=1)
    count = min(sequences or step, step)
    earlier = (np.arange(phases - 1)[:, None] * step + np.arange(count) * step // count).ravel()
    return np.stack([earlier, earlier + step], axis=1)


def _extent(clip: DecodedClip, which: sampling.Extent) -> tuple[int, int]:
    ends = sampling.extent(which, *(np.array(x) for x in (clip.onset, clip.apex, clip.offset, len(clip.frames))))
    return int(ends[0]), int(ends[1])


def _pairs(clip: DecodedClip, spec: MotionSpec) -> np.ndarray:
    if spec.kind == "flow_pairs":
        first, last = _extent(clip, spec.extent)
        return first + pair_positions(last - first + 1, spec.phases, spec.sequences)
    return np.array([_extent(clip, "onset_apex")])


def _grey(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, C] -> [T, H, W]."""
    return np.stack([with_channels(frame, 1)[..., 0] for frame in frames])


def flow_fields(earlier: np.ndarray, later: np.ndarray, settings: TVL1Settings = DEFAULTS) -> np.ndarray:
    """TV-L1 flow of any number of image pairs, in batches of one shape.

    A batch ends when its slowest field has converged; pairs are sorted by how much they differ, so that fields of
    like effort meet. A field does not depend on its neighbours.

    Args:
      earlier: [P, H, W] grey levels 0..255, uint8 or float.
      later: [P, H, W].
      settings: of the flow.

    Returns:
      float32 [P, H, W, 2].
    """
    # On CPU small batches stay in the cache and wait less for their slowest field; an accelerator wants to be filled.
    batch = 4 if jax.default_backend() == "cpu" else 256
    difference = np.abs(later.astype(np.float32) - earlier.astype(np.float32)).mean(axis=(1, 2))
    order = np.argsort(difference, kind="stable")
    fields = np.empty((*earlier.shape, 2), np.float32)
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        # Two equal black images fill the batch up: their flow is zero after one iteration.
        images = [np.zeros((batch, *earlier.shape[1:]), earlier.dtype) for _ in range(2)]
        images[0][: len(rows)], images[1][: len(rows)] = earlier[rows], later[rows]
        fields[rows] = np.asarray(tvl1_flow(*jax.device_put(images), settings))[: len(rows)]
    return fields


@functools.partial(jax.jit, static_argnames="form")
def _padded_dynamic_image(frames: jax.Array, length: jax.Array, form: Weights) -> jax.Array:
    return dynamic_image(frames, jnp.arange(frames.shape[0]) < length, form)


def _dynamic_image(clip: DecodedClip, spec: MotionSpec) -> np.ndarray:
    first, last = _extent(clip, spec.extent)
    length = last - first + 1
    frames = _grey(clip.frames[first + (phase_positions(length, spec.phases) if spec.phases else np.arange(length))])
    room = 1 << (len(frames) - 1).bit_length()  # few shapes, so few compilations, for clips of any length
    padded = np.concatenate([frames, np.zeros((room - len(frames), *frames.shape[1:]), np.uint8)])
    return np.asarray(_padded_dynamic_image(*jax.device_put((padded, np.int32(len(frames)))), spec.weights))


def _flow_grids(clips: Sequence[DecodedClip], spec: MotionSpec) -> list[np.ndarray]:
    windows, earlier, later = [], [], []
    for clip in clips:
        apex = int(sampling.known_apex(*(np.array(x) for x in (clip.onset, clip.apex, clip.offset))))
        at, valid = flow_grid.moments(spec.grid, clip.onset, apex, clip.offset, clip.fps or np.nan)
        used = np.flatnonzero(valid)
        ends = np.concatenate([used, used[-1:] + 1])  # the steps of a window are one stretch
        seen = flow_grid.frames_at(_grey(clip.frames), at[ends])
        windows.append(valid)
        earlier.append(seen[:-1])
        later.append(seen[1:])
    fields = flow_fields(np.concatenate(earlier), np.concatenate(later), spec.tvl1)
    rows = flow_grid.reduce(fields, spec.grid.cells, spec.grid.angle)
    parts = np.split(rows, np.cumsum([len(x) for x in earlier])[:-1])
    return [flow_grid.assemble(spec.grid, part, valid) for part, valid in zip(parts, windows, strict=True)]


def clip_targets(clips: Sequence[DecodedClip], spec: MotionSpec) -> list[np.ndarray]:
    """The motion target of each clip; see `MotionSpec.kind` for shapes and types.

    Args:
      clips: frames of one size.
      spec: what to compute.

    Raises:
      ValueError: key frames of a clip do not lie within its frames in order.
    """
    for k, clip in enumerate(clips):
        to_apex = spec.kind.endswith("onset_apex") or spec.kind == "flow_image"
        first, last = _extent(clip, "onset_apex" if to_apex else spec.extent)
        if not 0 <= first <= last < len(clip.frames):
            raise ValueError(
                f"clip {k}: found onset {clip.onset}, apex {clip.apex}, offset {clip.offset} of {len(clip.frames)} "
                "frames, expected 0 <= onset <= apex, offset < frames"
            )
    if spec.kind == "dynamic_image":
        return [_dynamic_image(clip, spec) for clip in clips]
    if spec.kind == "flow_grid":
        return _flow_grids(clips, spec)
    pairs = [_pairs(clip, spec) for clip in clips]
    earlier, later = (
        np.concatenate([_grey(clip.frames[p[:, side]]) for clip, p in zip(clips, pairs, strict=True)])
        for side in (0, 1)
    )
    fields = np.split(flow_fields(earlier, later, spec.tvl1), np.cumsum([len(p) for p in pairs])[:-1])
    if spec.kind == "flow_pairs":
        return [field.astype(np.float16) for field in fields]
    if spec.kind == "flow_onset_apex":
        return [field[0] for field in fields]
    if spec.kind == "flow_image":
        return [flow_image(field[0], spec.side, spec.border) for field in fields]
    return list(np.asarray(jax.jit(strain)(jnp.asarray(np.concatenate(fields)))))


def clip_target(frames: np.ndarray, onset: int, apex: int, offset: int, spec: MotionSpec) -> np.ndarray:
    """The motion target of one clip: uint8 frames [T, H, W, C] and its key frames (apex -1 where unknown)."""
    return clip_targets([DecodedClip(frames, onset, apex, offset)], spec)[0]


def fingerprint(clip: DecodedClip) -> str:
    """Hexadecimal SHA-256 of all of a clip that a target can depend on: frames, their shape, key frames."""
    frames = np.ascontiguousarray(clip.frames)
    digest = hashlib.sha256(repr((frames.shape, str(frames.dtype), clip.onset, clip.apex, clip.offset)).encode())
    digest.update(frames.tobytes())
    if clip.fps is not None:
        digest.update(repr(float(clip.fps)).encode())
    return digest.hexdigest()


def compute_targets(
    clips: Callable[[int], DecodedClip],
    count: int,
    spec: MotionSpec,
    cache: MotionCache,
) -> list[np.ndarray]:
    """The motion target of `count` clips, from the cache where it has them.

    Args:
      clips: gives clip k; called again for those that must be computed, so that not all need be in memory.
      count: number of clips.
      spec: what to compute.
      cache: what was computed before, in this run or any other.
    """
    with Progress(f"motion {spec.kind}", count, "clips") as progress:
        return cache.get(
            [fingerprint(clips(k)) for k in range(count)],
            spec.key(),
            lambda wanted: clip_targets([clips(k) for k in wanted], spec),
            chunk=4 if spec.varies or spec.kind == "flow_grid" else 64,
            progress=progress.advance,
        )


def store_targets(
    store: ClipStore, specs: Mapping[str, MotionSpec], cache: MotionCache, clips: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Motion targets of all clips of a store, for `store.replace(motion=jax.device_put(...))`.

    Args:
      store: n clips.
      specs: what to compute, by the name under which a system looks for it.
      cache: see `compute_targets`.
      clips: names of the clips, for messages.

    Returns:
      for each name an array [n, ...]; where the number of fields differs from clip to clip, the fields of all clips
      one after another [M, ...], and int32 [n] under `<name>_start`, row of a clip's first.

    Raises:
      UserError: a clip holds flow instead of pictures.
    """
    frames, start, length = (np.asarray(x) for x in (store.frames, store.start, store.length))
    keys = [np.asarray(x) for x in (store.onset, store.apex, store.offset)]
    flow_clips = np.flatnonzero(np.asarray(store.modality) == MODALITIES.index("flow_strain"))
    if len(flow_clips) and specs:
        k = int(flow_clips[0])
        raise UserError(
            f"clip {clips[k] if clips is not None else k} holds flow and strain already; {', '.join(specs)} must be "
            "computed from pictures: leave such clips out, or choose a system without motion targets"
        )

    fps = np.asarray(store.fps)
    named_clips = np.array(clips if clips is not None else np.arange(len(start)))

    def clip(k: int, timed: bool) -> DecodedClip:
        own = float(fps[k]) if timed else None
        onset, apex, offset = (int(x[k]) for x in keys)
        return DecodedClip(frames[start[k] : start[k] + length[k]], onset, apex, offset, own)

    targets: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        if spec.timed:
            sampling.require_fps(f"motion target {name} with a window in seconds", named_clips, fps)
        found = compute_targets(functools.partial(clip, timed=spec.timed), len(start), spec, cache)
        if spec.varies:
            targets[name] = np.concatenate(found)
            targets[f"{name}_start"] = np.cumsum([0, *(len(f) for f in found[:-1])]).astype(np.int32)
        else:
            targets[name] = np.stack(found)
    return targets
