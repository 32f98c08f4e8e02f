"""What makes the suite fast: it compiles thousands of small programs and runs each of them once."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

# A traced program is many objects that live long; looking for garbage among the millions of them
# that a process holds in the end takes a second each time.
gc.set_threshold(100_000, 20, 50)

#: XLA's newer way to compile for the CPU takes twice as long, and no test is about it.
QUICKLY = "--xla_cpu_use_fusion_emitters=false"


def known(flag: str) -> bool:
    """Whether the XLA at hand has the flag: it ends a process that sets one it does not have."""
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(probe, env=environment, capture_output=True).returncode == 0


# Read when JAX is first used; the workers of pytest-xdist inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ and known(QUICKLY):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}".strip()

#: Modules whose programs are small. The others compute enough to be worth XLA's optimisations, or
#: measure them.
SMALL = {
    "test_calls", "test_contrastive", "test_gates", "test_masks", "test_method_properties",
    "test_methods", "test_nnx", "test_operations", "test_own_rules", "test_random_networks",
    "test_relevance", "test_report", "test_scatter", "test_tdam", "test_transformations",
    "test_winner_take_all", "test_zoo",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    small = request.module.__name__.rpartition(".")[2] in SMALL
    jax.config.update("jax_disable_most_optimizations", small)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # of no use to the next module, and gigabytes in the end
