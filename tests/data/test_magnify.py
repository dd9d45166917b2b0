"""Motion magnification on waves whose movement is known, on clips without any, and on noise."""

import math

import numpy as np
import pytest

from mer_jax.data import magnify
from mer_jax.data.clips import MODALITIES
from mer_jax.data.magnify import Magnification
from mer_jax.data.motion_cache import MotionCache
from mer_jax.errors import UserError
from tests.training import toy

T, SIZE = 16, 96
MIDDLE = slice(40, 56)  # whole waves, away from the continued edges
ALL = {"band": (0.0, 0.5), "unit": "cycles"}


def wave(movement, wavelength):
    """Grey levels [T, SIZE, SIZE] of a wave along x that is moved by `movement` [T] pixels to the right."""
    x = np.arange(SIZE) - movement[:, None]
    return np.repeat((128 + 60 * np.cos(2 * math.pi / wavelength * x))[:, None], SIZE, axis=1).astype(np.float32)


def movement_of(clip, wavelength):
    """Movement [T] in pixels and amplitude [T] of a wave in the middle of a clip."""
    k = 2 * math.pi / wavelength
    line = clip[:, SIZE // 2, MIDDLE] - 128
    found = 2 * (line * np.exp(-1j * k * np.arange(SIZE)[MIDDLE])).mean(1)
    return -np.angle(found) / k, np.abs(found)


def cosine(k, amplitude):
    """Cosine k of a clip, 0 in the first frame."""
    values = amplitude * np.cos(math.pi * k * (np.arange(T) + 0.5) / T)
    return values - values[0]


@pytest.mark.parametrize("wavelength", [4, 8, 16])
def test_phase_moves_a_wave_by_one_plus_alpha(wavelength):
    movement = cosine(1, -0.05)
    how = Magnification("phase", alpha=9, **ALL)
    clip = wave(movement, wavelength)

    found, amplitude = movement_of(clip + magnify.magnified_change(clip, how), wavelength)

    np.testing.assert_allclose(found - found[0], 10 * movement, atol=0.03 * 10 * np.ptp(movement))
    np.testing.assert_allclose(amplitude, 60, rtol=0.05)  # moved, not made stronger


def test_eulerian_multiplies_the_change_since_the_first_frame():
    movement = cosine(1, -0.01)
    clip = wave(movement, 8)
    how = Magnification("eulerian", alpha=9, cutoff=0, **ALL)

    found = clip + magnify.magnified_change(clip, how)

    np.testing.assert_allclose(found[:, MIDDLE, MIDDLE], (clip + 9 * (clip - clip[0]))[:, MIDDLE, MIDDLE], atol=0.1)
    moved, _ = movement_of(found, 8)
    np.testing.assert_allclose(moved, 10 * movement, atol=0.04 * 10 * np.ptp(movement))  # first order


@pytest.mark.parametrize("kind", ["phase", "eulerian"])
def test_only_changes_of_the_band_are_magnified(kind):
    # at 100 frames a second cosine k of 16 frames has k * 3.125 Hz
    how = Magnification(kind, alpha=9, band=(2.0, 7.0), cutoff=0)
    inside, outside = wave(cosine(2, 0.01), 8), wave(cosine(4, 0.01), 8)

    grown = np.ptp(movement_of(inside + magnify.magnified_change(inside, how, 100.0), 8)[0])
    np.testing.assert_allclose(grown, 10 * np.ptp(cosine(2, 0.01)), rtol=0.05)
    assert np.abs(magnify.magnified_change(outside, how, 100.0)[:, MIDDLE, MIDDLE]).max() < 0.05
    assert np.abs(magnify.magnified_change(outside, how, 50.0)[:, MIDDLE, MIDDLE]).max() > 1  # now at 6.25 Hz


@pytest.mark.parametrize("kind", ["phase", "eulerian"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_clip_without_movement_stays_itself(kind, channels):
    clip = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 20, 24, channels), np.uint8), 5, axis=0)
    np.testing.assert_array_equal(magnify.magnify(clip, Magnification(kind), 100.0), clip)


