"""`python -m excitation_jax.digits`: see `cli.train_digits`."""

import sys

from ..cli.train_digits import main

if __name__ == "__main__":
    sys.exit(main())
