"""`python -m excitation_jax` is the command `excitation-jax`."""

import sys

from .cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
