"""`excitation-jax eval text`: its tables, its proposals, and how it refuses bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from data_files import HEIGHT, WIDTH, annotation_xml, object_xml, write, write_photograph
from pycocotools import mask as mask_api

from excitation_jax import cli, models
from excitation_jax.data import Dataset, Example
from excitation_jax.evaluation.boxes.localisation import overlaps
from excitation_jax.evaluation.text import proposal_files, proposals
from excitation_jax.evaluation.text.photograph import decoded
from excitation_jax.models import weight_files

DIGITS = ["--data", "digits", "--model", "digits", "--limit", "4", "--batch", "4"]
GRID = ["--proposals", "grid"]


def evaluate(capsys, *arguments):
    """What `eval text` prints for these arguments."""
    code = cli.main(["eval", "text", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert err == ""
    return out


def refusal(capsys, *arguments):
    """The one line on stderr with which the command refuses these arguments."""
    assert cli.main(["eval", "text", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("excitation-jax") and err.count("\n") == 1
    return err


def test_digits_need_no_data_and_a_run_is_continued(capsys, tmp_path):
    call = [*DIGITS, *GRID, "--methods", "mwp,c-mwp", "--gallery", "1", "--out", tmp_path / "run"]
    out = evaluate(capsys, *call)
    assert "text to region, digit scenes test: 3 images" in out and "c-MWP" in out
    assert "gamma chosen on 1 others" in out
    content = (tmp_path / "run" / "text.json").read_bytes()
    found = json.loads(content)
    own = found["methods"].pop("proposals")
    assert list(found["methods"]) == ["mwp", "c-mwp"] and found["without_known_word"] == 0
    best = found["covered_by_proposals"]
    assert own["gamma"] is None and own["hits@5"] == 0 < best  # large boxes come first
    for method in found["methods"].values():
        assert method["gamma"] in found["gammas"] == [0, 0.25, 0.5, 0.75, 1]
        assert (
            found["phrases"]
            == method["phrases"]
            == sum(group["phrases"] for group in method["groups"].values())
        )
        assert 0 < method["hits@1"] <= method["hits@5"] <= method["hits@10"] <= best
        assert method["recall@5"] == method["hits@5"] / method["phrases"] > 0.4
        assert 0 < method["mean_average_precision_by_group"] < 1
        assert 0 < method["mean_average_precision_by_phrase"] < 1
    assert (tmp_path / "run" / "text.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "run" / "text.json").unlink()
    assert evaluate(capsys, *call) == out
    assert (tmp_path / "run" / "text.json").read_bytes() == content
    # Another gamma, and other photographs held out, need no other records.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/records/**/*")}
    out = evaluate(capsys, *call, "--gamma", "0.25", "--gallery", "0")
    assert "4 images" in out and "gamma as given" in out and "gallery" not in out
    chosen = json.loads((tmp_path / "run" / "text.json").read_text())
    assert chosen["methods"]["mwp"]["gamma"] == 0.25 and chosen["held_out"] == 0
    assert "2 images" in evaluate(capsys, *call, "--held-out", "2", "--gallery", "0")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # In other words the phrases say nothing to the network.
    write(tmp_path / "words.txt", "\n".join(f"Ziffer{digit}" for digit in range(10)))
    error = refusal(capsys, *call, "--words", tmp_path / "words.txt")
    assert "holds records of other settings (--words was not given, is " in error
    german = [*DIGITS, *GRID, "--words", tmp_path / "words.txt", "--out", tmp_path / "german"]
    out = evaluate(capsys, *german)
    assert f"{found['phrases']} without a known word" in out
    assert not list((tmp_path / "german" / "gallery").glob("*.jpg"))
    german = json.loads((tmp_path / "german" / "text.json").read_text())
    assert german["methods"]["c-mwp"]["hits@10"] == 0
    assert german["methods"]["c-mwp"]["mean_average_precision_by_group"] == 0


@pytest.fixture
def flickr(tmp_path):
    """Two photographs in the layout of Flickr30k Entities, proposals and the network's words."""
    folder = tmp_path / "flickr"
    sentences = """\
[/EN#1/people Two men] with [/EN#2/bodyparts hair] look [/EN#0/notvisual away] .
[/EN#1/people A Man] in [/EN#5/clothing/other green , long shirts] in [/EN#9/scene a yard]
"""
    flags = "<scene>1</scene><nobndbox>1</nobndbox>"
    annotation = annotation_xml(
        object_xml("1", (1, 1, 20, 30)),
        object_xml(["1", "5"], (21, 1, 40, 15)),
        object_xml("2", extra=flags),
    )
    for seed, name in enumerate(("36979", "65567")):
        write(folder / f"Sentences/{name}.txt", sentences)
        write(folder / f"Annotations/{name}.xml", annotation)
        write_photograph(folder / f"flickr30k-images/{name}.jpg", seed)
    write(folder / "test.txt", "65567\n36979\n")
    boxes = {
        "36979": [[0, 0, 20, 30], [-0.5, 0, 40, 30]],
        "65567": [[20, 0, 40, 15], [30, 20, 40, 30]],
        "absent": "?",
    }
    lines = [json.dumps({"key": key, "boxes": own}) for key, own in boxes.items()]
    write(tmp_path / "proposals.jsonl", "\n".join(lines))
    write(tmp_path / "words.txt", "man\nmen\nshirts\n" + "\n".join(f"tag{i}" for i in range(9)))
    return folder


