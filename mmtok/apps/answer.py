"""What a model read of an image or video for a question, and what it answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtok.hub.selection import ImageSelection

Budget = int | float | None


@dataclass(frozen=True)
class Explanation:
    """What a model reads of an image or video with one budget.

    Attributes:
        question: as text.
        budget: `vision_token_budget` of the call; None for every token.
        prompt_tokens: length of the prompt for the language model.
        full_prompt_tokens: length of the prompt without pruning.
        vision_tokens: vision tokens in the prompt for the language model.
        coverage: coverage of the kept tokens relative to that of all tokens, 0 to 1.
        selection: what was kept, with the gains.
    """

    question: str
    budget: Budget
    prompt_tokens: int
    full_prompt_tokens: int
    vision_tokens: int
    coverage: float
    selection: ImageSelection

    @property
    def words(self) -> str:
        """The words of the question that the kept tokens have to cover, as one text."""
        if not self.selection.word_ids:
            return "none"
        return " ".join(self.selection.words) or "every token of the prompt: there is no tokenizer to read it with"

    @property
    def tokens_per_frame(self) -> list[int]:
        """Kept vision tokens of each crop, which of a video is a frame, or a pair of frames."""
        return self.selection.crop.bincount().tolist()

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept vision tokens with their gains, and of a video how many each frame has."""
        kept = self.selection
        columns = (kept.indices, kept.crop, kept.row, kept.column, kept.pick_order, kept.text_gain, kept.vision_gain)
        names = ("index", "crop", "row", "column", "pick", "text_gain", "vision_gain")
        return {
            "question": self.question,
            "vision_token_budget": self.budget,
            "prompt_tokens": self.prompt_tokens,
            "full_prompt_tokens": self.full_prompt_tokens,
            "vision_tokens": self.vision_tokens,
            **({"vision_tokens_per_frame": self.tokens_per_frame} if kept.is_video else {}),
            "covered_words": list(kept.words),
            "covered_ids": list(kept.word_ids),
            "coverage": round(self.coverage, 6),
            "kept": [
                dict(zip(names, values, strict=True))
                for values in zip(*(column.tolist() for column in columns), strict=True)
            ],
        }


@dataclass(frozen=True)
class Answer(Explanation):
    """What a model answered with one budget; `prompt_tokens` was counted where it reached the language model.

    Attributes:
        answer: as text.
        seconds: wall time of `generate`, from the processor's output to the tokens of the answer; a median.
    """

    answer: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept vision tokens with their gains."""
        return {**super().as_json(), "answer": self.answer, "seconds": round(self.seconds, 4)}
