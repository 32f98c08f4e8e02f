"""A directory belongs to one run: a file in it says of which settings, and others are refused.

A setting is what JSON can hold, or what a user gave for it together with what that came to; see
`setting`. A photograph's folder may move, and a layer be named that was the default: what is
compared is what it came to, and what was given is for the message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GIVEN, _CONTENT = "given", "content"


def setting(given: Mapping[str, Any], content: Any) -> dict[str, Any]:
    """A setting that was given by several arguments together.

    Args:
        given: the arguments' values by name; for the message of `claim`.
        content: what they came to: what is compared. Both of what JSON can hold.
    """
    return {_GIVEN: dict(given), _CONTENT: content}


def content(found: Any) -> Any:
    """What a setting came to.

    >>> content(setting({"--weights": "a.npz"}, "7f3a")), content(15)
    ('7f3a', 15)
    """
    return found[_CONTENT] if _is_setting(found) else found


def claim(
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
    *,
    holds: str,
    of_others: str,
    layout: Mapping[str, Any] | None = None,
) -> None:
    """Makes the directory that of the settings, or finds out that it is.

    Several processes may do so at once, and be killed at any moment.

    Args:
        directory: made if it is missing, with its parents.
        name: of the file in it that says what it is of.
        settings: all that a continued run must have in common with the one that it continues.
        holds, of_others: what it holds, and what it holds if the settings differ; for messages.
        layout: more settings, which follow from the others: they are said to differ only where no
            other does.

    Raises:
        ValueError: the file is damaged.
        FileExistsError: the directory is of other settings (the message says which differ, what
            they were and are, and what to do), or holds something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # As it is read: tuples are lists there.
    wanted = json.loads(json.dumps({**settings, **(layout or {})}))
    path = directory / name
    if not path.exists():
        # Another process may be claiming it, too, and be further.
        strange = [p for p in directory.iterdir() if not p.name.startswith(f".{name}.")]
        if strange and not path.exists():
            raise FileExistsError(
                f"{directory} is not empty and holds no {holds} ({strange[0].name} is in it): "
                "choose another directory"
            )
        write_whole(path, json.dumps(wanted, indent=1, sort_keys=True) + "\n")
        return
    found = settings_of(directory, name, holds)
    keys = sorted({*found, *wanted})
    differing = [key for key in keys if content(found.get(key)) != content(wanted.get(key))]
    named = [key for key in differing if key not in (layout or {})] or differing
    if named:
        raise FileExistsError(
            f"{directory} holds {of_others} "
            f"({'; '.join(_difference(key, found.get(key), wanted.get(key)) for key in named)}): "
            "choose another directory, or the settings of before"
        )


def settings_of(directory: Path, name: str, holds: str) -> dict[str, Any]:
    """The settings that a directory is of, as `claim` wrote them.

    Args:
        directory, name, holds: see `claim`.

    Raises:
        FileNotFoundError: it is of none.
        ValueError: the file that says so is damaged.
    """
    path = directory / name
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{directory} holds no {holds}: there is no {name} in it") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: remove {directory} to begin again: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no settings; remove {directory}")
    return found


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears complete or not at all. Text is written as UTF-8."""
    # By the process's number, for several may write the same file at once.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _is_setting(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == {_GIVEN, _CONTENT}


def _difference(key: str, found: Any, wanted: Any) -> str:
    """How a setting differs: by the arguments that were given otherwise, if there are such."""
    values = f"was {content(found)!r}, is {content(wanted)!r}"
    if not (_is_setting(found) and _is_setting(wanted)):
        return f"{key} {values}"
    before, now = found[_GIVEN], wanted[_GIVEN]
    changed = [
        f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed) or f"what {', '.join(now)} stand for has changed: it {values}"


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
