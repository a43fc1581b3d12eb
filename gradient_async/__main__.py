"""``python -m gradient_async`` and the program ``gradient-async``."""

import sys


def main() -> int:
    """Run the command line; return its exit status."""
    try:
        # Ctrl-C during this import ends the program silently. Ctrl-C while Python imports the package itself can't be caught.
        from .cli import main  # noqa: PLC0415  # inside the try, which catches Ctrl-C
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(main())
