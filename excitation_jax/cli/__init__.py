"""The command line: `excitation-jax`, `python -m excitation_jax`."""

from .parser import main

__all__ = ["main"]
