"""The command `python -m excitation_jax.digits`: trains the demo model again.

python -m excitation_jax.digits --out DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

from ..digits.scenes import make_scenes
from ..digits.train import STEPS, check_free, predict, save, train
from ..maps.average_precision import mean_average_precision

TEST_SCENES = 1000


def main(argv: list[str] | None = None) -> int:
    """Trains, reports the mean average precision on 1000 test scenes, and saves.

    Returns:
        0, or 130 after Ctrl-C, which leaves nothing behind.
    """
    parser = argparse.ArgumentParser(
        prog="python -m excitation_jax.digits", description="Train the digits demo model."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write, not there yet")
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        check_free(arguments.out)  # now, not after minutes of training
        _train(arguments.out, arguments.steps, arguments.seed)
    except (ImportError, ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def _train(out: Path, steps: int, seed: int) -> None:
    try:
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
    except ImportError as error:
        raise ImportError(
            'the progress bar needs rich: pip install "excitation-jax[plots]"'
        ) from error

    wall, cpu = time.perf_counter(), time.process_time()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps)
        losses: list[jax.Array] = []

        def on_step(taken: int, loss: jax.Array) -> None:
            losses.append(loss)
            progress.update(task, completed=taken)
            if taken % 50 == 0 or taken == steps:
                recent = float(np.mean(losses))
                progress.console.print(f"step {taken:5d}  loss {recent:.4f}")
                losses.clear()

        variables = jax.block_until_ready(train(steps, seed, on_step))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"trained {parameters} parameters in {wall:.0f} s ({cpu:.0f} s of CPU time)")

    scenes = make_scenes(0, TEST_SCENES, "test")
    precision = mean_average_precision(scenes.labels, predict(variables, scenes.images))
    print(f"mAP on {TEST_SCENES} test scenes: {precision:.4f}")
    save(variables, out)
    print(f"wrote {out}")
