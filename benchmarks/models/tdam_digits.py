"""Top-down attention (TDAM) on the digits model: with and without, everything else the same.

    python -m benchmarks.models.tdam_digits [--steps 1200] [--seeds 3] [--json FILE]

Each row is a network trained from random weights on the same scenes for the same number of steps:
the mean average precision on 1000 test scenes, and the pointing game on 500. A training run of
1200 steps takes about six minutes on two cores, and a fifth more with attention.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.digits.digits_pointing import play
from excitation_jax.digits import DigitsNet, make_scenes
from excitation_jax.digits.train import predict, train
from excitation_jax.maps.average_precision import mean_average_precision


def compare(steps: int, seeds: int) -> Iterator[dict[str, Any]]:
    """One row for each network and seed."""
    scenes = make_scenes(0, 1000, "test")
    for seed in range(seeds):
        for attention_steps in (1, 2):
            model, start = DigitsNet(attention_steps=attention_steps), time.process_time()
            variables = jax.block_until_ready(train(steps, seed, model=model))
            spent = time.process_time() - start
            scores = predict(variables, scenes.images, model=model)
            hits = play(500, network=(model, variables))
            yield {
                "runs of stage 3": attention_steps,
                "seed": seed,
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
                "mAP": mean_average_precision(scenes.labels, scores),
                "training CPU s": round(spent),
                **{method: row["hits"] for method, row in hits.items()},
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rows = []
    for row in compare(options.steps, options.seeds):
        rows.append(row)
        print(row, flush=True)
    for attention_steps in (1, 2):
        chosen = [row for row in rows if row["runs of stage 3"] == attention_steps]
        means = {
            name: f"{np.mean([row[name] for row in chosen]):.4f}"
            for name in ("mAP", "gradient", "MWP", "c-MWP")
        }
        print(f"{attention_steps} runs of stage 3, {len(chosen)} seeds: {means}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
