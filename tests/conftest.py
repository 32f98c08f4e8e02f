"""What makes the suite fast: it compiles thousands of small programs and runs each of them once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import jax
import pytest
from paths import ROOT

# A traced program is many objects that live long; looking for garbage among the millions of them
# that a process holds in the end takes a second each time.
gc.set_threshold(100_000, 20, 50)

# Some tests run the benchmarks, which are no part of the package. Last on the path, so that the
# package that is tested stays the installed one where there is one.
sys.path.append(str(ROOT))

#: Modules whose programs are small. The others compute enough to be worth XLA's optimisations, or
#: measure them.
SMALL = set(
    "test_calls test_contrastive test_gates test_masks test_method_properties test_methods "
    "test_nnx test_operations test_own_rules test_random_networks test_relevance test_report "
    "test_scatter test_tdam test_transformations test_winner_take_all".split()
)


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    small = request.module.__name__.rpartition(".")[2] in SMALL
    jax.config.update("jax_disable_most_optimizations", small)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # of no use to the next module, and gigabytes in the end
