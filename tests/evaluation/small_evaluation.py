"""The pointing game on digit scenes with a tiny network, killed again and again.

`python small_evaluation.py FOLDER KILLS SEED` starts processes, which it forks before JAX has begun
to run: so they need not import it again. It leaves tables in FOLDER, one for each way to get it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from excitation_jax import methods
from excitation_jax.data.scenes import digit_scenes
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.pointing.table import PointingTable
from excitation_jax.evaluation.points import Questions
from excitation_jax.evaluation.store import Store
from excitation_jax.models import Preprocessing

jax.config.update("jax_disable_most_optimizations", True)  # compiling is what takes the time

SCENES, BATCH = 16 * int(sys.argv[2]), 4  # so that no process ends before it is killed
DATASET = digit_scenes(SCENES, seed=3)
OWN = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)


def model(params, x):
    dims = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["conv"], (8, 8), "SAME", dimension_numbers=dims)
    return jax.nn.relu(x).mean((1, 2)) @ params["head"]


def variables():
    rng = np.random.default_rng(0)
    conv = rng.normal(size=(8, 8, 3, 6)).astype(np.float32)
    return {"conv": conv, "head": rng.normal(size=(6, 10)).astype(np.float32)}


def game() -> pointing.PointingGame:
    def mwp(params, x, classes):
        return methods.mwp(model, params, x, classes, layer=None)

    def red(params, x, classes):
        return jnp.tile(x[:, None, ..., 0], (1, classes.shape[1], 1, 1))

    return pointing.PointingGame(DATASET, {"mwp": mwp, "red": red})


def evaluate(directory: Path, pause: float = 0.0) -> None:
    """Does what is left, and writes DIRECTORY.txt once all is done."""
    played = game()

    store = Store(
        directory,
        {"data": DATASET.name},
        count=SCENES,
        shape=played.shape,
        dtype="uint8",
        batch=BATCH,
    )
    complete = runner.run(
        played,
        jax.tree.map(jnp.asarray, variables()),
        DATASET,
        OWN,
        store,
        on_progress=lambda done, total: time.sleep(pause),
    )
    if complete:
        titles = {"mwp": "MWP", "red": "red", "centre": "centre"}
        counts = pointing.count(store.blocks())
        table = PointingTable(DATASET.name, DATASET.classes, titles, counts, SCENES)
        directory.with_suffix(".txt").write_text(f"{table}\n{table.json()}")


def started(function: Callable[[], None]) -> int:
    """The number of a process that runs the function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks; it has not begun to run here
        pid = os.fork()
    if pid:
        return pid
    try:
        function()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    """How a process ended: 0, an exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def chunks(directory: Path) -> int:
    return sum(path.name == "0" for path in directory.glob("records/c/*/0/0"))


def killed_and_continued(directory: Path, kills: int, rng: random.Random) -> list[int]:
    """Kills as many processes, each after some more batches; then lets one end.

    Returns how many batches were there after each kill.
    """
    there = []
    most = SCENES // BATCH // kills - 1
    for _ in range(kills):
        more = rng.randint(0, max(1, most))
        wanted = chunks(directory) + more
        pid = started(lambda: evaluate(directory, pause=0.03))
        deadline = time.monotonic() + 120
        while more and chunks(directory) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        # Without more batches: while it starts, reads the store or compiles.
        time.sleep(rng.uniform(0, 0.06 if more else 1.5))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        there.append(chunks(directory))
    assert ended(started(lambda: evaluate(directory))) == 0
    return there


def on_eight_devices(directory: Path) -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    assert jax.local_device_count() == 8
    evaluate(directory)
    # As many images a device: as much work for each, and nothing to say to the others.
    (one, _), (each, text) = (cost(devices) for devices in (1, 8))
    assert all(each[what] < 1.1 * one[what] for what in ("flops", "bytes accessed")), (one, each)
    assert not re.search("all-(gather|reduce|to-all)|reduce-scatter|collective", text)


def cost(devices: int) -> tuple[dict, str]:
    """XLA's analysis of what one of some devices does with two images each, and the program."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("batch"))

    def array(*shape: int, dtype: type = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((2 * devices, *shape), dtype, sharding=rows)

    asked = Questions(array(96, 96, 3), array(4, dtype=np.int32), array(4), array(2))
    program = runner.compiled(game(), mesh).lower(variables(), asked).compile()
    return program.cost_analysis(), program.as_text()


def as_process(directory: Path, index: int, port: int) -> None:
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    assert jax.process_index() == index and jax.process_count() == 2
    evaluate(directory)
    jax.distributed.shutdown()


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(exist_ok=True)
    assert ended(started(lambda: evaluate(folder / "whole"))) == 0
    there = killed_and_continued(folder / "killed", kills, random.Random(seed))
    assert ended(started(lambda: on_eight_devices(folder / "eight"))) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [started(lambda i=i: as_process(folder / "two", i, port)) for i in (0, 1)]
    assert [ended(pid) for pid in pair] == [0, 0]
    print(json.dumps({"batches after each kill": there}))


if __name__ == "__main__":
    main()
