"""Weights from files that may be damaged, wrong or hostile; nothing is ever unpickled.

`read` reads safetensors, Caffe and .npz files; `from_hub` gets one from the Hugging Face hub;
`save` and `load` keep Flax variables in an Orbax checkpoint. Which array belongs where in a
network is not decided here.
"""

from .checkpoint import Checkpoint, check_free, load, metadata, save
from .hub import HubId, from_hub, parse_hub_id
from .reader import DEFAULT_LIMIT, WeightFile, read, read_expected

__all__ = [
    "DEFAULT_LIMIT",
    "Checkpoint",
    "HubId",
    "WeightFile",
    "check_free",
    "from_hub",
    "load",
    "metadata",
    "parse_hub_id",
    "read",
    "read_expected",
    "save",
]
