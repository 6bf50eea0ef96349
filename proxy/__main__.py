"""`python -m proxy` is `penstock`."""

from __future__ import annotations

import sys


def main() -> None:
    """The command's entry point."""
    if sys.argv[1:2] == ["serve"]:
        from .serve import main as serve

        sys.exit(serve(sys.argv[2:]))
    from .cli import app

    app()


if __name__ == "__main__":
    main()
