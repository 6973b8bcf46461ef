"""Dead letters at the broker or in a recording; nothing here touches a socket."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgebus.contracts import ContractError, DeadLetter, PayloadError
from edgebus.contracts.topics import DEAD_LETTER, DEAD_LETTER_PAYLOAD

SHORT = 8
"""Characters of an id that people see: its end, where ids of one minute differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter with its bytes.

    Attributes:
        topic: Where the record lies.
        payload_topic: Where the bytes lie.
        record: What is known of the message.
        payload: Its bytes; None where they were too large to be kept, or are another letter's.
    """

    topic: str
    payload_topic: str
    record: DeadLetter
    payload: bytes | None

    @property
    def short(self) -> str:
        """The end of its id."""
        return self.record.id[-SHORT:]


class LetterNotFoundError(Exception):
    """No dead letter has this id, or more than one.

    Attributes:
        wanted: What was asked for.
    """

    exit_code = 2

    def __init__(self, wanted: str, *, found: int) -> None:
        how = "no dead letter has" if not found else f"{found} dead letters have"
        super().__init__(f"{how} the id {wanted!r}; see: edgebus deadletter list")
        self.wanted = wanted


class DeadLetters:
    """Dead letters as their records and payloads come in, in any order."""

    def __init__(self) -> None:
        # By the ring's place: source and number. Later letters replace earlier ones at the broker;
        # a recording has them all, so records are told apart by id.
        self._records: dict[tuple[str, str], DeadLetter] = {}
        self._payloads: dict[str, dict[str, bytes]] = {}
        self.unreadable = 0

    def add(self, topic: str, payload: bytes) -> None:
        """Take a message from one of the topics of dead letters; any other is ignored."""
        if DEAD_LETTER_PAYLOAD.parse(topic) is not None:
            place = topic.removesuffix("/payload")
            # By digest: a record names the bytes that belong to it.
            self._payloads.setdefault(place, {})[hashlib.sha256(payload).hexdigest()] = payload
        elif DEAD_LETTER.parse(topic) is not None and payload:
            try:
                record = DeadLetter.decode(payload)
            except PayloadError:
                self.unreadable += 1
            else:
                self._records[topic, record.id] = record

    def letters(self) -> list[Letter]:
        """The letters, oldest first."""
        found = [
            Letter(
                topic=topic,
                payload_topic=f"{topic}/payload",
                record=record,
                payload=self._payload(topic, record),
            )
            for (topic, _), record in self._records.items()
        ]
        return sorted(found, key=lambda letter: (letter.record.time, letter.record.id))

    def find(self, wanted: str) -> Letter:
        """The letter whose id is, begins or ends with `wanted`.

        Raises:
            LetterNotFoundError: There is none, or more than one.
        """
        text = wanted.strip().lower()
        matching = [
            letter
            for letter in self.letters()
            if text and (letter.record.id.endswith(text) or letter.record.id.startswith(text))
        ]
        if len(matching) != 1:
            raise LetterNotFoundError(wanted, found=len(matching))
        return matching[0]

    def _payload(self, topic: str, record: DeadLetter) -> bytes | None:
        if record.size == 0:
            return b""
        if record.digest is None:
            return None
        return self._payloads.get(topic, {}).get(record.digest)


def check_replayable(letter: Letter) -> bytes:
    """The bytes to say again.

    Raises:
        ContractError: They are not there.
    """
    if letter.payload is None:
        msg = (
            f"the payload of dead letter {letter.short} ({letter.record.size} bytes) was not kept; "
            "larger ones are with bus.dead_letter_bytes"
        )
        raise ContractError(msg)
    return letter.payload
