"""The learning rate falls where the validation error has stopped falling, and only there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import CLASSES, SETTINGS, Small, equal_bits, start, write_voc

from excitation_jax import training
from excitation_jax.training.descent import Descent


def rates(errors, patience, factor):
    """The learning rate after each error, by counting."""
    rate, best, bad, found = 1.0, np.inf, 0, []
    for error in errors:
        bad = 0 if error < best * (1 - 1e-4) else bad + 1
        best = min(best, error) if bad == 0 else best
        if bad == patience:
            rate, bad = rate * factor, 0
        found.append(rate)
    return found


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_rate_is_that_of_counting(patience):
    rng = np.random.default_rng(patience)
    descent = Descent(1.0, 0.9, patience, 0.5)
    for _ in range(3):
        errors = np.cumsum(rng.choice([-1, 0, 1], 12)) + 30.0
        state, found = descent.init(jnp.zeros(2)), []
        for error in errors:
            state = descent.measured(state, float(error))
            found.append(descent.learning_rate(state))
        assert found == rates(errors, patience, 0.5)
        assert len(set(found)) > 1


def test_a_fixed_rate_stays_and_a_lower_one_shortens_the_step():
    gradient, at = jnp.array([2.0, -4.0]), jnp.ones(2)
    for patience, share in ((None, 1.0), (1, 0.1**2)):
        descent = Descent(0.5, 0.9, patience)
        state = descent.init(at)
        for _ in range(3):
            state = descent.measured(state, 7.0)
        moved, state = jax.jit(descent.step)(gradient, state, at)
        np.testing.assert_allclose(moved - at, -0.5 * share * gradient, rtol=1e-4)
        moved, _ = descent.step(gradient, state, at)  # with momentum
        np.testing.assert_allclose(moved - at, -0.5 * share * 1.9 * gradient, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"patience": 1, "factor": 1.0}, r"factor must lie between 0 and 1, got 1\.0"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Descent(0.1, 0.9, **options)


def test_a_run_lowers_its_rate_by_its_validation_and_continues_so(tmp_path):
    records = training.read_voc(write_voc(tmp_path / "voc"), "all", classes=CLASSES)
    seen = {}

    def run(steps=12, stop=None, **changed):
        def on_step(taken, loss, measured):
            seen[taken] = measured
            if taken == stop:
                raise KeyboardInterrupt

        settings = dict(SETTINGS, directory=None, learning_rate=3.0, patience=1, factor=0.5)
        settings |= dict(validation=records[:4], validate_every=2, on_step=on_step) | changed
        return training.fine_tune(Small(), start(), records[4:], steps=steps, **settings)

    whole = run()
    first = dict(seen)
    assert [taken for taken, found in first.items() if found] == [2, 4, 6, 8, 10, 12]
    found = [measured for measured in first.values() if measured]
    expected = rates([measured.error for measured in found], 1, 0.5)
    assert [measured.learning_rate / 3 for measured in found] == pytest.approx(expected)
    assert expected[-1] < 1  # it did fall
    # The error is the loss of the central crops, as the network itself has it.
    logits = training.predict(Small(), whole, records[:4], batch=4, size=16, resized=20)
    signs = 2 * np.array([record.labels for record in records[:4]]) - 1
    error = np.log1p(np.exp(-signs * logits)).sum(1).mean()
    assert found[-1].error == pytest.approx(error, rel=1e-4)
    # With the last step's own measurement, a run that is made longer would not be the same.
    with pytest.raises(KeyboardInterrupt):
        run(directory=tmp_path / "run", stop=5)
    run(directory=tmp_path / "run", steps=7)
    assert equal_bits(run(directory=tmp_path / "run"), whole)
    for changed, message in (
        ({"patience": 2}, r"plateau was \[1, 0.5, 2\], is \[2, 0.5, 2\]"),
        ({"validation": records[:3]}, "records was "),
    ):
        with pytest.raises(FileExistsError, match=message):
            run(directory=tmp_path / "run", **changed)
