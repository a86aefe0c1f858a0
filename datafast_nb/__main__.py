"""`python -m datafast_nb`: the command line without the console script."""

import sys

from datafast_nb.cli import main

if __name__ == "__main__":
    sys.exit(main())
