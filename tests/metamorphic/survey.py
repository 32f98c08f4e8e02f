"""Every identity at every place of every network of networks.py: what is left to do.

    python -m tests.metamorphic.survey [--identity TEXT] [--network TEXT] [--all] [--details]

An identity is put in at all places of a network at once. Where something differs, one place at
which it does is found, or with --all every one. A place is printed as the number and primitive of
the equation in the network's jaxpr that computes the value, after the calls and loops around it.
"""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Iterator, Sequence

from .identities import IDENTITIES, Identity
from .mutation import Place
from .networks import NETWORKS
from .reading import Subject

LEGEND = "m: a map, a: auto, s: shape, strides or axes, o: outputs, e: an error, p: the program"


class Search:
    """Looks for the places of one network at which identities change something."""

    def __init__(self, subject: Subject, every: bool):
        self.subject, self.every = subject, every
        #: How often something was found at a place: it is tried first.
        self.suspects: collections.Counter[Place] = collections.Counter()

    def failing(self, identity: Identity) -> Iterator[tuple[Place, list[str]]]:
        among = [place for place in self.subject.places if identity.fits(place)]
        if not among or not (told := self._told(identity, among)):
            return
        known = [place for place, _ in self.suspects.most_common() if place in among]
        count = 0
        for one in self._search(identity, among, known):
            self.suspects[one[0]] += 1
            yield one
            count += 1
            if not self.every:
                return
        if not count:
            yield among[0], ["(all places together) " + text for text in told]

    def _search(
        self, identity: Identity, among: Sequence[Place], known: Sequence[Place]
    ) -> Iterator[tuple[Place, list[str]]]:
        tried = known if self.every else known[:3]
        for place in tried:
            if told := self._told(identity, [place]):
                yield place, told
        yield from self._halves(identity, [p for p in among if p not in tried])

    def _halves(
        self, identity: Identity, among: Sequence[Place]
    ) -> Iterator[tuple[Place, list[str]]]:
        if not among or not (told := self._told(identity, among)):
            return
        if len(among) == 1:
            yield among[0], told
            return
        half = len(among) // 2
        yield from self._halves(identity, among[:half])
        yield from self._halves(identity, among[half:])

    def _told(self, identity: Identity, among: Sequence[Place]) -> list[str]:
        # The contrastive pass alone: it has all that the other one has, at its top.
        return self.subject.differences([(place, identity) for place in among], (True,))


def kind(told: Sequence[str]) -> str:
    """A letter for each kind of difference."""
    letters = ["s" if text.startswith("axes") else text.lstrip("(")[0] for text in told]
    return "".join(dict.fromkeys(letters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identity", default="", help="those whose names contain this")
    parser.add_argument("--network", default="", help="likewise")
    parser.add_argument("--all", action="store_true", help="every place, not one of each network")
    parser.add_argument("--details", action="store_true", help="also print what differs")
    options = parser.parse_args()
    pairs, bad = 0, 0
    behind: collections.Counter[str] = collections.Counter()
    searches = {
        name: Search(subject, options.all)
        for name, subject in NETWORKS.items()
        if options.network in name
    }
    print(LEGEND, end="\n\n")
    for identity in IDENTITIES.values():
        if options.identity not in identity.name:
            continue
        lines = []
        for name, search in searches.items():
            ones = list(search.failing(identity))
            pairs, bad = pairs + 1, bad + bool(ones)
            behind.update(f"{name}: {place}" for place, _ in ones)
            if ones:
                shown = ", ".join(f"{place} ({kind(told)})" for place, told in ones)
                count = f"{len(ones)} places: " if options.all else ""
                lines.append(f"    {name}: {count}{shown}")
                if options.details:
                    lines += [f"      {place}: {text}" for place, told in ones for text in told]
        needs = f" (needs {identity.needs})" if identity.needs else ""
        state = "FAILS" if lines else "ok   "
        print(f"{state} {identity.group:6}  {identity.name}{needs}", flush=True)
        for line in lines:
            print(line, flush=True)
    print(f"\n{bad} of {pairs} (identity, network) fail; {time.process_time():.0f} s of CPU")
    for text, count in behind.most_common(40):
        print(f"{count:5} identities fail at {text}")


if __name__ == "__main__":
    main()