def test_phase_moves_noise_and_eulerian_multiplies_it():
    noise = 128 + 2 * np.random.default_rng(0).normal(size=(T, SIZE, SIZE)).astype(np.float32)
    before = noise.std(0).mean()
    after = {
        kind: (noise + magnify.magnified_change(noise, Magnification(kind, alpha=9, cutoff=0, **ALL))).std(0).mean()
        for kind in ("phase", "eulerian")
    }
    assert after["phase"] < 1.2 * before
    np.testing.assert_allclose(after["eulerian"], 10 * before, rtol=0.1)


def test_colours_change_by_the_change_of_the_luma():
    grey = np.clip(np.rint(wave(cosine(1, -0.1), 16)), 0, 255).astype(np.uint8)[..., None]
    how = Magnification("phase", alpha=5)
    colour = np.concatenate([grey, grey, grey], axis=-1)
    alone, together = magnify.magnify(grey, how, 100.0), magnify.magnify(colour, how, 100.0)
    np.testing.assert_allclose(together.astype(int), np.repeat(alone, 3, axis=-1).astype(int), atol=1)
    assert (alone != grey).mean() > 0.3


def test_short_waves_are_magnified_less_where_a_cutoff_says_so():
    movement = cosine(1, -0.01)
    clip = wave(movement, 4)
    how = Magnification("eulerian", alpha=9, cutoff=16, **ALL)
    grown = np.ptp(movement_of(clip + magnify.magnified_change(clip, how), 4)[0]) / np.ptp(movement)
    # the bands of 2.8 and 5.7 pixels share this wave equally; alpha is 10 w / 16 - 1 in each
    expected = 1 + np.mean([10 * w / 16 - 1 for w in (2**1.5, 2**2.5)])
    np.testing.assert_allclose(grown, expected, rtol=0.05)


def test_a_store_is_magnified_clip_by_clip_and_once(tmp_path, monkeypatch):
    store = toy.store(4)
    frames = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    start, length = np.array([0, 3, 5, 6], np.int32), np.array([3, 2, 1, 4], np.int32)
    store = type(store)(**{**vars(store), "frames": frames, "start": start, "length": length})
    how = Magnification("eulerian", alpha=2)

    found = magnify.magnify_store(store, how, MotionCache(tmp_path))

    for begin, count in zip(start, length, strict=True):
        clip = frames[begin : begin + count]
        np.testing.assert_array_equal(found.frames[begin : begin + count], magnify.magnify(clip, how, 100.0))
    assert (found.frames != frames).any()
    np.testing.assert_array_equal(store.frames, frames)

    monkeypatch.setattr(magnify, "magnify", None)  # everything is on disk
    again = magnify.magnify_store(store, how, MotionCache(tmp_path))
    np.testing.assert_array_equal(again.frames, found.frames)
    assert magnify.magnify_store(store, Magnification(), MotionCache(tmp_path)) is store


def test_what_cannot_be_magnified_is_refused(tmp_path):
    store, cache = toy.store(3), MotionCache(tmp_path)
    fields = vars(store)
    flow = type(store)(**{**fields, "modality": np.full(3, MODALITIES.index("flow_strain"), np.int32)})
    with pytest.raises(UserError, match="clip b holds flow"):
        magnify.magnify_store(flow, Magnification("phase"), cache, ["b", "c", "d"])
    unknown = type(store)(**{**fields, "fps": np.array([100, np.nan, 100], np.float32)})
    with pytest.raises(UserError, match=r"clip c has no known frame rate.*magnify_unit=cycles"):
        magnify.magnify_store(unknown, Magnification("phase"), cache, ["b", "c", "d"])
    with pytest.raises(UserError, match=r"data\.magnify: found 'fase'"):
        Magnification("fase")
    with pytest.raises(UserError, match=r"data\.magnify_band: found \(3, 1\)"):
        Magnification("phase", band=(3, 1))
    with pytest.raises(UserError, match=r"data\.magnify_alpha: found -1"):
        Magnification("phase", alpha=-1)
