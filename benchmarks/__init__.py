"""Programs that measure what README and docs state: `python -m benchmarks.ROOM.NAME --help`.

They run from the root of a checkout. Where several share a function, the others import it from the
one it is about.
"""
