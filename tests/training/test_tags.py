"""Tags: reading them, the dictionary, and which of a photograph's count."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from data_files import write, write_photograph

from excitation_jax import training
from excitation_jax.training.tags import Tagged, normalised


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "more/b.jpg"):
        write_photograph(tmp_path / name)
    return tmp_path


def line(image="a.jpg", tags=("dog",), **more):
    return json.dumps({"image": image, "tags": tags, **more})


def test_tags_are_read_in_order_each_once_and_without_case(folder):
    tags = ["Straße", " Golden\t Retriever", "STRASSE", "", "  ", "sea", "golden retriever"]
    text = "\n".join([line(tags=tags, id=7), "", line("more/b.jpg", [])])
    write(folder / "train.jsonl", text)
    assert training.read_tags(folder / "train.jsonl") == [
        Tagged(folder / "a.jpg", ("strasse", "golden retriever", "sea")),
        Tagged(folder / "more/b.jpg", ()),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "no file of tags .*train.jsonl"),
        ("", ValueError, "train.jsonl has no photographs"),
        (line() + "\n{", ValueError, 'line 2 is not as {"image"'),
        ("[" * 100_000, ValueError, "line 1 is not as"),
        ("[1]", ValueError, "line 1 is not as"),
        ('{"image": "a.jpg"}', ValueError, "line 1 .* KeyError 'tags'"),
        (line(tags="dog"), ValueError, "'tags' a list"),
        (line(tags=["dog", 3]), ValueError, "every tag must be a string"),
        (line(image=3), ValueError, "'image' must be a string"),
        (line("../a.jpg"), ValueError, "line 1 names '../a.jpg', which is outside"),
        (line("/a.jpg"), ValueError, "outside of the file's folder"),
        (line(""), ValueError, "outside of the file's folder"),
        (line() + "\n" + line(), ValueError, "line 2 has a.jpg once more"),
        (line("c.jpg"), FileNotFoundError, "no photograph .*c.jpg, which .*train.jsonl lists"),
    ],
)
def test_what_is_wrong_in_a_file_of_tags_is_named(folder, text, error, message):
    if text is not None:
        write(folder / "train.jsonl", text)
    with pytest.raises(error, match=message):
        training.read_tags(folder / "train.jsonl")


def made(rng, count=60):
    names = [f"tag{i}" for i in range(12)]
    chances = np.arange(12, 0, -1) / 78
    return [
        Tagged(Path(f"{n}.jpg"), tuple(rng.choice(names, rng.integers(0, 9), False, chances)))
        for n in range(count)
    ]


def test_the_dictionary_and_the_first_tags_are_those_of_counting():
    rng = np.random.default_rng(0)
    for most, first in ((1, 1), (5, 2), (7, 5), (100, 5)):
        photographs = made(rng)
        counts = defaultdict(int)
        for _, tags in photographs:
            for tag in tags:
                counts[tag] += 1
        dictionary = training.dictionary_of(photographs, most)
        assert len(dictionary) == min(most, len(counts))
        ranks = [(-counts[tag], tag) for tag in dictionary]
        assert ranks == sorted(ranks)
        left_out = set(counts) - set(dictionary)
        assert all((-counts[tag], tag) > ranks[-1] for tag in left_out)
        records = {r.path: r for r in training.with_first_tags(photographs, dictionary, first)}
        for path, tags in photographs:
            expected = [float(tag in tags[:first]) for tag in dictionary]
            if any(expected):
                assert records[path].labels.tolist() == expected
                assert records[path].labels.dtype == np.float32
            else:
                assert path not in records


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.dictionary_of([Tagged(Path("a"), ("x",))], 0), "at least 1 tag, got 0"),
        (lambda: training.dictionary_of([Tagged(Path("a"), ())]), "none of the photographs has"),
        (lambda: training.with_first_tags([], ("x",), 0), "at least 1 tag of a photograph"),
        (
            lambda: training.with_first_tags([Tagged(Path("a"), ("y", "x"))], ("x",), 1),
            "a tag of the dictionary among its first 1",
        ),
    ],
)
def test_too_little_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_dictionary_is_as_the_evaluation_reads_words():
    assert normalised("\u2028New\x1c York\n") == "new york"