@pytest.fixture
def call(tmp_path, flickr):
    """Arguments for a small network of twelve words, at random."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.2, leaf.shape), leaf.dtype),
        models.get("cifar_resnet20").expected(12),
    )
    metadata = {"model": "cifar_resnet20", "num_classes": 12}
    weight_files.save(tmp_path / "weights", variables, metadata)
    files = {
        "--folder": flickr,
        "--weights": tmp_path / "weights",
        "--words": tmp_path / "words.txt",
        "--proposals": tmp_path / "proposals.jsonl",
        "--out": tmp_path / "run",
    }
    call = "--data flickr30k --split test --batch 2 --model cifar_resnet20 --gamma 0.5".split()
    return call + [part for pair in files.items() for part in pair]


def test_flickr30k_with_proposals_from_a_file(capsys, tmp_path, call):
    out = evaluate(capsys, *call, "--methods", "mwp", "--gallery", "0")
    assert "text to region, Flickr30k Entities test: 2 images, 6 phrases, 0 of them of small" in out
    found = json.loads((tmp_path / "run" / "text.json").read_text())
    own = found["methods"]["mwp"]
    # 65567's proposals overlap with one of the men's boxes and with the shirts'. 36979's overlap
    # with the other of the men's boxes only.
    assert found["covered_by_proposals"] == 5 and own["hits@5"] == 5
    assert own["groups"]["people"]["phrases"] == 4 and own["groups"]["people"]["boxes"] == 8
    assert own["groups"]["clothing"] == own["groups"]["other"]
    assert own["groups"]["clothing"]["hits@5"] == 1
    assert own["groups"]["scene"]["average_precision"] is None
    # Of the men's 8 boxes 4 can be found; of the shirts' 2 one.
    assert own["groups"]["people"]["average_precision"] <= 0.5
    assert own["groups"]["clothing"]["average_precision"] <= 0.5
    assert found["different_phrases"] == 3
    # Each of the men's boxes covers a half, the shirts' one a quarter, of 30 x 40 pixels.
    assert found["small_instances"]["phrases"] == 0
    assert own["small_instances"]["recall@1"] is None


def code(x0, y0, x1, y1, hole=False):
    """A segment as wide and high as a box; of pixels of every second row if it has holes."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0 : y1 : 1 + hole, x0:x1] = 1
    mask[y1 - 1, x0:x1] = 1
    found = mask_api.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def test_segments_are_judged_by_their_boxes_and_by_their_own_scores(capsys, tmp_path, call):
    """As boxes, which are the same regions; and with holes, which change the sums alone."""
    boxes = {
        "36979": [(0, 0, 20, 30), (0, 0, 40, 30), (3, 4, 9, 12)],
        "65567": [(20, 0, 40, 15), (30, 20, 40, 30), (0, 0, 19, 29)],
    }
    found = {}
    for kind in ("boxes", "segments", "holes"):
        lines = []
        for key, own in boxes.items():
            regions = (
                {"boxes": own}
                if kind == "boxes"
                else {"segmentations": [code(*box, kind == "holes") for box in own]}
            )
            lines.append({"key": key, **regions, "scores": [0.5, 0.25, 0.75]})
        write(tmp_path / "proposals.jsonl", "\n".join(map(json.dumps, lines)))
        out = [*call[:-1], tmp_path / kind]
        gallery = ["--gallery", str(int(kind == "holes"))]
        shown = evaluate(capsys, *out, "--methods", "mwp", *gallery)
        assert "proposals by their scores" in shown
        content = json.loads((tmp_path / kind / "text.json").read_text())
        found[kind] = content.pop("proposals") and content
        records = store_of(tmp_path / kind)
        found[kind, "records"] = [decoded(record, 1) for record in records]
    assert found["boxes"] == found["segments"]
    for own, wanted in zip(found["boxes", "records"], found["segments", "records"], strict=True):
        assert (own.boxes == wanted.boxes).all() and (own.areas == wanted.areas).all()
        assert own.scores.tolist() == [0.75, 0.5, 0.25]  # in the order of their scores
        np.testing.assert_allclose(own.sums, wanted.sums, rtol=1e-5, atol=1e-6)
    for own, wanted in zip(found["holes", "records"], found["segments", "records"], strict=True):
        assert (own.boxes == wanted.boxes).all() and (own.areas < 0.7 * wanted.areas).all()
        assert (own.sums < 0.8 * wanted.sums)[wanted.sums > 0].all()
    # By the proposals' own scores the small one is first, which none of the boxes is.
    own = found["holes"]["methods"]["proposals"]
    assert own["hits@1"] < own["hits@5"] == found["holes"]["covered_by_proposals"]


