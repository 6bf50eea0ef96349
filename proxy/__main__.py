"""`python -m proxy` is `penstock`."""

from .cli import main

main()
