"""``python -m rowlock`` is the same as ``rowlock``."""

import sys

from rowlock.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
