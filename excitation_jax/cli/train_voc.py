"""The command `python -m excitation_jax.training`: MobileNetV2 for the classes of VOC.

    python -m excitation_jax.training --weights MOBILENET_V2.npz --voc VOC --out RUN

Interrupt it whenever you like: the same command continues. What it leaves in RUN is read by
`excitation_jax.training.load_fine_tuned`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from ..models import mobilenet_v2
from ..training.finetune import SAVE_EVERY, fine_tune
from ..training.labelled import VOC_CLASSES, read_splits
from ..training.output_layer import new_output_layer
from ..training.scoring import BATCH, precision_of, predict
from .dependence import TRAINING, given


def main(argv: list[str] | None = None) -> int:
    """Reads the data, trains with a progress bar, and prints the mean average precision.

    Returns:
        0, or 130 after Ctrl-C. Exits with 2 and one line if something is wrong with the arguments,
        the files or the directory.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        _train(arguments)
    except (ImportError, ValueError, OSError, FloatingPointError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"interrupted: the same command continues in {arguments.out}", file=sys.stderr)
        return 130
    return 0


def _train(arguments: argparse.Namespace) -> None:
    try:
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
    except ImportError as error:
        raise ImportError(
            'the progress bar needs rich: pip install "excitation-jax[training]"'
        ) from error
    records, tests = read_splits(
        arguments.voc,
        arguments.train,
        arguments.test,
        arguments.coco,
        difficult=not arguments.without_difficult,
    )
    print(f"{len(records)} photographs to train with, {len(tests)} to test with")
    model = mobilenet_v2.MobileNetV2(len(VOC_CLASSES))
    variables = new_output_layer(model, mobilenet_v2.load_npz(arguments.weights))
    start = time.perf_counter()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=arguments.steps)
        losses: list[float] = []
        precisions: list[float] = []

        def on_step(taken: int, loss: float, precision: float | None) -> None:
            losses.append(loss)
            progress.update(task, completed=taken)
            if precision is not None:
                line = f"step {taken:5d}  loss {np.mean(losses):.3f}  mAP {precision:.3f}"
                progress.console.print(line, highlight=False)
                losses.clear()
                precisions.append(precision)

        variables = fine_tune(
            model,
            variables,
            records,
            steps=arguments.steps,
            batch=arguments.batch,
            seed=arguments.seed,
            learning_rate=arguments.learning_rate,
            momentum=arguments.momentum,
            directory=arguments.out,
            given=given(arguments, TRAINING),
            save_every=arguments.save_every,
            validation=tests,
            validate_every=arguments.validate_every,
            on_step=on_step,
        )
        progress.update(task, completed=arguments.steps)
    if not precisions:  # the run was complete before
        precisions = [precision_of(tests, predict(model, variables, tests, batch=arguments.batch))]
    print(f"mAP on {len(tests)} photographs: {precisions[-1]:.3f}")
    print(f"{time.perf_counter() - start:.0f} s; wrote {arguments.out.resolve()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m excitation_jax.training",
        description="Train MobileNetV2's output layer for VOC's classes.",
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="of MobileNetV2, an .npz file")
    add("--voc", type=Path, required=True, help="folder with JPEGImages, Annotations, ImageSets")
    add("--coco", type=Path, help="folder with annotations and train2017, to train with as well")
    add("--out", type=Path, required=True, help="directory for checkpoints, new or interrupted")
    add("--train", default="trainval", metavar="SPLIT", help="default: %(default)s")
    add("--test", default="test", metavar="SPLIT", help="never trained with; default: %(default)s")
    add(
        "--without-difficult",
        action="store_true",
        help="objects that VOC flags as difficult do not count",
    )
    numbers = {
        "--steps": 180,
        "--batch": BATCH,
        "--seed": 0,
        "--learning-rate": 0.01,
        "--momentum": 0.9,
        "--save-every": SAVE_EVERY,
        "--validate-every": 30,
    }
    for name, default in numbers.items():
        add(name, type=type(default), default=default, help="default: %(default)s")
    return parser
