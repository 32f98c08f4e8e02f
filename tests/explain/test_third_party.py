"""The benchmark of other libraries' models: its table, and that every model has its environment."""

from pathlib import Path

import pytest

from benchmarks.explain import third_party

ROW = {
    "model": "Keras/LSTM", "off": 0.0, "input": [1.0, 0.98], "auto": None, "reached": 0.5,
    "lost": 0.1, "losses": [{"path": "a/b", "primitive": "add", "lost": 0.1}],
    "trace": 3.0, "trace_gradient": 2.0, "versions": {"jax": "1.2"},
}  # fmt: skip
FAILED = {"model": "Keras/GRU", "error": "refused: a | b, see xy://host/page"}


def test_a_row() -> None:
    assert third_party.cells(ROW, third_party.MODELS["Keras/LSTM"]) == (
        "Keras: LSTM", "signed features", "exact", "1, 0.98", "none", "-",
        "10.0% at `a/b` (add); 40.0% where `explain_rules` does not say", "1.5",
    )  # fmt: skip


def test_a_model_that_fails_is_a_row(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{third_party.BEGIN}\nold\n{third_party.END}\nafter\n")
    for _ in range(2):  # what it has written it finds again
        third_party.write(page, [ROW, FAILED])
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert "jax 1.2" in lines[2]
    assert [line.count("|") for line in lines if line.startswith("|")] == [9] * 4
    assert "refused: a / b, see ..." in page.read_text()


def test_a_page_without_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no table\n")
    with pytest.raises(ValueError, match="has no lines <!-- third-party-table -->"):
        third_party.write(page, [ROW])
    assert page.read_text() == "no table\n"


def test_every_model_has_its_environment() -> None:
    used = {model.environment for model in third_party.MODELS.values()}
    assert used == set(third_party.ENVIRONMENTS)
