"""`python -m excitation_jax.training`: see `cli.train_voc`."""

import sys

from ..cli.train_voc import main

if __name__ == "__main__":
    sys.exit(main())
