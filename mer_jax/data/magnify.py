"""Video motion magnification: small movements of a clip made larger before anything else looks at it.

Two ways, fitted to each clip on its own (its length, its frame rate):

  phase     Wadhwa, Rubinstein, Durand & Freeman, "Phase-based video motion processing" (SIGGRAPH 2013), on a Riesz
            pyramid (the same authors, ICCP 2014): each octave band of the picture is a wave with an amplitude, an
            orientation and a phase at every place; the phase moves with the picture, and its change is multiplied.
  eulerian  Wu et al., "Eulerian video magnification" (SIGGRAPH 2012): the change of the intensity itself is multiplied,
            a first-order approximation that holds while (1 + alpha) movement stays below an eighth of a wavelength.

In both, the change is that since the first frame, filtered in time, and what was moved by d is moved by (1 + alpha) d.
Noise is moved by the first and multiplied by the second.

INFERRED, where the papers leave it to the user or speak of long videos:
- bands are an exact tight frame of smooth radial filters, an octave each, made in the frequency domain; what is slower
  than the last one stays as it is, as the low-pass residual of a steerable pyramid does;
- the temporal filter keeps the cosines (DCT) of the clip whose frequency lies in the band: a clip of an expression is
  too short for a recursive filter, and a cosine basis has no jump between last and first frame;
- colour: the luma is magnified, and its change is added to each channel;
- the picture is continued at its edges by reflection.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import scipy.fft

from mer_jax.data.clips import MODALITIES
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.progress import Progress

KINDS = ("none", "phase", "eulerian")
UNITS = ("hz", "cycles")
# Raise it whenever a result changes: what older code left in a cache is then computed afresh.
CODE_VERSION = 1
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
_BORDER = 16  # pixels of continuation, at most a quarter of the picture


@dataclasses.dataclass(frozen=True)
class Magnification:
    """How a clip is magnified.

    Attributes:
      kind: none, phase or eulerian.
      alpha: a movement d becomes (1 + alpha) d. 15 in AKMNet.
      band: lowest and highest frequency of the changes that are magnified; from 0 the displacement since the first
        frame itself is. INFERRED: 0 to 10; an expression of a quarter of a second rises and falls at 2 to 4 Hz.
      unit: of the band: hz, or cycles, a frame, for clips of unknown frame rate (at most 0.5).
      cutoff: eulerian only: wavelength in pixels below which alpha is lowered, so that shorter waves bear the movement
        that the cutoff bears; 0 for the same alpha everywhere. INFERRED: 16.
      blur: phase only: deviation in pixels of the blur of the phase, weighted by amplitude. INFERRED: 2.
    """

    kind: str = "none"
    alpha: float = 15.0
    band: tuple[float, ...] = (0.0, 10.0)
    unit: str = "hz"
    cutoff: float = 16.0
    blur: float = 2.0

    def __post_init__(self) -> None:
        for field, known in (("kind", KINDS), ("unit", UNITS)):
            if getattr(self, field) not in known:
                name = "data.magnify" if field == "kind" else f"data.magnify_{field}"
                raise UserError(f"{name}: found {getattr(self, field)!r}; expected one of {', '.join(known)}")
        if len(self.band) != 2 or not 0 <= self.band[0] < self.band[1]:
            raise UserError(f"data.magnify_band: found {self.band}; expected two frequencies 0 <= low < high")
        for field in ("alpha", "cutoff", "blur"):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) >= 0):
                raise UserError(f"data.magnify_{field}: found {getattr(self, field)}; expected a number of 0 or more")

    def key(self) -> str:
        """Canonical JSON of all that the result depends on beside the clip; the cache's key."""
        facts: dict[str, Any] = {"magnify": self.kind, "code_version": CODE_VERSION, "alpha": self.alpha}
        facts |= {"band": list(self.band), "unit": self.unit}
        facts |= {"blur": self.blur} if self.kind == "phase" else {"cutoff": self.cutoff}
        return json.dumps(facts, sort_keys=True)


