"""Shared by all tests: programs compiled once a test session, absl flags parsed."""

import os
import tempfile

import jax
from absl import flags

os.environ["MER_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="mer_jax_test_cache_")
jax.config.update("jax_compilation_cache_dir", os.environ["MER_JAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags
