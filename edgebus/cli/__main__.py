"""``python -m edgebus.cli``: the same as the program `edgebus`."""

from edgebus.cli.app import main

main()