def magnify(frames: np.ndarray, how: Magnification, fps: float = math.nan) -> np.ndarray:
    """Magnifies the movements of one clip.

    Args:
      frames: uint8 [T, H, W, C], C = 3 (RGB) or 1.
      how: see Magnification.
      fps: frames a second; read where the band is in Hz.

    Returns:
      uint8 [T, H, W, C]; the first frame is the reference of the change and, with a band from 0 that passes all of it,
      stays as it is. A clip without change is returned unchanged.

    Raises:
      ValueError: the band is in Hz and the frame rate is unknown.
    """
    if how.kind == "none" or how.alpha == 0 or len(frames) < 2:
        return frames
    if how.unit == "hz" and not fps > 0:
        raise ValueError(f"a band in Hz needs the frame rate; found {fps}")
    luma = frames.astype(np.float32) @ _LUMA if frames.shape[-1] == 3 else frames[..., 0].astype(np.float32)
    change = magnified_change(luma, how, fps)
    return np.clip(np.rint(frames + change[..., None]), 0, 255).astype(np.uint8)


def magnified_change(luma: np.ndarray, how: Magnification, fps: float = math.nan) -> np.ndarray:
    """What magnification adds to a clip float32 [T, H, W]: the same shape, 0 where nothing moves."""
    height, width = luma.shape[1:]
    border = min(_BORDER, min(height, width) // 4)
    padded = np.pad(luma, ((0, 0), (border, border), (border, border)), mode="reflect" if border else "edge")
    in_time = temporal_filter(len(luma), how.band, fps if how.unit == "hz" else 1.0)
    spectrum = scipy.fft.fft2(padded)
    total = np.zeros_like(spectrum)
    for band in _bands(*padded.shape[1:]):
        if how.kind == "phase":
            added = _more_phase(spectrum, band, in_time, how)
        else:
            x = _real(spectrum, band.filter)
            added = _attenuated(how, band.wavelength) * _along_time(in_time, x - x[:1])
        total += band.filter * scipy.fft.fft2(added)
    found = scipy.fft.ifft2(total).real
    return np.asarray(found[:, border : border + height, border : border + width], np.float32)


def temporal_filter(length: int, band: tuple[float, ...], rate: float) -> np.ndarray:
    """The band-pass over T frames as a matrix float32 [T, T]: a projection on the clip's cosines.

    Cosine k of a clip has the frequency k rate / (2 T).

    Args:
      length: T.
      band: lowest and highest frequency that pass.
      rate: frames a second; 1 where the band is in cycles a frame.
    """
    basis = scipy.fft.dct(np.eye(length), axis=0, norm="ortho")  # row k is cosine k
    frequency = np.arange(length) * rate / (2 * length)
    kept = basis[(band[0] <= frequency) & (frequency <= band[1])]
    return np.asarray(kept.T @ kept, np.float32)


@dataclasses.dataclass(frozen=True)
class _Band:
    """One octave: its filter [H, W], the two Riesz filters [H, W] and its wavelength in pixels."""

    filter: np.ndarray
    riesz: tuple[np.ndarray, np.ndarray]
    wavelength: float


@functools.lru_cache(maxsize=4)
def _bands(height: int, width: int) -> tuple[_Band, ...]:
    """Octave bands from the highest frequencies down to waves of half the picture; sum of squares 1 above the last."""
    y, x = np.meshgrid(scipy.fft.fftfreq(height), scipy.fft.fftfreq(width), indexing="ij")
    radius = np.hypot(y, x)
    octave = np.log2(np.maximum(radius, 1e-9))  # -1 at the Nyquist frequency of an axis
    direction = tuple((-1j * axis / np.maximum(radius, 1e-9)).astype(np.complex64) for axis in (x, y))
    count = max(int(math.log2(min(height, width))) - 1, 1)
    found = []
    for k in range(count):
        centre = -1.5 - k  # of band k; the first one keeps everything above its centre
        distance = np.abs(octave - centre)
        window = np.where(distance < 1, np.cos(np.pi / 2 * distance), 0.0)
        if k == 0:
            window = np.where(octave > centre, 1.0, window)
        found.append(_Band(window.astype(np.float32), (direction[0], direction[1]), 2.0**-centre))
    return tuple(found)


def _real(spectrum: np.ndarray, response: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.fft.ifft2(spectrum * response).real, np.float32)


def _along_time(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (matrix @ x.reshape(len(x), -1)).reshape(x.shape)


def _attenuated(how: Magnification, wavelength: float) -> float:
    """Alpha of a band (Wu et al., section 3.2).

    The first-order approximation wants (1 + alpha) movement < wavelength / 8: below the cutoff alpha falls such that
    the largest movement stays that of the cutoff.
    """
    if not how.cutoff:
        return how.alpha
    return float(np.clip((1 + how.alpha) * wavelength / how.cutoff - 1, 0, how.alpha))


def _more_phase(spectrum: np.ndarray, band: _Band, in_time: np.ndarray, how: Magnification) -> np.ndarray:
    """What a band [T, H, W] gains when the change of its phase is multiplied by 1 + alpha.

    A band and its two Riesz transforms are (A cos p, A sin p cos o, A sin p sin o): amplitude A, phase p, orientation
    o. The change of phase from frame to frame, as a vector along the orientation, is summed up, filtered, and turned
    into a rotation by alpha times itself.
    """
    wave = _real(spectrum, band.filter)
    across, down = (_real(spectrum, band.filter * r) for r in band.riesz)
    real = wave[1:] * wave[:-1] + across[1:] * across[:-1] + down[1:] * down[:-1]
    turn = [r[1:] * wave[:-1] - wave[1:] * r[:-1] for r in (across, down)]
    norm = np.hypot(*turn)
    step = np.arctan2(norm, real) / np.maximum(norm, 1e-12)
    zero = np.zeros_like(wave[:1])
    amplitude = np.sqrt(wave**2 + across**2 + down**2)
    phase = []
    for t in turn:
        summed = np.cumsum(np.concatenate([zero, t * step]), axis=0)
        phase.append(how.alpha * _blurred(_along_time(in_time, summed), amplitude, how.blur))
    angle = np.hypot(*phase)
    sine = np.sinc(angle / np.pi)  # sin(angle) / angle
    return np.asarray(wave * (np.cos(angle) - 1) - sine * (across * phase[0] + down * phase[1]), np.float32)


def _blurred(x: np.ndarray, weight: np.ndarray, deviation: float) -> np.ndarray:
    """Each frame blurred, places counting by their weight; both [T, H, W]."""
    if not deviation:
        return x
    blur = functools.partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=deviation, borderType=cv2.BORDER_REFLECT_101)
    parts = [blur(w * v) / (blur(w) + 1e-6) for v, w in zip(x, weight, strict=True)]
    return np.stack(parts)


def magnify_store(
    store: ClipStore, how: Magnification, cache: MotionCache, clips: Sequence[str] | None = None
) -> ClipStore:
    """The store with every clip magnified, computed or from the cache on disk.

    Args:
      store: n clips.
      how: see Magnification.
      cache: what was computed before, in this run or any other.
      clips: names of the clips, for messages.

    Raises:
      UserError: a clip holds flow instead of pictures, or its frame rate is unknown and the band is in Hz.
    """
    if how.kind == "none" or how.alpha == 0:
        return store
    frames, start, length, fps = (np.asarray(x) for x in (store.frames, store.start, store.length, store.fps))
    flow = np.flatnonzero(np.asarray(store.modality) == MODALITIES.index("flow_strain"))
    if len(flow):
        raise UserError(f"{_name(clips, flow[0])} holds flow, which cannot be magnified; use data.magnify=none")
    unknown = np.flatnonzero(~(fps > 0))
    if how.unit == "hz" and len(unknown):
        raise UserError(
            f"{_name(clips, unknown[0])} has no known frame rate, which a band in Hz needs; "
            "use data.magnify_unit=cycles with frequencies a frame, such as data.magnify_band=(0.0, 0.1)"
        )

    def clip(k: int) -> np.ndarray:
        return frames[start[k] : start[k] + length[k]]

    def rate(k: int) -> float:
        return float(fps[k]) if how.unit == "hz" else math.nan

    with Progress(f"magnifying ({how.kind})", len(start), "clips") as progress:
        found = cache.get(
            [_fingerprint(clip(k), rate(k)) for k in range(len(start))],
            how.key(),
            lambda wanted: [magnify(clip(k), how, rate(k)) for k in wanted],
            chunk=8,
            progress=progress.advance,
        )
    magnified: Any = np.concatenate(found) if found else frames  # a host array, as in the store
    return dataclasses.replace(store, frames=magnified)


def _name(clips: Sequence[str] | None, k: int) -> str:
    return f"clip {clips[k] if clips is not None else k}"


def _fingerprint(frames: np.ndarray, fps: float) -> str:
    digest = hashlib.sha256(repr((frames.shape, str(frames.dtype), fps)).encode())
    digest.update(np.ascontiguousarray(frames).tobytes())
    return digest.hexdigest()
