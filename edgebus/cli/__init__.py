"""The command line: ``edgebus …``."""

from edgebus.cli.app import main

__all__ = ["main"]
