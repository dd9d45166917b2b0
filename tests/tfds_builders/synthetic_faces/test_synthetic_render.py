import hashlib

import cv2
import numpy as np
import pytest

from mer_jax.data.frames import decode
from tfds_builders.synthetic_faces import generate
from tfds_builders.synthetic_faces.faces import SIDES, person
from tfds_builders.synthetic_faces.render import Pose, Renderer

SIZE = 64


@pytest.fixture(scope="module")
def renderer():
    return Renderer("synthetic_test", "p001", SIZE)


def both(unit, value=1.0):
    return {(unit, side): value for side in SIDES}


def shift_between(a, b):
    """Least-squares translation (u, v) of grey images, in pixels (linearised: small motion)."""
    a, b = (cv2.GaussianBlur(x.mean(-1), (0, 0), 2.5) for x in (a, b))  # central differences need smooth images
    gy, gx = np.gradient((a + b) / 2)
    inner = (slice(10, -10), slice(10, -10))
    system = np.stack([gx[inner].ravel(), gy[inner].ravel()], 1)
    return np.linalg.lstsq(system, (a - b)[inner].ravel(), rcond=None)[0]


@pytest.mark.parametrize("shift", [(0.1, 0.0), (0.0, -0.15), (0.25, 0.2)])
def test_a_sub_pixel_movement_is_rendered_to_two_hundredths_of_a_pixel(renderer, shift):
    still = renderer.clean(Pose({}))
    moved = renderer.clean(Pose({}, shift=(shift[0] / SIZE, shift[1] / SIZE)))
    np.testing.assert_allclose(shift_between(still, moved), shift, atol=0.02)


def test_the_exact_flow_of_a_moving_head_is_its_similarity(renderer):
    pose = Pose(both(12, 0.3), shift=(0.01, -0.02), rotation=0.05, scale=1.02)
    still = Pose(both(12, 0.3))
    flow = renderer.flow(still, pose)
    centre = (np.arange(SIZE) + 0.5) / SIZE
    points = np.stack(np.meshgrid(centre, centre), -1).reshape(-1, 2)
    expected = (pose.to_frame(points) - points) * SIZE
    np.testing.assert_allclose(flow.reshape(-1, 2), expected, atol=1e-3)


def test_the_exact_flow_predicts_the_second_frame(renderer):
    """Warping the second frame back by the flow gives the first one, where skin is seen in both."""
    before, after = Pose({}), Pose({**both(12, 0.5), **both(4, 0.5)}, shift=(0.004, 0.003))
    a, b = renderer.clean(before), renderer.clean(after)
    flow = renderer.flow(before, after)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    back = cv2.remap(b, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)
    moving = np.linalg.norm(flow, axis=-1) > 0.5
    assert np.abs(back - a)[moving].mean() < 0.45 * np.abs(b - a)[moving].mean()


@pytest.mark.parametrize(
    ("unit", "point", "direction"),
    [
        (1, 21, (0, -1)), (2, 18, (0, -1)), (4, 20, (0.4, 1)), (9, 31, (0, -1)), (10, 50, (0, -1)),
        (12, 48, (-1, -0.7)),
        (14, 48, (-1, 0)), (15, 48, (0, 1)), (17, 8, (0, -1)), (20, 48, (-1, 0.2)), (26, 8, (0, 1)),
    ],
)  # fmt: skip
def test_action_units_move_their_landmarks_the_way_facs_says(renderer, unit, point, direction):
    moved = renderer.landmarks(Pose(both(unit))) - renderer.landmarks(Pose({}))
    towards = np.array(direction) / np.linalg.norm(direction)
    assert moved[point] @ towards > 0.5 * np.linalg.norm(moved[point]) > 0.2


def test_one_sided_activation_leaves_the_other_side_still(renderer):
    moved = np.linalg.norm(renderer.landmarks(Pose({(12, "left"): 1.0})) - renderer.landmarks(Pose({})), axis=1)
    assert moved[54] > 1.5
    assert moved[48] < 0.15


def test_lids_close_and_lips_open(renderer):
    def height(points, upper, lower):
        return points[lower, 1] - points[upper, 1]

    open_eye, shut = renderer.landmarks(Pose({})), renderer.landmarks(Pose({}, blink=1.0))
    assert height(shut, 37, 41) < 0.35 * height(open_eye, 37, 41)
    lips = renderer.landmarks(Pose(both(26)))
    assert height(lips, 62, 66) > height(open_eye, 62, 66) + 2


def test_landmarks_follow_the_exact_flow(renderer):
    before, after = Pose(both(4, 0.2)), Pose({**both(4, 0.8), **both(15, 0.7)}, shift=(0.01, 0), rotation=0.02)
    flow = renderer.flow(before, after)
    start, end = renderer.landmarks(before), renderer.landmarks(after)
    for point in (8, 18, 21, 30, 33, 48, 54):  # points on skin
        x, y = start[point]
        seen = [cv2.remap(flow[..., k], np.float32([[x]]), np.float32([[y]]), cv2.INTER_LINEAR)[0, 0] for k in (0, 1)]
        np.testing.assert_allclose(end[point] - start[point], seen, atol=0.05)


def test_people_are_functions_of_their_names_and_differ():
    a, b, again = person("x", "p001"), person("y", "p001"), person("x", "p001")
    np.testing.assert_array_equal(a.landmarks, again.landmarks)
    assert np.abs(a.landmarks - b.landmarks).max() > 0.01
    cohorts = {c.cohort for c in generate.CONFIGS.values()}
    assert len(cohorts) == len(generate.CONFIGS)  # macro, micro, micro_dev and the tiny sets share nobody


def test_the_generator_is_frozen():
    """A changed hash means other data: raise VERSION, build again, measure again, then change the hash here."""
    digest = hashlib.sha256()
    for config in ("tiny_micro", "tiny_macro"):
        job = generate.clip_jobs(config)[3]
        record = generate.render_clip(job)
        # mean intensities in whole grey levels: robust to the last bit of an interpolation
        blocks = [decode(f).astype(float).reshape(8, 4, 8, 4, 3).mean((1, 3)) for f in record.frames]
        digest.update(np.rint(np.stack(blocks)).astype(np.uint8).tobytes())
        digest.update(repr((record.clip, record.onset, record.apex, record.offset, record.emotion)).encode())
    assert (generate.VERSION, digest.hexdigest()[:16]) == ("1.0.0", "3a9ecc5aea0c15c6")
