"""The rule sets of Excitation Backprop by name, for --rules-set; without importing JAX."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..methods import Method

#: What is taken unless the user says otherwise.
DEFAULT = "excitation"
NAMES = (DEFAULT, "residual", "conserving", "unmerged", "torchray")

HELP = (
    f"the rules of MWP and c-MWP: {', '.join(NAMES)} (docs/choosing_rules.md); several, with "
    "commas between them, are shown side by side. residual: nothing goes back along skip "
    "connections (default: %(default)s)"
)


def chosen(given: str) -> list[str]:
    """The names that the user gave, with commas between them, each once.

    Raises:
        ValueError: there is none, or one is unknown.

    >>> chosen("residual, excitation")
    ['residual', 'excitation']
    """
    found = list(dict.fromkeys(filter(None, map(str.strip, given.split(",")))))
    for name in found:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
            raise ValueError(f"--rules-set has no rule set {name!r}: {hint}")
    if not found:
        raise ValueError(f"--rules-set names none: {', '.join(NAMES)}")
    return found


def variants(method: Method, sets: list[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """A method by each of some rule sets: what its name and its title end in, and its options.

    One that has rules of its own is there once, with neither.
    """
    from .. import rules

    if not method.ruled:
        return [("", "", {})]
    found: list[tuple[str, str, dict[str, Any]]] = []
    for name in sets:
        if name == DEFAULT:
            found.append(("", "", {}))
        else:
            own = getattr(rules, f"EXCITATION_{name.upper()}")
            found.append((f":{name}", f" ({name})", {"rules": own}))
    return found
