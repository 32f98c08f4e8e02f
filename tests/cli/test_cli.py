"""The command line: what it writes, what it prints, and how it refuses bad input."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from paths import SHARED

Image = pytest.importorskip("PIL.Image", reason='needs Pillow: pip install ".[plots]"')

import excitation_jax  # noqa: E402
from excitation_jax.cli import class_names, networks  # noqa: E402
from excitation_jax.cli.parser import main  # noqa: E402
from excitation_jax.maps import pictures  # noqa: E402

DATA = SHARED / "data"
CLASSES = DATA / "imagenet_classes.txt"
WEIGHTS = DATA / "weights" / "squeezenet_v1_0.npz"
GOLDFISH = DATA / "imagenet_256" / "0001_n01443537_goldfish.jpg"
needs_shared = pytest.mark.skipif(
    not (WEIGHTS.exists() and GOLDFISH.exists() and CLASSES.exists()),
    reason=f"no real weights and photographs in {DATA}",
)
needs_digits = pytest.mark.skipif(
    "not __import__('importlib').util.find_spec('sklearn')",
    reason='the scenes need scikit-learn: pip install ".[data]"',
)
SQUEEZENET = ["--model", "squeezenet", "--weights", str(WEIGHTS)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in its own folder, where default outputs land."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXCITATION_JAX_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def photo(tmp_path):
    """A photograph of nothing in particular."""
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def refusal(capsys, *arguments):
    """The one line on stderr with which the command refuses these arguments."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("excitation-jax") and err.count("\n") == 1
    return err


#: Seconds until a process counts as hung: with many others on the machine, all of them take long.
PATIENCE = 600


def process(*arguments, stderr=subprocess.PIPE):
    """The command as a process of its own, which may run in any folder."""
    package = Path(excitation_jax.__file__).parent
    return subprocess.Popen(
        [sys.executable, "-m", "excitation_jax", *arguments],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


# Help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compare", "--help"], ["eval", "boxes", "--help"], ["explain", "-x"]]
)
def test_help_and_mistypings_do_not_wait_for_jax(arguments):
    code = f"""if True:
        import sys
        from excitation_jax.cli import main
        main({arguments})
        print("slow ones:", [name for name in ("jax", "numpy", "PIL") if name in sys.modules])
    """
    path = {**os.environ, "PYTHONPATH": str(Path(excitation_jax.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("slow ones: []\n"), done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in ("demo", "explain"))])
def test_help_shows_examples(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "  excitation-jax demo" in out or "  excitation-jax explain cat.jpg" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"excitation-jax {excitation_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["explain"], "PHOTO"),
        (["demo", "--seed", "x"], "--seed"),
        (["paint"], "'paint'"),
    ],
)
def test_a_mistyped_command_line_is_one_line(arguments, message, capsys):
    error = refusal(capsys, *arguments)
    assert message in error and "--help" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "x.jpg", "--model", "vgg"], "'vgg': did you mean vgg16? `excitation-jax mod"),
        (["layers", "--model", "qqq"], "named 'qqq': `excitation-jax models` lists them"),
        (["import-weights", "x.npz", "--model", "digits", "--out", "x"], "named 'digits'"),
        (["compare", "x.jpg", "--model", "digits", "--methods", "mpw"], "did you mean mwp"),
        (
            ["eval", "pointing", "--data", "digits", "--model", "digits", "--out", "x",
             "--methods", "cmwp@x,gradcma@auto"],
            "no method named 'gradcma': did you mean grad-cam",
        ),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_first(arguments, message, capsys, elsewhere):
    assert message in refusal(capsys, *arguments)
    assert not list(elsewhere.iterdir())


def test_running_as_a_module():
    running = process("--help")
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0 and "usage: excitation-jax" in out and not err


# The commands


@needs_digits
def test_demo_writes_a_picture_and_says_where(capsys, elsewhere):
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    path = elsewhere / "excitation_demo.png"
    assert str(path) in out and err == ""
    assert re.search(r"compiled in \d+\.\d+ s \(once\), explained in \d+\.\d+ s", out)
    with Image.open(path) as image:
        image.load()
        # The default scene has three digits, so four columns in two rows.
        assert image.width > 4 * 288 and image.height > 2 * 288
    assert out.count("score") == 3
    assert [file.name for file in elsewhere.iterdir()] == ["excitation_demo.png"]


