"""`python -m mer_jax.training.compile`: does a config fit into a TPU slice? See `mer_jax.compiling`."""

import runpy

if __name__ == "__main__":
    # By name: systems and configs are known upstairs only, and arrows in the house point down.
    runpy.run_module("mer_jax.compiling", run_name="__main__", alter_sys=True)
