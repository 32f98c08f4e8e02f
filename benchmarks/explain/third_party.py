"""Models of other libraries, unmodified: what becomes of the probability in each.

Makes an environment for each family of packages (this checkout's requirements and theirs, from the
package registry that pip is set up for), runs each model in a process of its own, and prints a
table, or writes it into a page. Weights are random and sizes small: nothing is downloaded but
packages, 13 GB of them, most of it for PyTorch. A model that fails is a row that says why.

    python -m benchmarks.explain.third_party --page docs/frameworks.md

`--only` measures the models whose "family/name" contains a text, and prints.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.explain import third_party_jax, third_party_others
from benchmarks.explain.third_party_models import ENVIRONMENTS, Environment, Model

MODELS = {**third_party_others.MODELS, **third_party_jax.MODELS}
CHECKOUT = Path(__file__).resolve().parents[2]
MEASURE = "benchmarks.explain.third_party_measure"
BEGIN, END = "<!-- third-party-table -->", "<!-- end of third-party-table -->"
HEAD = ("model", "x", "outputs", "sum at x", '"auto"', "sum there", "most is lost", "trace")
#: Of the probability: less than this is rounding.
NOTHING = 5e-3


class InstallError(RuntimeError):
    """pip could not make an environment."""


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of an environment, which is made if it is not there as it should be.

    Raises:
      InstallError: with pip's own reason.
    """
    wanted, home = ENVIRONMENTS[name], folder / name
    python, stamp = home / "bin" / "python", home / "installed.txt"
    if stamp.exists() and stamp.read_text() == str(wanted):
        return python
    print(f"making {home}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    with (folder / f"{name}.log").open("w") as log:
        for arguments in installs(wanted):
            done = subprocess.run(
                [python, "-m", "pip", "install", "--quiet", *arguments],
                stdout=log, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            log.write(done.stderr)
            if done.returncode:
                reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                raise InstallError(reasons[-1] if reasons else "pip failed")
    stamp.write_text(str(wanted))
    return python


def installs(wanted: Environment) -> Iterator[Sequence[str]]:
    """What pip is asked for, call by call."""
    yield [str(CHECKOUT), *wanted.packages]
    if wanted.alone:
        yield ["--no-deps", *wanted.alone]


def measured(python: Path, name: str, timeout: float) -> dict[str, Any]:
    """What `third_party_measure` says of a model, or how it ended."""
    try:
        done = subprocess.run(
            [python, "-m", MEASURE, name], cwd=CHECKOUT, capture_output=True, text=True,
            timeout=timeout, env={"JAX_PLATFORMS": "cpu", **os.environ},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"model": name, "error": f"not done after {timeout:.0f} s"}
    rows = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
    if rows:
        return json.loads(rows[-1])
    said = done.stderr.strip().splitlines() or [""]
    return {"model": name, "error": f"ended with code {done.returncode}: {said[-1]}"}


def measure(folder: Path, names: Sequence[str], timeout: float) -> Iterator[dict[str, Any]]:
    """A row for each model, in the order of the environments."""
    folder.mkdir(parents=True, exist_ok=True)
    for environment in ENVIRONMENTS:
        own = [name for name in names if MODELS[name].environment == environment]
        try:
            python = python_of(folder, environment) if own else None
        except InstallError as error:
            yield from ({"model": name, "error": f"not installed: {error}"} for name in own)
            continue
        for name in own:
            yield measured(python, name, timeout)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(cells(row, MODELS[row["model"]]) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(row: dict[str, Any], model: Model) -> tuple[str, ...]:
    """A row's texts; nothing in them can end a cell."""
    name = f"{model.family}: {model.name}"
    if "error" in row:
        return (name, model.glue, "-", "-", "-", "-", clean(row["error"]), "-")
    spatial = "x".join(map(str, row.get("spatial", ())))
    auto = f"`{row['auto']}` {spatial}".strip() if row.get("auto") else "none"
    ratio = row["trace"] / row["trace_gradient"] if "trace" in row else None
    return (
        name,
        model.glue,
        outputs(row),
        shares(row["input"]),
        auto,
        shares(row.get("at_auto", ())),
        clean("; ".join([*lost(row), *row.get("errors", ())])) or "-",
        "-" if ratio is None else f"{ratio:.1f}",
    )


def outputs(row: dict[str, Any]) -> str:
    """How far they are from the plain model's."""
    if row["off"] == 0:
        return "exact"
    exact = ", exact uncompiled" if row["off_by_operation"] == 0 else ""
    return f"{row['off']:.0e} off{exact}"


def shares(found: Sequence[float]) -> str:
    """Of each example, or once if they agree."""
    texts = [f"{share:.3f}".rstrip("0").rstrip(".") for share in found]
    return ", ".join(texts if len(set(texts)) > 1 else texts[:1]) or "-"


def lost(row: dict[str, Any]) -> Iterator[str]:
    """The largest loss, of all of them together, and what `explain_rules` says nothing of."""
    if row.get("losses"):
        first = row["losses"][0]
        most = f"{first['lost']:.1%} at `{first['path']}` ({first['primitive']})"
        yield most if len(row["losses"]) == 1 else f"{most} of {row['lost']:.1%}"
    untold = 1 - row["reached"] - row["lost"] if "reached" in row else 0
    if untold > NOTHING:
        yield f"{untold:.1%} where `explain_rules` does not say"


def clean(text: str) -> str:
    """Without addresses, without folders, without what ends a cell."""
    text = re.sub(r"\w+://\S+", "...", text)
    return re.sub(r"(/[\w.+-]+)+/(?=[\w.-]+\.py)", "", text).replace("|", "/").replace("\n", " ")


def versions(rows: Sequence[dict[str, Any]]) -> str:
    """Of all packages that were measured."""
    found = {}
    for row in rows:
        found |= row.get("versions", {})
    python = ".".join(map(str, sys.version_info[:2]))
    return ", ".join([f"Python {python}", *(f"{name} {found[name]}" for name in found)])


def write(page: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Puts the table between the page's marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    about = f"{datetime.date.today()}, two CPU cores; {versions(rows)}."
    page.write_text(f"{before}{BEGIN}\n{about}\n\n{table(rows)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".cache" / "third_party")
    parser.add_argument("--only", default="", help="a part of the family or the name")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each model")
    parser.add_argument("--page", type=Path, help="also write the table into this page")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.only and options.page:
        parser.error("a page has all models: leave out --only or --page")
    names = [name for name in MODELS if options.only.lower() in name.lower()]
    rows = []
    for row in measure(options.folder.resolve(), names, options.timeout):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    rows.sort(key=lambda row: names.index(row["model"]))
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.page:
        write(options.page, rows)


if __name__ == "__main__":
    main()
