"""Shared by all tests: programs compiled and clips built once a test session, absl flags parsed."""

import os
import tempfile

# Tests compile far more than they compute: the slow passes of the compiler cost more than they gain here. (Level 0 is
# faster still, but rounds more coarsely: folds side by side are then 3e-5 from folds one by one.)
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=1",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
).strip()

import jax
from absl import flags

from tests.benchmarks import settings

# One for all workers of a session: they inherit the environment of the process that starts them.
os.environ.setdefault("MER_JAX_TEST_CACHE", tempfile.mkdtemp(prefix="mer_jax_test_cache_"))
# Where tests that run `main` build their clips: once, whoever comes first.
os.environ.setdefault("MER_JAX_TEST_DATA", tempfile.mkdtemp(prefix="mer_jax_test_data_"))
jax.config.update("jax_compilation_cache_dir", os.environ["MER_JAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags

settings.stand_in()  # networks, systems and training are tested without ml_collections too
