"""A training run that is interrupted continues, bit for bit; its directory is its own."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import CLASSES, LONG, SETTINGS, Small, equal_bits, start, write_voc

from excitation_jax import training

PROGRAM = Path(__file__).with_name("small_training.py")


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc")


@pytest.fixture
def run(voc, tmp_path):
    """A function that trains for 8 steps with checkpoints, and takes other settings."""
    records = training.read_voc(voc, "all", classes=CLASSES)

    def train(steps=8, **changed):
        settings = {"records": records, "directory": tmp_path / "run", **SETTINGS, **changed}
        model, variables = settings.pop("model", Small()), settings.pop("variables", start())
        return training.fine_tune(model, variables, steps=steps, **settings)

    return train


def interrupt_at(step):
    def on_step(taken, loss, measured):
        if taken == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("step", [1, 3, 7])
def test_an_interrupted_run_continues_bit_for_bit(run, tmp_path, step):
    seen = {}

    def on_step(taken, loss, measured):
        seen.setdefault(taken, []).append(loss)

    whole = run(directory=None, on_step=on_step)
    with pytest.raises(KeyboardInterrupt):
        run(on_step=interrupt_at(step))
    assert equal_bits(run(on_step=on_step), whole)
    kept = step // SETTINGS["save_every"] * SETTINGS["save_every"]
    assert [taken for taken, losses in seen.items() if len(losses) == 2] == [*range(kept + 1, 9)]
    assert all(len(set(losses)) == 1 for losses in seen.values())
    # Done already: nothing is computed. Longer: the same steps come first.
    assert equal_bits(run(on_step=interrupt_at(8)), whole)
    assert equal_bits(run(steps=11), run(steps=11, directory=None))
    assert equal_bits(training.load_fine_tuned(start(), tmp_path / "run"), run(steps=11))
    with pytest.raises(ValueError, match="run holds 11 steps, more than the 8 asked for"):
        run()


@pytest.mark.slow
def test_a_killed_process_continues_bit_for_bit(voc, tmp_path):
    """SIGKILL at random times, most of them inside a save, since every step has one."""
    whole = training.fine_tune(
        Small(), start(), training.read_voc(voc, "all", classes=CLASSES), **LONG
    )["params"]["logits"]
    out = tmp_path / "out.npz"
    for seconds in [str(random.uniform(0.0, 0.6)) for _ in range(2)]:
        print(f"killed after {seconds} s")
        call = [sys.executable, PROGRAM, voc, tmp_path / "run", out]
        done = subprocess.run([*call, seconds], check=False, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        print("at", sorted(path.name for path in (tmp_path / "run").iterdir()))
    subprocess.run(call, check=True, capture_output=True)
    with np.load(out) as tuned:
        assert equal_bits(dict(tuned), {key: np.asarray(whole[key]) for key in tuned})
    every = {path.name for path in (tmp_path / "run").iterdir()}
    names = {name for name in every if not name.endswith(".partial")}  # of one killed in a moment
    assert names == {"run.json", str(LONG["steps"]), str(LONG["steps"] - 1)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"run holds another run \(seed was 0, is 1\): choose another"),
        ({"batch": 2, "momentum": 0.5}, r"\(batch was 4, is 2; momentum was 0.9, is 0.5\)"),
        ({"normalise": jnp.tanh}, "normalise was 'minus_one_to_one', is "),
        ({"records": 11}, "records was '[0-9a-f]{16}', is "),
        ({"variables": 2.0}, "variables was '[0-9a-f]{16}', is "),
    ],
)
def test_a_directory_belongs_to_one_run(run, voc, changed, message):
    run(steps=1)
    if "records" in changed:
        every = training.read_voc(voc, "all", classes=CLASSES)
        changed = {"records": every[: changed["records"]]}
    if "variables" in changed:
        changed = {"variables": jax.tree.map(lambda leaf: leaf + 2, start())}
    with pytest.raises(FileExistsError, match=message):
        run(**changed)
    run(steps=2, save_every=1)  # which changes nothing about the result


def test_a_directory_with_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="run is not empty and holds no run"):
        run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_damage_is_named(run, tmp_path):
    run(steps=4)
    with pytest.raises(ValueError, match="began with other variables than these"):
        training.load_fine_tuned(jax.tree.map(lambda leaf: leaf + 1, start()), tmp_path / "run")
    for path in (tmp_path / "run" / "4" / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"the checkpoint .*4 is damaged; remove it to continue"):
        run()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is damaged"):
        run()
    with pytest.raises(FileNotFoundError, match="voc holds no run"):
        training.load_fine_tuned(start(), tmp_path / "voc")
    with pytest.raises(KeyboardInterrupt):
        run(directory=tmp_path / "early", on_step=interrupt_at(1))
    with pytest.raises(FileNotFoundError, match="early holds a run without a checkpoint"):
        training.load_fine_tuned(start(), tmp_path / "early")
