"""The answers of a run, as the records of its store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from mmtok.record_store import RecordStore

# Tokens kept of each crop, or a share of them as a float; None for the full prompt.
Budget: TypeAlias = int | float | None
Key: TypeAlias = tuple[str, Budget, str, int | str]


@dataclass(frozen=True)
class RecordedAnswer:
    """What a model answered.

    Attributes:
        method: name of the pruning method; "all" for the full prompt.
        budget: tokens kept per crop; None for the full prompt.
        task, question_id: the question.
        text: the answer.
        vision_tokens: how many vision tokens the language model read.
    """

    method: str
    budget: Budget
    task: str
    question_id: int | str
    text: str
    vision_tokens: int

    @property
    def key(self) -> Key:
        """The key of the answer within its run."""
        return self.method, self.budget, self.task, self.question_id

    def as_record(self) -> dict[str, Any]:
        """JSON values for a `RecordStore`."""
        return asdict(self)


def recorded(store: RecordStore) -> dict[Key, RecordedAnswer]:
    """The answers of all processes that a store holds; the first of each key counts, and what is none is missing."""
    found: dict[Key, RecordedAnswer] = {}
    for record in store.read():
        try:
            answer = RecordedAnswer(**record)
        except TypeError:
            continue
        found.setdefault(answer.key, answer)
    return found
