"""``python -m arch_lab``: the command line without the installed script."""

import sys

from arch_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
