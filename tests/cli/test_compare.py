"""`excitation-jax compare`: methods side by side."""

from __future__ import annotations

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason='needs Pillow: pip install ".[plots]"')

from excitation_jax import cli, methods  # noqa: E402


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A photograph of nothing in particular, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    return "photo.jpg"


def test_methods_side_by_side_with_their_times(photo, tmp_path, capsys):
    names = "mwp, C-MWP,grad_cam,gradient"
    arguments = ["compare", photo, "--model", "digits", "--methods", names, "--target", "top2"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for title in ("MWP", "c-MWP", "Grad-CAM", "gradient"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{title} ")]
        assert line.count(" s") == 2
    with Image.open(tmp_path / "photo_methods.png") as picture:
        # Two rows for the first class with the photograph and four maps, one for the second.
        assert picture.width > 4 * 300 and picture.height > 3 * 200


def test_every_method_is_listed(capsys):
    assert cli.main(["methods"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*methods.names()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "gradcma"], "no method named 'gradcma': did you mean grad-cam"),
        (["--methods", ","], "--methods names none"),
        (["--methods", "mwp", "--layer", "nowhere"], "mwp on digits: no layer named 'nowhere'"),
    ],
)
def test_refusals(arguments, message, photo, tmp_path, capsys):
    assert cli.main(["compare", photo, "--model", "digits", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [photo]
