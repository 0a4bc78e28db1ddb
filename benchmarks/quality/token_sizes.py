"""What dropped tokens can leave behind: a mean with the kept one, and attention that knows what a kept one stands for.

Every dropped token belongs to the kept one that it is most alike. Merging is written from the description of DCP-Prune
(arXiv 2606.16633), the bias of the attention from that of ERA (2606.31982). Neither changes a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks.objects.held_out import HeldOutSet
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.questions import Question, read_questions
from mmtok.evaluation.recorded_answers import RecordedAnswer
from mmtok.evaluation.selectors import CropView, Kept, Selector
from mmtok.hub.prompt import PrunedPrompt
from mmtok.images import read_image

from .later_rules import LaterRule


def owners(raw: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """(n,) int64: for each token the number of the kept one that it belongs to, among `kept`; a kept one owns itself.

    Args:
        raw: (n, d_raw), tokens before the projector.
        kept: (k,) int64, positions.
    """
    vectors = normalize(raw.float(), dim=-1)
    owner = (vectors @ vectors[kept].T).argmax(-1)
    owner[kept] = torch.arange(len(kept))
    return owner


class Merged(LaterRule):
    """Greedy maximisation; the features of a kept token move towards the mean of those that belong to it."""

    def __init__(self, name: str, *, share: float = 1.0, **settings: Any) -> None:
        """
        Args:
            name: what results call it.
            share: how far, 1 for the mean itself.
            settings: of `coverage_matrix`.
        """
        super().__init__(name, **settings)
        self.share = share

    def select(self, crop: CropView, budget: int) -> Kept:
        kept = super().select(crop, budget).indices
        owner = owners(crop.raw_vision, kept)
        sums = crop.raw_vision.new_zeros(len(kept), crop.raw_vision.shape[1]).index_add(0, owner, crop.raw_vision)
        means = sums / torch.bincount(owner, minlength=len(kept))[:, None]
        return Kept(kept, torch.lerp(crop.raw_vision[kept], means, self.share))


def log_sizes(encoded: EncodedBatch, pruned: PrunedPrompt, selector: Selector, budget: int) -> torch.Tensor:
    """(B, L') float32: for each vision token the logarithm of how many tokens of its image belong to it, else 0.

    Args:
        encoded: images of one crop each.
        pruned: its prompts with the tokens that `selector` keeps.
        selector, budget: as for `pruned`.
    """
    bias = torch.zeros(pruned.vision_slots.shape)
    rows = encoded.prompt.rows_of_images(encoded.encoded.lengths)
    for crop in encoded.crops:
        kept = selector.select(crop.view, budget).indices.sort().values
        sizes = torch.bincount(owners(crop.view.raw_vision, kept), minlength=len(kept))
        row = rows[crop.image]
        bias[row, pruned.vision_slots[row]] = sizes.float().log()
    return bias


@torch.no_grad()
def biased_generate(checkpoint: Checkpoint, pruned: PrunedPrompt, bias: torch.Tensor, max_new_tokens: int) -> list[str]:
    """Greedy answers where `bias` (B, L') is added to the attention that is paid to each token of the prompts."""
    model, embeds = checkpoint.model, pruned.inputs_embeds
    mask = torch.ones(embeds.shape[:2]) if pruned.attention_mask is None else pruned.attention_mask
    end, answers = checkpoint.processor.tokenizer.eos_token_id, []
    for _ in range(max_new_tokens):
        length = embeds.shape[1]
        seen = torch.ones(length, length).tril().bool() & mask.bool()[:, None]
        seen |= torch.eye(length).bool()  # a row of padding alone would be no softmax
        added = bias[:, None].expand(-1, length, -1).masked_fill(~seen, torch.finfo(embeds.dtype).min)
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        hidden = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=added[:, None].to(embeds.dtype),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        answers.append(model.lm_head(hidden[:, -1]).argmax(-1))
        embeds = torch.cat([embeds, model.get_input_embeddings()(answers[-1])[:, None].to(embeds.dtype)], dim=1)
        mask, bias = (torch.nn.functional.pad(each, (0, 1), value=value) for each, value in ((mask, 1), (bias, 0)))
    tokens = torch.stack(answers, dim=1)
    ended = (tokens == end).cumsum(-1) > 0
    texts = checkpoint.processor.batch_decode(tokens.masked_fill(ended, end), skip_special_tokens=True)
    return [text.strip() for text in texts]


def answered_with_sizes(
    checkpoint: Checkpoint,
    images: HeldOutSet,
    tasks: Sequence[str],
    selectors: Sequence[Selector],
    budgets: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[RecordedAnswer]:
    """The answers to the questions of a set where the attention knows the sizes."""
    questions: list[Question] = [q for path in images.files if path.stem in tasks for q in read_questions(path)]
    found: list[RecordedAnswer] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        inputs = checkpoint.inputs([q.text for q in batch], [read_image(images.images / q.image) for q in batch])
        encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0] * len(batch))
        for selector in selectors:
            for budget in budgets:
                pruned = encoded.pruned(checkpoint.model, selector, budget)
                bias = log_sizes(encoded, pruned, selector, budget)
                texts = biased_generate(checkpoint, pruned, bias, max_new_tokens)
                found += [
                    RecordedAnswer(selector.name, budget, q.task, q.question_id, text, budget)
                    for q, text in zip(batch, texts, strict=True)
                ]
    return found
