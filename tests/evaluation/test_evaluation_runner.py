"""The runner and its store: nothing is lost or counted twice, whatever happens to a process."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from excitation_jax.data import Dataset, Example
from excitation_jax.data.own_shape import OwnShape
from excitation_jax.data.run_directory import write_whole
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.store import Store
from excitation_jax.models import Preprocessing

PROGRAM = Path(__file__).with_name("small_evaluation.py")
PLAIN = Preprocessing((0.0,) * 3, resize=(2, 3), crop=None, warp=True)


def test_killed_or_sharded_or_shared_the_table_is_the_same_byte_for_byte(tmp_path):
    """Five kills by SIGKILL; eight devices, which share the work; two processes."""
    call = [sys.executable, PROGRAM, tmp_path / "out", "5", "1"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    tables = {path.stem: path.read_bytes() for path in (tmp_path / "out").glob("*.txt")}
    assert set(tables) == {"whole", "killed", "eight", "two"}
    assert len(set(tables.values())) == 1 and b"80 images" in tables["whole"]


def test_peak_memory_does_not_grow_with_the_number_of_photographs(tmp_path):
    """1000 photographs of a megabyte, and inputs of 200 kB; of either little may stay."""
    program, count = PROGRAM.with_name("evaluation_memory.py"), 1000
    call = [sys.executable, program, tmp_path, "200", str(count)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads(done.stdout)
    print(f"{few / 1e6:.0f} MB, then {many / 1e6:.0f} MB")
    assert many - few < count * 50e3


def grey(count):
    """Examples whose photographs are as grey as their place."""
    examples = [
        Example(str(i), None, (2, 3), (), pixels=np.full((2, 3, 3), i, np.uint8))
        for i in range(count)
    ]
    return Dataset("grey", (), tuple(examples))


class Greyness:
    """An experiment whose record is twice the photograph's grey level, plus 1."""

    def __init__(self, fails_at=None):
        self.seen, self.fails_at = [], fails_at

    def inputs(self, examples, batch):
        return batch.images

    def compute(self, variables, inputs):
        return variables * inputs.mean((1, 2, 3)) + 1

    def records(self, examples, outputs):
        if self.fails_at in {example.key for example in examples}:
            raise KeyboardInterrupt
        self.seen += [int(example.key) for example in examples]
        return outputs.astype(np.int32)[:, None]


def store_of(directory, count=11, settings=None, batch=3, **changed):
    own = {"shape": (1,), "dtype": "int32", **changed}
    return Store(directory, settings or {"of": "grey"}, count=count, batch=batch, **own)


def run(store, experiment=None, count=11, **options):
    experiment = experiment or Greyness()
    complete = runner.run(experiment, jnp.float32(2), grey(count), PLAIN, store, **options)
    return complete, experiment.seen


def values(store):
    return np.concatenate(list(store.blocks()))[:, 0].tolist()


WANTED = [2 * place + 1 for place in range(11)]


def test_every_record_is_made_once_and_what_is_done_is_not_done_again(tmp_path):
    store = store_of(tmp_path / "a" / "b")
    steps = []
    complete, seen = run(store, on_progress=lambda done, total: steps.append((done, total)))
    assert complete and seen == list(range(11)) and values(store) == WANTED
    assert steps == [(0, 11), (3, 11), (6, 11), (9, 11), (11, 11)]
    again = store_of(tmp_path / "a" / "b")
    assert run(again) == (True, []) and values(again) == WANTED


