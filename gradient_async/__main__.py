"""``python -m gradient_async`` is ``gradient-async``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
