"""Landmark files from pictures, by the MediaPipe Face Landmarker (extra `landmarks`; you point to its model file).

    python -m mer_jax.data.landmarks --model face_landmarker.task SAMM/006/006_1_2 --out SAMM_landmarks/006/006_1_2.npy
    python -m mer_jax.data.landmarks --model face_landmarker.task SAMM --out SAMM_landmarks

writes `[frames, 68, 2]` (x, y in pixels, iBUG order, NaN where no face was found), for one clip (a folder of frames or
a video file) or for every clip below a folder, in the layout that the dataset builders look for. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import N_LANDMARKS
from mer_jax.errors import MerError, UserError
from mer_jax.files import atomic_open
from mer_jax.progress import Progress

MESH_POINTS = 478  # of the Face Landmarker: face mesh and irises
# iBUG point -> point of MediaPipe's face mesh. INFERRED: nearest by anatomy in its canonical face model, the jaw in
# even steps. The contour of the mesh is where the cheek turns away, so jaw points move with the head, not the skin.
IBUG_FROM_MESH = (
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 98, 97, 2, 326, 327,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 81, 13, 311, 308, 402, 14, 178,  # inner lips
)  # fmt: skip
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".wmv", ".m4v", ".webm")


class FaceLandmarker:
    """68 landmarks of a picture; a context manager, since MediaPipe holds threads.

    Every picture is looked at by itself: tracking between frames would smooth the small movements away.

    Args:
      model: the model file (`face_landmarker.task`).

    Raises:
      UserError: MediaPipe is not installed, no such file, or a file that it cannot use.
    """

    def __init__(self, model: Path) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise UserError(
                "landmarks need MediaPipe, which is not installed: pip install 'mer_jax[landmarks]'; or bring landmark "
                "files of your own ([frames, 68, 2] .npy as from dlib, or OpenFace's .csv)"
            ) from None
        if not model.is_file():
            raise UserError(
                f"--model {model}: file not found; expected the model file of the MediaPipe Face Landmarker "
                "(face_landmarker.task), which its documentation offers for download"
            )
        self._mediapipe = mediapipe
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)), running_mode=vision.RunningMode.IMAGE, num_faces=1
        )
        try:
            self._detector: Any = vision.FaceLandmarker.create_from_options(options)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"--model {model}: MediaPipe cannot use it ({' '.join(str(error).split())[:200]})"
            ) from None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] (RGB) or [H, W, 1] -> float32 [68, 2], pixel centres at whole numbers; NaN without a face."""
        height, width = frame.shape[:2]
        picture = np.ascontiguousarray(frames_lib.with_channels(frame, 3))
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=picture)
        faces = self._detector.detect(image).face_landmarks
        if not faces:
            return np.full((N_LANDMARKS, 2), np.nan, np.float32)
        mesh = np.array([(point.x, point.y) for point in faces[0]], np.float64)
        return (mesh[list(IBUG_FROM_MESH)] * [width, height] - 0.5).astype(np.float32)

    def close(self) -> None:
        """Ends MediaPipe's threads."""
        self._detector.close()

    def __enter__(self) -> FaceLandmarker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_clips(path: Path) -> list[Path]:
    """The clips at or below a path, sorted: video files, and folders that hold images.

    Raises:
      UserError: there is nothing at that path, or no clip.
    """
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: found no folder or video file ({', '.join(VIDEOS)}) there")
    below = [path, *sorted(path.rglob("*"))]
    videos = [p for p in below if p.is_file() and p.suffix.lower() in VIDEOS]
    clips = sorted(videos + [p for p in below if p.is_dir() and _images(p)])
    if not clips:
        raise UserError(f"{path}: found no frames ({', '.join(IMAGES)}) and no videos in it or below")
    return clips


def read_clip(path: Path) -> Iterator[np.ndarray]:
    """The frames of a clip, uint8 [H, W, C], in the order of the builders: by the last number in their names.

    Raises:
      UserError: a frame or video cannot be decoded.
    """
    if path.is_dir():
        for image in images(path):
            try:
                yield frames_lib.decode(image.read_bytes())
            except (frames_lib.FrameError, OSError) as error:
                raise UserError(f"{image}: {error}") from None
        return
    capture, found = cv2.VideoCapture(str(path)), False
    try:
        while True:
            done, frame = capture.read()
            if not done:
                break
            found = True
            yield np.ascontiguousarray(frame[:, :, ::-1])
    finally:
        capture.release()
    if not found:
        raise UserError(f"{path}: no frame of this video can be decoded")


def images(folder: Path) -> list[Path]:
    """The frames of a folder, by the last number in their names.

    Raises:
      UserError: there are none.
    """
    found = _images(folder)
    if not found:
        raise UserError(f"{folder}: found no frames ({', '.join(IMAGES)}) in this folder")
    return found


def _images(folder: Path) -> list[Path]:
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
    return sorted(images, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)][-1:], p.name))


def write_landmarks(landmarker: FaceLandmarker, source: Path, out: Path) -> tuple[int, int]:
    """Writes the landmark files of all clips of `source`; a file that is there already is kept.

    Args:
      landmarker: finds the landmarks.
      source: a clip, or a folder of clips.
      out: the `.npy` file of the one clip; or a folder, which gets the tree of `source` with a file for each clip.

    Returns:
      Number of clips, and of frames without a face among those looked at now.

    Raises:
      UserError: nothing to read, or several clips for one file.
    """
    clips = find_clips(source)
    if out.suffix == ".npy" and clips != [source]:
        raise UserError(f"--out {out}: {source} holds {len(clips)} clips; expected a folder, not one .npy file")
    lost = 0
    with Progress("finding landmarks", len(clips), "clips") as progress:
        for clip in clips:
            target = out if out.suffix == ".npy" else _target(source, clip, out)
            if not target.is_file():
                points = np.stack([landmarker(frame) for frame in read_clip(clip)])
                lost += int(np.isnan(points).any(axis=(1, 2)).sum())
                with atomic_open(target, "wb") as file:
                    np.save(file, points)
            progress.advance()
    return len(clips), lost


def _target(source: Path, clip: Path, out: Path) -> Path:
    place = clip.relative_to(source) if clip != source else Path(clip.name)
    name = place.name if clip.is_dir() else place.stem
    return out / place.parent / f"{name}.npy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.data.landmarks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("source", type=Path, help="a folder of frames, a video file, or a folder with many of them")
    parser.add_argument("--model", type=Path, required=True, help="face_landmarker.task of MediaPipe")
    parser.add_argument("--out", type=Path, required=True, help="an .npy file (one clip), or a folder")
    given = parser.parse_args(arguments)
    try:
        with FaceLandmarker(given.model) as landmarker:
            clips, lost = write_landmarks(landmarker, given.source, given.out)
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{clips} clips in {given.out}" + (f"; no face found in {lost} frames (NaN there)" if lost else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
