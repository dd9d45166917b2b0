"""mer_jax: micro-expression recognition in JAX/Flax, from a laptop to a TPU pod."""

import os

os.environ.setdefault("EPATH_USE_TF", "0")  # etils would import TensorFlow, where it is installed, to read gs://

__version__ = "0.1.0"
