"""``python -m lensscan`` is the ``lensscan`` command."""

import sys

from lensscan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
