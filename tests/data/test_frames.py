"""Single frames: every kind of file back to its pixels, damage refused, squares and their points."""

import cv2
import numpy as np
import pytest

from mer_jax.data import frames

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(kind, image=IMAGE):
    return cv2.imencode(kind, image[..., ::-1] if image.shape[2] == 3 else image)[1].tobytes()


@pytest.mark.parametrize("kind", [".png", ".bmp", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_give_their_pixels_back_in_rgb(kind, channels):
    image = IMAGE[..., :channels]
    found = frames.decode(encoded(kind, image))
    np.testing.assert_array_equal(frames.with_channels(found, 3), frames.with_channels(image, 3))
    np.testing.assert_array_equal(frames.decode(frames.encode_png(image)), image)


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".tiff"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.98])
def test_truncated_files_are_refused_quietly(kind, kept, capfd):
    whole = encoded(kind)
    frames.decode(whole)
    with pytest.raises(frames.FrameError):
        frames.decode(whole[: int(kept * len(whole))])
    assert capfd.readouterr().err == ""


def test_damage_inside_a_png_is_refused():
    whole = bytearray(encoded(".png"))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(frames.FrameError, match="checksum"):
        frames.decode(bytes(whole))


def test_what_is_no_8_bit_image_is_refused():
    deep = cv2.imencode(".png", IMAGE.astype(np.uint16) * 256)[1].tobytes()
    with pytest.raises(frames.FrameError, match="type uint16"):
        frames.decode(deep)
    with pytest.raises(frames.FrameError, match="not an image"):
        frames.decode(b"<html>please log in</html>")


@pytest.mark.parametrize("fit", frames.FITS)
@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
@pytest.mark.parametrize("size", [16, 100])
def test_points_go_the_way_of_the_image(fit, shape, size):
    """A bright blob is found again where its point says."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    point = np.array([24.0, 21.0])
    blob = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 2.0**2))
    way = frames.square(*shape, size, fit)
    seen = way.image(blob.astype(np.uint8)[..., None])[..., 0].astype(float)
    assert seen.shape == (size, size)
    v, u = np.mgrid[:size, :size]
    np.testing.assert_allclose(
        [(seen * u).sum() / seen.sum(), (seen * v).sum() / seen.sum()], way.points(point), atol=0.1
    )


def test_squares():
    np.testing.assert_array_equal(frames.square(20, 30, 20, "crop").image(IMAGE), IMAGE[:, 5:25])
    padded = frames.square(20, 30, 30, "pad").image(IMAGE)
    np.testing.assert_array_equal(padded[5:25], IMAGE)
    np.testing.assert_array_equal(padded[0], IMAGE[0])
    assert frames.square(20, 30, 8, "stretch").image(IMAGE).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="fit is one of"):
        frames.square(20, 30, 8, "squash")


def test_channels():
    grey = frames.with_channels(IMAGE, 1)
    np.testing.assert_allclose(grey[..., 0], IMAGE @ [0.299, 0.587, 0.114], atol=1)
    np.testing.assert_array_equal(frames.with_channels(grey, 3), np.repeat(grey, 3, axis=2))
    with pytest.raises(ValueError, match="2 channels cannot become 3"):
        frames.with_channels(IMAGE[..., :2], 3)