def store_of(directory):
    """The records of a run of two photographs."""
    layout = json.loads((directory / "settings.json").read_text())["records"]
    path = f"{directory / 'records'}/"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    found = np.asarray(tensorstore.open(spec, open=True).result().read().result())
    assert list(found.shape) == [layout["count"], *layout["shape"]]
    return found


def line(boxes, key="36979", **other):
    return json.dumps({"key": key, "boxes": boxes, **other}) + "\n"


def segments(*codes, key="36979"):
    return json.dumps({"key": key, "segmentations": list(codes)}) + "\n"


FINE = line([[0, 0, 9, 9]], "65567")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("words.txt", None, "there is no file of words"),
        ("words.txt", "", "words.txt is empty: expected one word on each line"),
        ("words.txt", "a\n\nb", "words.txt, line 2 is blank: each line is the word of an output"),
        ("words.txt", "Man\nmen\nman", "words.txt, line 3 has 'man', as line 1: which of the two"),
        ("words.txt", "man\nmen", "has 12 outputs, "),
        ("words.txt", "man\nmen", "words.txt has 2 words: give a file with one word on each line"),
        ("words.txt", b"caf\xe9", "words.txt is no text in UTF-8: "),
        ("proposals.jsonl", None, "there is no file of proposals"),
        ("proposals.jsonl", b"\xff\xfe", "proposals.jsonl is no text in UTF-8"),
        ("proposals.jsonl", FINE, "no proposals for 1 of 2 photographs (36979): add a line for"),
        ("proposals.jsonl", FINE + FINE, "line 2 has 65567 again: take one of its lines out"),
        ("proposals.jsonl", FINE + line([]), 'line 2 has no proposals: expected {"key": "369'),
        ("proposals.jsonl", FINE + line([[0, 0, 9]]), "36979 has not four finite numbers for"),
        ("proposals.jsonl", line([[0, 0, 9, float("nan")]]), "not four finite numbers for each"),
        ("proposals.jsonl", line([[0, 0, 9, "?"]]), "line 1 has no proposals: expected"),
        ("proposals.jsonl", line([[0, 0, 9, 9], [1]]), "line 1 has no proposals: expected"),
        ("proposals.jsonl", line([[0, 0, 9, 90]]), "of 36979 reaches outside of the image"),
        ("proposals.jsonl", line([[9, 0, 0, 9]]), "36979 ends before it begins"),
        ("proposals.jsonl", line([[9, 0, 9, 9]]), "of 36979 has no area"),
        ("proposals.jsonl", "[" * 100_000, "line 1 has no proposals: expected"),
        ("proposals.jsonl", '{"boxes": []}', "line 1 has no proposals: expected"),
        ("proposals.jsonl", line([[0, 0, 9, 9]], 7), "line 1 has no proposals: expected"),
        ("proposals.jsonl", line([[0, 0, 9, 9]], scores=[1, 2]), "finite scores as proposals, 1"),
        ("proposals.jsonl", line([[0, 0, 9, 9]], scores=[1e99]), "finite scores as proposals, 1"),
        ("proposals.jsonl", FINE + line([[0, 0, 9, 9]], scores=[1]), "line 2 is of another kind"),
        ("proposals.jsonl", FINE + segments(code(0, 0, 9, 9)), "line 2 is of another kind than li"),
        ("proposals.jsonl", segments(), "line 1 has no proposals: expected"),
        ("proposals.jsonl", segments(code(0, 0, 9, 9), {"counts": "1"}), "36979, in segment 1 has"),
        ("proposals.jsonl", segments({"counts": [1200]}), "36979 has an empty segment, 0: take it"),
        ("flickr/test.txt", None, "there is no split"),
    ],
)
def test_files_that_are_wrong_are_named_and_nothing_is_written(
    capsys, tmp_path, call, file, content, message
):
    path = tmp_path / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert message in refusal(capsys, *call)
    assert not (tmp_path / "run").exists()


