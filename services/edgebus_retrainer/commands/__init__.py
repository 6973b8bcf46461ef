"""`edgebus samples`: the commands that the retrainer adds to the command line."""

from edgebus_retrainer.commands.app import app

__all__ = ["app"]
