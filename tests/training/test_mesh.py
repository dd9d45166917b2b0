"""Together: nobody runs what another process still compiles."""

import jax
import numpy as np

from mer_jax.training import mesh


def test_a_program_is_compiled_then_waited_for_then_run(monkeypatch):
    order = []

    class Compiled:
        def __init__(self, run):
            self._run = run

        def __call__(self, *arguments):
            order.append("run")
            return self._run(*arguments)

    class Lowered:
        def __init__(self, lowered):
            self._lowered = lowered

        def compile(self):
            order.append("compile")
            return Compiled(self._lowered.compile())

    class Function:
        def lower(self, *arguments):
            return Lowered(jax.jit(lambda x, n: x * n).lower(*arguments))

    monkeypatch.setattr(mesh, "barrier", order.append)
    together = mesh.Together(Function())
    assert float(together(np.float32(3), np.int32(2))) == 6
    assert float(together(np.float32(4), np.int32(3))) == 12
    assert order == ["compile", "compiled", "run", "run"]


def test_numbers_are_agreed_on_once_all_have_arrived(monkeypatch):
    order = []
    monkeypatch.setattr(mesh.jax, "process_count", lambda: 2)
    monkeypatch.setattr(mesh, "barrier", order.append)
    monkeypatch.setattr(mesh.multihost_utils, "broadcast_one_to_all", lambda x: order.append("sent") or x)
    assert mesh.agree(3.0) == 3.0
    assert order == ["agree", "sent"]


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(mesh.multihost, "get_barrier_sync_fn", lambda: 1 / 0)
    mesh.barrier("look")
