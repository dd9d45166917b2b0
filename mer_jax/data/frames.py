"""Single frames: decoding, encoding, and bringing any frame to a square of the store's size."""

from __future__ import annotations

import dataclasses
import re
import zlib

import cv2
import numpy as np

FITS = ("crop", "pad", "stretch")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # damaged images are told in our words, once
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that ends entropy-coded data


class FrameError(ValueError):
    """Bytes that are not a whole image of a supported kind; the message says why."""


def decode(encoded: bytes) -> np.ndarray:
    """Decodes one image.

    Args:
      encoded: the bytes of an image file (PNG, JPEG, BMP, TIFF ...).

    Returns:
      uint8 [H, W, 3] in RGB order, or [H, W, 1] where the file holds one channel. An alpha channel is left out.

    Raises:
      FrameError: the bytes are truncated, damaged, or not an 8-bit image.
    """
    check_whole(encoded)
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FrameError("not an image that can be decoded")
    if image.dtype != np.uint8:
        raise FrameError(f"an image of type {image.dtype}; 8 bits a channel are expected")
    if image.ndim == 2:
        return image[:, :, None]
    # not by numpy's slices: OpenCV lets other threads go on meanwhile
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def encode_png(frame: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] (RGB) or [H, W, 1] losslessly."""
    image = frame[:, :, ::-1] if frame.shape[2] == 3 else frame
    done, encoded = cv2.imencode(".png", image)
    if not done:
        raise FrameError(f"an array of shape {frame.shape} cannot be written as PNG")
    return encoded.tobytes()


def check_whole(encoded: bytes) -> None:
    """Refuses PNG and JPEG bytes that end early or are damaged: decoders fill up a truncated file with grey.

    Raises:
      FrameError: with the reason.
    """
    if not encoded:
        raise FrameError("an empty file")
    if encoded.startswith(_PNG):
        _check_png(encoded)
    elif encoded.startswith(_JPEG):
        _check_jpeg(encoded)


def _check_png(encoded: bytes) -> None:
    at = len(_PNG)
    while at + 12 <= len(encoded):
        size = int.from_bytes(encoded[at : at + 4], "big")
        end = at + 12 + size
        if end > len(encoded):
            break
        body = memoryview(encoded)[at + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(encoded[end - 4 : end], "big"):
            raise FrameError("a damaged PNG (checksum of a chunk does not match)")
        if bytes(body[:4]) == b"IEND":
            return
        at = end
    raise FrameError("a truncated PNG (it ends before its last chunk)")


def _check_jpeg(encoded: bytes) -> None:
    at = 2
    while at + 4 <= len(encoded):
        marker = encoded[at + 1]
        if encoded[at] != 0xFF:
            raise FrameError("a damaged JPEG (a segment does not begin with a marker)")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xD9:
            return
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan: entropy-coded data up to the next marker
            found = _JPEG_MARKER.search(encoded, at)
            if found is None:
                break
            at = found.end() - 2
    if encoded[at : at + 2] == b"\xff\xd9":
        return
    raise FrameError("a truncated JPEG (it ends before its end marker)")


@dataclasses.dataclass(frozen=True)
class Window:
    """A box of a frame and the size it is scaled to.

    Attributes:
      left: x of the box's left edge in the frame; negative where the box is larger than the frame.
      top: y of its upper edge.
      width: width of the box in pixels of the frame.
      height: height of the box.
      out_width: width of the result.
      out_height: height of the result.
    """

    left: int
    top: int
    width: int
    height: int
    out_width: int
    out_height: int

    def image(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> [out_height, out_width, C]: area average when shrinking, bilinear when enlarging.

        What lies outside the frame repeats its edge.
        """
        h, w, channels = frame.shape
        over = (
            max(-self.top, 0), max(self.top + self.height - h, 0),
            max(-self.left, 0), max(self.left + self.width - w, 0),
        )  # fmt: skip
        box = frame[max(self.top, 0) : self.top + self.height, max(self.left, 0) : self.left + self.width]
        if any(over):
            box = cv2.copyMakeBorder(box, *over, cv2.BORDER_REPLICATE)
        if box.shape[:2] != (self.out_height, self.out_width):
            shrinks = self.out_height <= self.height and self.out_width <= self.width
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            box = cv2.resize(box, (self.out_width, self.out_height), interpolation=interpolation)
        return box.reshape(self.out_height, self.out_width, channels)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(x, y) [..., 2] in pixels of the frame -> in pixels of the result (pixel centres at whole numbers)."""
        scale = np.array([self.out_width / self.width, self.out_height / self.height])
        moved = (points - np.array([self.left, self.top]) + 0.5) * scale - 0.5
        return moved.astype(np.float32)


def square(height: int, width: int, size: int, fit: str) -> Window:
    """The way from a frame of any shape to a square.

    Args:
      height: of the frame in pixels.
      width: of the frame in pixels.
      size: side of the square.
      fit: `crop` keeps the central square, `pad` keeps everything and repeats the edge of the short side, `stretch`
        keeps everything and changes the aspect ratio.

    Raises:
      ValueError: unknown `fit`.
    """
    if fit == "stretch":
        return Window(0, 0, width, height, size, size)
    if fit not in FITS:
        raise ValueError(f"fit is one of {FITS}, found {fit!r}")
    side = min(height, width) if fit == "crop" else max(height, width)
    return Window((width - side) // 2, (height - side) // 2, side, side, size, size)


def with_channels(frame: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [H, W, C] -> [H, W, channels]: colour to grey by luma (BT.601), grey to colour by repetition."""
    if frame.shape[2] == channels:
        return frame
    if channels == 1:
        return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, :, None]
    if channels == 3 and frame.shape[2] == 1:
        return np.repeat(frame, 3, axis=2)
    raise ValueError(f"{frame.shape[2]} channels cannot become {channels}")
