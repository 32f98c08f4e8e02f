"""How sure a mean over categories is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excitation_jax.evaluation.intervals import of_mean_over_categories


def plain_mean(pairs, drawn):
    """The score of some photographs, each as often as it was drawn, by loops."""
    hits: dict = {}
    for place in drawn:
        for own, category, hit in pairs:
            if own == place:
                hits.setdefault(category, []).append(hit)
    return np.mean([np.mean(own) for own in hits.values()])


def test_ends_are_those_of_all_draws_that_there_are():
    """Three photographs can be drawn in 27 ways; a thousand draws come to the same shares."""
    pairs = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 1, 1), (2, 2, 1)]
    every = [plain_mean(pairs, drawn) for drawn in itertools.product(range(3), repeat=3)]
    places, categories, hits = (np.array(column) for column in zip(*pairs, strict=True))
    for confidence in (0.3, 0.5, 0.7):
        (found,) = of_mean_over_categories(
            places, categories, hits[:, None], confidence=confidence, draws=20000
        )
        # An end may fall to either side of a step between two values that a draw can have.
        for end, share in zip(found, ((1 - confidence) / 2, (1 + confidence) / 2), strict=True):
            low = np.quantile(every, share - 0.04, method="lower")
            high = np.quantile(every, share + 0.04, method="higher")
            assert low - 1e-9 <= end <= high + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_ends_lie_round_each_methods_own_and_names_do_not_matter(seed, photographs, classes, count):
    rng = np.random.default_rng(seed)
    pairs = [(p, c) for p in range(photographs) for c in range(classes) if rng.random() < 0.6]
    pairs = pairs or [(0, 0)]
    places, categories = np.array(pairs).T
    hits = rng.random((len(pairs), count)) < 0.5
    found = of_mean_over_categories(places, categories, hits, draws=200)
    assert found.shape == (count, 2) and (0 <= found).all() and (found <= 1).all()
    assert (found[:, 0] <= found[:, 1]).all()
    for method in range(count):  # the draws are the same, whoever is played beside
        alone = of_mean_over_categories(places, categories, hits[:, [method]], draws=200)
        np.testing.assert_array_equal(alone[0], found[method])
    renamed = of_mean_over_categories(7 * places + 3, 9 - categories, hits, draws=200)
    np.testing.assert_allclose(renamed, found)
    mirrored = of_mean_over_categories(places, categories, ~hits, draws=200)
    np.testing.assert_allclose(1 - mirrored[:, ::-1], found, atol=1e-12)


def test_photographs_are_drawn_with_all_their_pairs():
    """A photograph whose ten categories hit together makes the score less sure than ten."""
    hits = np.repeat(np.arange(20) % 2 == 0, 10)[:, None]
    together = np.repeat(np.arange(20), 10)
    categories = np.tile(np.arange(10), 20)
    (whole,) = of_mean_over_categories(together, categories, hits)
    (apart,) = of_mean_over_categories(np.arange(200), categories, hits)
    assert whole[1] - whole[0] > 2 * (apart[1] - apart[0])


@pytest.mark.slow
def test_an_interval_has_the_mean_in_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    chances = np.array([0.2, 0.5, 0.9])
    inside = 0
    for _ in range(200):
        categories = np.tile(np.arange(3), 30)
        hits = rng.random(90) < chances[categories]
        ((low, high),) = of_mean_over_categories(
            np.arange(90), categories, hits[:, None], draws=300
        )
        inside += low <= chances.mean() <= high
    assert 0.9 < inside / 200 < 0.99


def test_absent_categories_count_as_never_hit_where_their_number_is_given():
    found = of_mean_over_categories([0, 1], [0, 1], [[True], [True]], of=8)
    assert found.tolist() == [[0.125, 0.25]]
