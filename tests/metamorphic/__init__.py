"""Programs with identities put into them, for test_metamorphic.py and survey.py."""

from .identities import IDENTITIES, Identity, changes
from .mutation import Place, mutated, places
from .networks import NETWORKS
from .reading import Reading, Subject, read

__all__ = [
    "IDENTITIES",
    "NETWORKS",
    "Identity",
    "Place",
    "Reading",
    "Subject",
    "changes",
    "mutated",
    "places",
    "read",
]
