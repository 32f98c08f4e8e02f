"""Programs composed of random steps, for test_composed_networks.py."""

from .programs import INPUTS, Program, alone, programs, programs_around
from .table import TABLE, Entry

__all__ = ["INPUTS", "TABLE", "Entry", "Program", "alone", "programs", "programs_around"]
