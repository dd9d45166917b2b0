"""Procedural faces with exact action units, key frames, landmarks and dense flow.

Everything but the TFDS builder is numpy, scipy and OpenCV: no TensorFlow, no JAX.
"""

VERSION = "1.0.0"