class Shapes(Greyness):
    """Records the input's height and width; counts the programs."""

    def __init__(self, fails_at=None):
        super().__init__(fails_at)
        self.programs = 0

    def compute(self, variables, inputs):
        self.programs += 1
        height, width = inputs.shape[1:3]
        return 0 * inputs.mean((1, 2, 3)) + 1000 * height + width


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("stopped_at", [None, "3"])
def test_each_shape_has_one_program_and_each_photograph_its_record(tmp_path, in_order, stopped_at):
    own = OwnShape(PLAIN, 32)
    sizes = [(30, 60), (30, 31), (60, 30), (31, 62), (30, 60), (30, 90), (60, 30)]
    made = [
        Example(str(i), None, size, (), pixels=np.full((*size, 3), 9, np.uint8))
        for i, size in enumerate(sizes)
    ]
    dataset = Dataset("shapes", (), tuple(made))
    if in_order:
        dataset = dataset.ordered(lambda example: own.shape(example.size))
    shapes = [own.shape(example.size) for example in dataset]
    store, steps = store_of(tmp_path, count=7), []
    if stopped_at:
        with pytest.raises(KeyboardInterrupt):
            runner.run(Shapes(stopped_at), jnp.float32(2), dataset, own, store)
    experiment = Shapes()
    assert runner.run(
        experiment,
        jnp.float32(2),
        dataset,
        own,
        store,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert values(store) == [1000 * height + width for height, width in shapes]
    assert experiment.programs <= len(set(shapes)) == 4 and steps[-1] == (7, 7)
    if not stopped_at:
        assert experiment.programs == 4 and steps == [(0, 7), (3, 7), (6, 7), (7, 7)]


def test_an_interruption_keeps_whole_batches_and_the_rest_follows(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(store_of(tmp_path), Greyness(fails_at="7"))
    store = store_of(tmp_path)
    assert [store.is_done(turn) for turn in range(4)] == [True, True, False, False]
    with pytest.raises(ValueError, match="is not complete: batch 2 is missing"):
        values(store)
    steps = []
    complete, seen = run(store, on_progress=lambda done, total: steps.append(done))
    assert complete and seen == list(range(6, 11)) and steps == [6, 9, 11]
    assert values(store) == WANTED


def test_processes_do_their_own_share_whoever_is_first(tmp_path):
    store = store_of(tmp_path)
    assert run(store, process=(1, 2)) == (False, [3, 4, 5, 9, 10])
    assert run(store_of(tmp_path), process=(0, 2)) == (True, [0, 1, 2, 6, 7, 8])
    assert values(store) == WANTED
    # Another number of processes finds what these have left.
    (tmp_path / "records/c/2/0").unlink()
    assert run(store_of(tmp_path), process=(1, 3)) == (False, [])
    assert run(store_of(tmp_path), process=(2, 3)) == (True, [6, 7, 8])
    assert values(store) == WANTED


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"of": "green"}}, r"other settings \(of was 'grey', is 'green'\): choose"),
        ({"settings": {"of": "grey", "by": 1}}, r"by was None, is 1"),
        ({"batch": 4}, r"'batch': 3.*, is .*'batch': 4"),
        ({"count": 12}, r"'count': 11.*, is .*'count': 12"),
        ({"dtype": "uint8"}, r"'dtype': 'int32'.*, is .*'dtype': 'uint8'"),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(tmp_path, changed, message):
    run(store_of(tmp_path))
    with pytest.raises(FileExistsError, match=message):
        store_of(tmp_path, **changed)
    assert values(store_of(tmp_path)) == WANTED


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is not empty and holds no records .thesis.tex"):
        store_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("how", ["a bit", "cut off", "empty"])
def test_damaged_records_are_named_and_computed_again_once_removed(tmp_path, how):
    run(store_of(tmp_path))
    chunk = tmp_path / "records" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes({"a bit": content, "cut off": content[:-5], "empty": b""}[how])
    for attempt in (run, values):
        with pytest.raises(ValueError, match="c/1/0 are damaged: remove the file, and what it"):
            attempt(store_of(tmp_path))
    chunk.unlink()
    assert run(store_of(tmp_path)) == (True, [3, 4, 5])
    assert values(store_of(tmp_path)) == WANTED


def test_damaged_settings_and_metadata_are_named(tmp_path):
    run(store_of(tmp_path))
    (tmp_path / "records" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"zarr.json are damaged: remove the file"):
        store_of(tmp_path)
    (tmp_path / "records" / "zarr.json").unlink()
    assert run(store_of(tmp_path)) == (True, []) and values(store_of(tmp_path)) == WANTED
    for content in ("{", "[]"):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(ValueError, match=r"settings.json is damaged: "):
            store_of(tmp_path)


def test_half_a_settings_file_of_a_killed_process_is_no_obstacle(tmp_path):
    (tmp_path / ".settings.json.123.partial").write_text('{"of"')
    assert run(store_of(tmp_path))[0]
    assert json.loads((tmp_path / "settings.json").read_text())["of"] == "grey"


def test_records_that_do_not_fit_are_refused(tmp_path):
    store = store_of(tmp_path)
    with pytest.raises(ValueError, match=r"batch 0 has records .* got \(2, 1\) of int32"):
        store.write(0, np.ones((2, 1), np.int32))
    with pytest.raises(ValueError, match="got .* of int64"):
        store.write(3, np.ones((2, 1), np.int64))
    with pytest.raises(ValueError, match="batch 3 has a record of zeros"):
        store.write(3, np.array([[1], [0]], np.int32))
    with pytest.raises(ValueError, match="12 examples do not fit a store of 11 records"):
        run(store, count=12)
    with pytest.raises(ValueError, match="count and batch must be positive, got 0 and 3"):
        store_of(tmp_path / "none", count=0)


def test_a_file_is_written_whole_over_another(tmp_path):
    write_whole(tmp_path / "a", "1")
    write_whole(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2" and len(list(tmp_path.iterdir())) == 1
