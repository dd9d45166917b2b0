"""SIGTERM is heard after saves, and by every object of the process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
import jax, jax.numpy as jnp
jax.distributed.initialize("localhost:" + sys.argv[1], 1, 0)
from pathlib import Path
from mer_jax.training import checkpoint, mesh
preemption, rolling = mesh.Preemption(), checkpoint.Rolling(Path(sys.argv[2]))
for chunk in range(1, 60):
    if chunk in (3, 6):
        rolling.save(100 * chunk, {"x": jnp.ones(3)}, {})
    if chunk == 8:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    if preemption.reached():
        rolling.close()
        assert preemption.reached() and preemption.reached()  # once heard, it stays so
        print("heard", chunk, flush=True)
        os._exit(0)
print("never heard")
"""


def test_a_sigterm_after_saves_is_heard_within_a_few_chunks(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(port), str(tmp_path / "states")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    heard = done.stdout.split()
    assert heard[0] == "heard", (done.stdout, done.stderr)
    assert int(heard[1]) <= 20
    assert [p.name for p in (tmp_path / "states").iterdir()] == ["600"]  # older states are gone
