"""Errors of the service runtime; each one names the thing and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ServiceError(Exception):
    """The base of every error of the service runtime.

    Attributes:
        exit_code: What a process that ends with it returns.
    """

    exit_code = 1


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One thing that is wrong with the settings.

    Attributes:
        key: The setting, dotted: ``recorder.threshold``.
        origin: Where it came from: a file, an environment variable, the command line.
        reason: What is wrong, and what would be right.
    """

    key: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} ({self.origin}): {self.reason}"


class SettingsError(ServiceError):
    """The settings do not fit; all problems at once, so that one round of repair is enough.

    Attributes:
        problems: Every problem found.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[SettingsProblem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class UnknownServiceError(ServiceError):
    """No installed package offers a service of this name.

    Attributes:
        name: The name that was asked for.
        known: The names that are installed.
    """

    exit_code = 2

    def __init__(self, name: str, *, known: Sequence[str], hint: str = "") -> None:
        have = ", ".join(sorted(known)) or "none"
        super().__init__(f"no service {name!r} is installed{hint}; installed: {have}")
        self.name = name
        self.known = tuple(known)


class DuplicateIdentityError(ServiceError):
    """Another process already runs this service on this node.

    Attributes:
        identity: ``site/node/service``.
        other: Who was there first: host and process id, as far as known.
    """

    exit_code = 3

    def __init__(self, identity: str, *, other: str, shares_folder: bool = False) -> None:
        folder = " and a folder of its own with --set data_dir=FOLDER" if shares_folder else ""
        super().__init__(
            f"{identity} already runs ({other}), and it keeps serving; "
            f"stop it, or give this one another node name with --set node=NAME{folder}"
        )
        self.identity = identity
        self.other = other


class DeclarationError(ServiceError, TypeError):
    """A service class or one of its handlers is declared in a way that cannot work."""


class CommandRefusedError(ServiceError):
    """Raised by a command handler to refuse; its text becomes the reply's detail."""


class ServiceFailedError(ServiceError):
    """A service went down because a part of it died.

    Attributes:
        identity: ``site/node/service``.
        reason: What died, and of what.
        exit_code: That of the cause where it has one: 2 for what starting again cannot mend.
    """

    def __init__(self, identity: str, *, reason: str, exit_code: int = 1) -> None:
        super().__init__(f"{identity} went down: {reason}")
        self.identity = identity
        self.reason = reason
        self.exit_code = exit_code
