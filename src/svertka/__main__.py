"""`python -m svertka` is the command `svertka`."""

from svertka.cli.main import main

main()