OUT = [*GRID, "--out", "run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DIGITS], "--out"),
        ([*DIGITS, *OUT, "--folder", "x"], "leave --folder, --images and --split out"),
        ([*DIGITS, *OUT, "--split", "test"], "leave --folder, --images and --split out"),
        ([*DIGITS, *OUT, "--limit", "0"], "--limit must be positive, got 0"),
        ([*DIGITS, *OUT, "--proposals-limit", "0"], "--proposals-limit must be positive, got 0"),
        ([*DIGITS, *OUT, "--gamma", "nan"], "--gamma must lie between 0 and 10, got nan"),
        ([*DIGITS, *OUT, "--gamma", "-1"], "--gamma must lie between 0 and 10, got -1"),
        ([*DIGITS, *OUT, "--held-out", "1"], "--held-out must be at least 2, got 1"),
        ([*DIGITS, *OUT, "--gallery", "-1"], "--gallery must not be negative, got -1"),
        ([*DIGITS[:-4], *OUT, "--limit", "1"], "is one photograph with phrases, and gamma is cho"),
        ([*DIGITS, *OUT, "--batch", "0"], "--batch and --threads must be positive"),
        ([*DIGITS, *OUT, "--methods", "mpw"], "no method named 'mpw': did you"),
        ([*DIGITS, "--out", "run", "--proposals", "gird"], "there is no file of proposals gird"),
        (["--data", "flickr30k", "--model", "digits", *OUT], "needs --folder DIR and --split NAME"),
        (["--data", "digits", "--model", "vgg16", *OUT], "vgg16 needs --words FILE: one word on"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_photographs_without_phrases_are_refused(capsys, tmp_path, flickr, call):
    for name in ("36979", "65567"):
        write(flickr / f"Sentences/{name}.txt", "[/EN#9/scene a yard] [/EN#1/notvisual it]\n")
    assert "none of the photographs has a phrase with a box" in refusal(capsys, *call)


def squares():
    """Two squares of plain colours on a plain ground, 60 x 80 pixels, as an example."""
    pixels = np.full((60, 80, 3), 40, np.uint8)
    boxes = [(8, 10, 28, 30), (45, 25, 70, 50)]
    for (x0, y0, x1, y1), colour in zip(boxes, ([230, 30, 30], [30, 60, 240]), strict=True):
        pixels[y0:y1, x0:x1] = colour
    return Example("squares", None, (60, 80), (), pixels=pixels), boxes


def test_selective_search_finds_plain_squares_and_the_same_each_time():
    example, boxes = squares()
    search = proposals.SelectiveSearch()
    found = search(example).boxes
    assert found.dtype == np.float32 and (overlaps(found, boxes).max(axis=0) > 0.9).all()
    assert (found[:, 2:] > found[:, :2]).all() and (found >= 0).all()
    assert (found[:, 2:] <= [80, 60]).all() and len(np.unique(found, axis=0)) == len(found)
    for again in proposals.of(search, [example] * 3, limit=99, threads=3):
        np.testing.assert_array_equal(again.boxes, found)
    assert "selective search" in search.name and "OpenCV" in search.name


def test_digits_with_selective_search(capsys, tmp_path):
    call = [*DIGITS, "--out", tmp_path / "run", "--proposals-limit", "60", "--gallery", "0"]
    assert "proposals: selective search, fast, OpenCV" in evaluate(capsys, *call)
    found = json.loads((tmp_path / "run" / "text.json").read_text())
    assert found["methods"]["c-mwp"]["recall@10"] > 0.5


@pytest.mark.parametrize("size", [(1, 1), (HEIGHT, WIDTH), (500, 375)])
def test_the_grid_is_of_boxes_in_the_photograph_round_objects_of_any_size(size):
    height, width = size
    found = proposals.Grid()(Example("a", None, size, ())).boxes
    assert len(found) == 479 and (found[:, 2:] > found[:, :2]).all() and (found >= 0).all()
    assert (found[:, 2:] <= np.array([width, height]) * (1 + 1e-6)).all()
    np.testing.assert_allclose(found[0], [0, 0, width, height])
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
    assert areas.argmax() == 0 and areas[-1] < 0.04 * height * width


def test_proposals_may_reach_over_the_edge_by_a_pixel(tmp_path):
    dataset = Dataset("d", (), (Example("a", None, (HEIGHT, WIDTH), ()),))
    write(tmp_path / "p.jsonl", line([[-1, 0.5, 41, 31]], "a"))
    made = proposal_files.read(tmp_path / "p.jsonl", dataset)
    assert made(dataset[0]).boxes.tolist() == [[0, 0.5, 40, 30]]


def test_help_shows_how_to_begin(capsys):
    assert cli.main(["eval", "text", "--help"]) == 0
    out = capsys.readouterr().out
    assert "excitation-jax eval text --data digits" in out and "default: c-mwp;" in out
