"""Label sets of operators, in the store's database.

Written in one SQLite transaction, by a command on the store's host or by anything else that has
the database open, also while samples are added. The next job reads them when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from edgebus.contracts import LabelSet
from edgebus.samples.tables import LabelRow, SampleRow

_CHUNK = 500  # SQLite bounds the variables of a statement


class SampleUnknownError(LookupError):
    """The store has no such sample.

    Attributes:
        samples: Their ids, as they were asked for.
        found: Ids that fit, where several do.
    """

    exit_code = 2

    def __init__(self, samples: Sequence[str], *, found: Sequence[str] = ()) -> None:
        named = ", ".join(samples[:5]) + (", ..." if len(samples) > 5 else "")
        problem = f"the store has no sample {named}; it may have been evicted"
        if found:
            problem = f"{named} may be {', '.join(found[:5])}; give more of the id"
        super().__init__(f"{problem}. See: edgebus samples list --data FOLDER")
        self.samples = tuple(samples)
        self.found = tuple(found)


class LabelBook:
    """Reads and writes label sets. Methods do disk I/O and block.

    Args:
        engine: From `open_database`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, sets: Mapping[str, LabelSet | None]) -> None:
        """Set or replace the labels of samples: all of them, or none if one cannot be.

        Args:
            sets: Label sets by the id of their sample; None withdraws the last one.

        Raises:
            SampleUnknownError: A sample is not there.
        """
        with Session(self._engine) as session, session.begin():
            self.write_in(session, sets)

    def write_in(self, session: Session, sets: Mapping[str, LabelSet | None]) -> None:
        """As `write`, as a part of a larger transaction."""
        known: set[str] = set()
        for ids in _chunks(sorted(sets)):
            known.update(session.scalars(select(SampleRow.id).where(SampleRow.id.in_(ids))))
        if unknown := sorted(set(sets) - known):
            raise SampleUnknownError(unknown)
        session.add_all(
            LabelRow(sample=sample, labels=None if labels is None else labels.model_dump_json())
            for sample, labels in sets.items()
        )

    def read(self, samples: Iterable[str]) -> dict[str, LabelSet]:
        """The label sets that count, of those samples that have one."""
        with Session(self._engine) as session:
            return newest_labels(session, samples)

    def history(self, sample: str) -> list[LabelSet | None]:
        """All label sets of a sample, oldest first; None where one was withdrawn."""
        query = select(LabelRow.labels).where(LabelRow.sample == sample).order_by(LabelRow.id)
        with Session(self._engine) as session:
            return [_set(text) for text in session.scalars(query)]


def newest_labels(session: Session, samples: Iterable[str]) -> dict[str, LabelSet]:
    """The label sets that count, of those samples that have one."""
    found: dict[str, LabelSet] = {}
    for ids in _chunks(list(samples)):
        newest = select(func.max(LabelRow.id)).where(LabelRow.sample.in_(ids))
        query = select(LabelRow).where(LabelRow.id.in_(newest.group_by(LabelRow.sample)))
        for row in session.scalars(query):
            labels = _set(row.labels)
            if labels is not None:
                found[row.sample] = labels
    return found


def _set(text: str | None) -> LabelSet | None:
    return None if text is None else LabelSet.model_validate_json(text)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