@needs_digits
def test_demo_takes_seed_and_destination(elsewhere):
    assert main(["demo", "--seed", "5", "--out", "first.jpg"]) == 0
    assert main(["demo", "--seed", "6", "--out", "second.jpg"]) == 0
    with Image.open("first.jpg") as first, Image.open("second.jpg") as second:
        assert first.format == "JPEG"
        assert first.size != second.size or np.any(np.asarray(first) != np.asarray(second))


@needs_digits
def test_the_digits_model_explains_a_photograph(capsys, photo):
    assert main(["explain", str(photo), "--model", "digits", "--target", "7"]) == 0
    assert re.search(r"^\* +7 +0\.\d{4}  7$", capsys.readouterr().out, re.MULTILINE)
    assert Path("photo_excitation.png").exists()


@needs_shared
def test_explain_finds_the_goldfish(capsys):
    arguments = ["explain", str(GOLDFISH), *SQUEEZENET, "--classes", str(CLASSES)]
    assert main([*arguments, "--out", "top1.png"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^\* +1  0\.\d{4}  goldfish, Carassius auratus$", out, re.MULTILINE)
    # By whichever name, it is the same class and so the same picture.
    for target in ("carassius AURATUS", "1"):
        assert main([*arguments, "--target", target, "--out", "named.png"]) == 0
        with Image.open("top1.png") as one, Image.open("named.png") as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@needs_shared
def test_explain_top_k_has_a_panel_a_class(capsys):
    arguments = ["explain", str(GOLDFISH), *SQUEEZENET, "--no-contrastive", "--layer", "pool8"]
    assert main([*arguments, "--target", "top3", "--out", "top3.png"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^\* ", out, re.MULTILINE)) == 3
    assert main([*arguments, "--target", "top1", "--out", "top1.png"]) == 0
    with Image.open("top3.png") as several, Image.open("top1.png") as one:
        assert several.width > 4 * 384
        # The first two of the four panels are the figure of the top class alone.
        shared = (0, 0, one.width - 28, one.height - 80)
        shift = np.asarray(several.crop(shared), int) - np.asarray(one.crop(shared), int)
        assert np.abs(shift).max() <= 2


@needs_shared
def test_the_view_of_a_photograph_is_what_squeezenet_is_shown():
    network = networks.network("squeezenet", str(WEIGHTS))
    # A smooth picture, so that the order of cropping and resizing hardly matters.
    rows, columns = np.mgrid[:300, :500]
    pixels = np.stack([rows * 0.8, columns * 0.5, (rows + columns) * 0.3], -1).astype(np.uint8)
    photograph = Image.fromarray(pixels)
    seen = np.asarray(network.view(photograph).resize((227, 227)), np.float32)
    given = np.asarray(network.prepare(photograph))[0, ..., ::-1]
    shift = seen - given
    np.testing.assert_allclose(shift, np.broadcast_to((123, 117, 104), shift.shape), atol=2.5)


LISTED = {
    "digits": "stage3_block2",
    "squeezenet": "pool8",
    "vgg16": "pool4",
    "resnet18_tdam": "layer4_1",
}


@pytest.mark.parametrize("model", LISTED)
def test_layers_prints_a_table(model, capsys):
    assert main(["layers", "--model", model]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 5
    assert LISTED[model] in out


@needs_shared
def test_a_whole_photograph_keeps_its_shape(tmp_path, capsys):
    path = tmp_path / "wide.jpg"
    with Image.open(GOLDFISH) as goldfish:
        wide = goldfish.resize((400, 250))
    wide.save(path)
    small = ["--model", "squeezenet", "--weights", str(WEIGHTS)]
    assert main(["explain", str(path), *small, "--whole", "--out", "whole.png"]) == 0
    assert "*     1 " in capsys.readouterr().out  # a goldfish
    assert Path("whole.png").exists()
    network = networks.network("squeezenet", str(WEIGHTS), whole=True)
    assert network.prepare(wide).shape == (1, 227, 363, 3)


def test_the_digits_model_has_no_other_form(photo, capsys):
    error = refusal(capsys, "explain", photo, "--model", "digits", "--whole")
    assert "--whole needs a network of the registry" in error


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="makes a terminal")
def test_a_terminal_gets_a_progress_bar_on_stderr():
    terminal, stderr = os.openpty()
    running = process("layers", "--model", "squeezenet", stderr=stderr)
    os.close(stderr)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that its last user has left
        while chunk := os.read(terminal, 4096):
            shown += chunk
    os.close(terminal)
    out, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0
    assert "pool8" in out and "tracing" not in out
    assert b"loading JAX" in shown and b"tracing" in shown


# Bad input


def test_a_bad_photograph_is_named(capsys, tmp_path, photo, monkeypatch):
    def complaint(path):
        return refusal(capsys, "explain", path, "--model", "digits")

    assert "missing.jpg: No such file" in complaint(tmp_path / "missing.jpg")
    assert "Is a directory" in complaint(tmp_path)
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    assert "text.jpg is not an image" in complaint(text)
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:2000])
    assert "cut.jpg is a damaged image" in complaint(tmp_path / "cut.jpg")
    (tmp_path / "empty.jpg").touch()
    assert "empty.jpg is not an image" in complaint(tmp_path / "empty.jpg")
    for limit in (90 * 60 - 1, 90 * 60 // 2 - 1):  # Pillow warns of the first, refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "photo.jpg is too large an image" in complaint(photo)
    assert not list(tmp_path.glob("*_excitation.png"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/map.png", "there is no folder nowhere"),
        ("map.gif", "cannot tell the format of map.gif"),
        ("map", "cannot tell the format of map"),
        ("folder.png", "folder.png: it is a directory"),
        ("x" * 300 + ".png", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    out, message, capsys, photo, elsewhere, monkeypatch
):
    (elsewhere / "folder.png").mkdir()
    monkeypatch.setattr(pictures, "read_photograph", lambda path: pytest.fail("computed first"))
    assert message in refusal(capsys, "explain", photo, "--model", "digits", "--out", out)
    assert message in refusal(capsys, "demo", "--out", out)


def test_the_photograph_is_not_overwritten(capsys, photo):
    before = photo.read_bytes()
    error = refusal(capsys, "explain", photo, "--model", "digits", "--out", photo)
    assert "is the photograph itself" in error and photo.read_bytes() == before


def test_weights_are_refused_by_name(capsys, photo, tmp_path):
    def complaint(*weights):
        return refusal(capsys, "explain", photo, "--model", "squeezenet", *weights)

    assert "needs --weights FILE" in complaint()
    assert "missing.npz" in complaint("--weights", "missing.npz")
    (tmp_path / "text.npz").write_text("weights")
    assert "text.npz is text: give the weights" in complaint("--weights", "text.npz")
    np.savez("other.npz", kernel=np.zeros(3))
    assert "other.npz does not hold the expected weights" in complaint("--weights", "other.npz")
    error = refusal(capsys, "explain", photo, "--model", "digits", "--weights", "other.npz")
    assert "leave --weights out" in error


@needs_digits
def test_an_unknown_layer_is_named(capsys, photo):
    error = refusal(capsys, "explain", photo, "--model", "digits", "--layer", "stage3_blok2")
    assert "stage3_blok2" in error and "stage3_block2" in error


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("10", "the classes are 0 to 9"),
        ("-1", "the classes are 0 to 9"),
        ("top0", "top1 to top10 are possible"),
        ("top11", "top1 to top10 are possible"),
        ("seven", "unless --classes FILE names them"),
    ],
)
def test_an_unknown_class_is_named(target, message, capsys, photo):
    arguments = ("explain", photo, "--model", "digits", "--target", target)
    assert message in refusal(capsys, *arguments)


def test_class_names_are_found_or_suggested():
    names = [
        class_names.ClassName("n1", "tench, Tinca tinca"),
        class_names.ClassName("n2", "golden retriever"),
        class_names.ClassName("n3", "crane"),
        class_names.ClassName("n4", "crane"),
    ]
    assert class_names.parse_target("TINCA tinca", names, 4) == (None, 0)
    assert class_names.parse_target("n2", names, 4) == (None, 1)
    assert class_names.parse_target("3", names, 4) == (None, 3)
    assert class_names.parse_target("Top2", names, 4) == (2, None)
    with pytest.raises(ValueError, match=r"several classes.*2 \(crane\); 3 \(crane\)"):
        class_names.parse_target("crane", names, 4)
    with pytest.raises(ValueError, match="did you mean tench"):
        class_names.parse_target("trench", names, 4)
    for target in ("retriever", "retreiver"):
        with pytest.raises(ValueError, match="did you mean golden retriever"):
            class_names.parse_target(target, names, 4)
    with pytest.raises(ValueError, match="no class has that name$"):
        class_names.parse_target("qqqqqq", names, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"0\tn1\ttench\n2\tn2\tgoldfish\n", "line 2: expected 1"),
        (b"0\tn1\n", "line 1: expected 0"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"0\tn1\ttench\n1\tn2\tgoldfish\n", "names 2 classes, digits has 10"),
    ],
)
def test_a_bad_class_file_is_named(content, message, capsys, photo, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    arguments = ("explain", photo, "--model", "digits", "--classes", "classes.txt")
    error = refusal(capsys, *arguments)
    assert "classes.txt" in error and message in error


def test_a_negative_seed_is_refused(capsys):
    assert "--seed must not be negative" in refusal(capsys, "demo", "--seed", "-1")


def test_a_missing_extra_is_named(capsys, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "excitation_jax.maps.pictures")
    monkeypatch.delattr("excitation_jax.maps.pictures")
    error = refusal(capsys, "explain", photo, "--model", "digits")
    assert 'pip install "excitation-jax[plots]"' in error


def test_debug_shows_the_traceback(photo, monkeypatch):
    arguments = ["explain", "missing.jpg", "--model", "digits"]
    for debug in (["--debug", *arguments], [*arguments, "--debug"]):
        with pytest.raises(FileNotFoundError):
            main(debug)
    monkeypatch.setenv("EXCITATION_JAX_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(arguments)


# Nothing half-written


def test_a_failed_write_keeps_the_older_file(elsewhere, monkeypatch):
    picture = Image.new("RGB", (8, 8))
    (elsewhere / "map.png").write_text("older")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for owner, name in ((os, "replace"), (Image.Image, "save")):
        with monkeypatch.context() as broken, pytest.raises(OSError, match="No space left"):
            broken.setattr(owner, name, full)
            pictures.write(picture, "map.png")
        assert [file.name for file in elsewhere.iterdir()] == ["map.png"]
        assert (elsewhere / "map.png").read_text() == "older"


@pytest.mark.parametrize("where", ["excitation_jax.maps.pictures.figure", "os.replace"])
@needs_digits
def test_an_interrupt_leaves_nothing_behind(where, capsys, photo, elsewhere, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert main(["explain", str(photo), "--model", "digits"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert [file.name for file in elsewhere.iterdir()] == ["photo.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_of_the_process_is_one_word(elsewhere, photo):
    # A pipe that nobody writes to stands for a long computation.
    os.mkfifo("slow.jpg")
    running = process("explain", "slow.jpg", "--model", "digits")
    while running.poll() is None:
        try:
            writer = os.open("slow.jpg", os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # the process has not opened its end yet
            time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=PATIENCE)
    os.close(writer)
    assert (running.returncode, out, err) == (130, "", "interrupted\n")
    assert sorted(file.name for file in elsewhere.iterdir()) == ["photo.jpg", "slow.jpg"]


# Pictures


def test_photographs_of_every_mode_become_rgb(tmp_path):
    levels = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    deep = np.asarray(pictures.read_photograph(tmp_path / "deep.png"))
    np.testing.assert_array_equal(deep[..., 0], levels // 256)

    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (np.asarray(pictures.read_photograph(tmp_path / "clear.png")) == 255).all()

    for mode in ("1", "L", "P", "CMYK"):
        Image.new(mode, (4, 6)).save(tmp_path / f"{mode}.tiff")
        image = pictures.read_photograph(tmp_path / f"{mode}.tiff")
        assert (image.mode, image.size) == ("RGB", (4, 6))


def test_photographs_are_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held sideways
    image.save(tmp_path / "sideways.jpg", exif=exif)
    assert pictures.read_photograph(tmp_path / "sideways.jpg").size == (10, 20)


def test_a_figure_holds_its_panels_unchanged():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)
    long = "a title much longer than its panel is wide, " * 3
    panels = [pictures.Panel(image, long, long) for image in images]
    sheet = np.asarray(pictures.figure([panels[:2], panels[2:]], long, long))
    assert sheet.shape[1] == 20 * 2 + 20 + 2 * 28
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (12, 20, 3))[:, :, 0]
    for image in images:
        assert (windows == image).all((-3, -2, -1)).sum() == 1
    # The margins stay empty, so nothing was cut off.
    for edge in (sheet[:20], sheet[-20:], sheet[:, :20], sheet[:, -20:]):
        assert (edge == 255).all()


def test_bars_are_as_long_as_their_values():
    image = pictures.bars([0.0, 0.5, 1.0], ["a", "b", "c"], (90, 300)).astype(int)
    red = ((image[..., 0] - image[..., 1]) > 50).sum(axis=1)
    assert red[15] <= 2
    assert abs(red[45] * 2 - red[75]) <= 4
