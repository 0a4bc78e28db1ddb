"""Training conversations: several questions about one scene, and the language model's forward on its vision tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from mmtok.tiny.questions import SHORT_ANSWER, Question
from mmtok.tiny.reading import reading_questions
from mmtok.tiny.scenes import Scene

from .architecture import IMAGE, tokenizer

IGNORED = -100
START, END, VISION_START, VISION_END = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
TURNS = 6
# Of the kinds of question, how often each is asked.
ODDS = {"yes/no": 0.35, "name": 0.15, "count": 0.1, "read": 0.4}
SHARE_INSTRUCTED = 0.15


def converse(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Ask `TURNS` questions about a scene; in some conversations each with the benchmarks' instruction."""
    turns: list[Question] = []
    while len(turns) < TURNS:
        asked = {kind: found for kind, found in reading_questions(scene, rng).items() if found}
        odds = np.array([ODDS[kind] for kind in asked])
        found = list(asked.values())[rng.choice(len(asked), p=odds / odds.sum())]
        turns.append(found[rng.integers(len(found))])
    if rng.random() < SHARE_INSTRUCTED:
        return [replace(turn, text=f"{turn.text}\n{SHORT_ANSWER}") for turn in turns]
    return turns


@dataclass(frozen=True)
class Seen:
    """What the language model reads of one image.

    Attributes:
        tokens: (tokens, hidden) vision tokens, all of the image's or some.
        rows, columns: grid of the image.
        kept: (tokens,) int64, their places in the grid, row by row.
    """

    tokens: torch.Tensor
    rows: int
    columns: int
    kept: torch.Tensor


class Encoder:
    """Turns conversations into the tokens of the chat template, with the positions of stock M-RoPE."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.image, self.pad = self.tokenizer.convert_tokens_to_ids(IMAGE), self.tokenizer.pad_token_id
        self.known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Encode a text."""
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text)
        return self.known[text]

    def encode(
        self, seen: Sequence[Seen], conversations: Sequence[list[Question]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode conversations: (B, length) input ids and labels, (3, B, length) positions, padded on the right."""
        rows = [self._encode_one(*pair) for pair in zip(seen, conversations, strict=True)]
        ids, labels, positions = (
            torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True, padding_value=value)
            for part, value in zip(zip(*rows, strict=True), (self.pad, IGNORED, 0), strict=True)
        )
        return ids, labels, positions.permute(2, 0, 1)

    def _encode_one(self, seen: Seen, turns: list[Question]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        opening = self.ids(f"{START}user\n")
        head = [*opening, *self.ids(VISION_START)]
        text, labels = self.ids(VISION_END)[:], [IGNORED]
        for index, turn in enumerate(turns):
            prompt = [*self.ids(turn.text), *self.ids(f"{END}\n{START}assistant\n")]
            prompt = [*self.ids("\n"), *opening, *prompt] if index else prompt
            answer = self.ids(f"{turn.answer}{END}")
            text += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        count, first = len(seen.kept), len(head)
        place = torch.stack([torch.zeros_like(seen.kept), seen.kept // seen.columns, seen.kept % seen.columns])
        after = torch.arange(len(text)) + max(seen.rows, seen.columns)
        positions = torch.cat([torch.arange(-first, 0).expand(3, -1), place, after.expand(3, -1)], 1) + first
        ids = torch.tensor(head + [self.image] * count + text)
        return ids, torch.tensor([IGNORED] * (first + count) + labels), positions.T


def answer_logits(
    model: Qwen2_5_VLForConditionalGeneration, encoder: Encoder, seen: Sequence[Seen], turns: Sequence[list[Question]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits at the tokens of the answers, those tokens, and the number of each one's conversation."""
    ids, labels, positions = encoder.encode(seen, turns)
    embeds = model.get_input_embeddings()(ids)
    tokens = torch.cat([each.tokens for each in seen]).to(embeds.dtype)
    embeds = embeds.masked_scatter((ids == encoder.image)[..., None], tokens)
    # Padding is on the right, where causal attention never looks: no mask is needed.
    states = model.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False)
    chosen = labels[:, 1:] != IGNORED
    logits = model.lm_head(states.last_hidden_state[:, :-1][chosen]).float()
    return logits, labels[:, 1:][chosen], chosen.nonzero()[:, 0]
