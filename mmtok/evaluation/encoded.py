"""A batch of questions, encoded once for all selectors and budgets, and the prompts that they make of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from configuration_mmtok import PruningOptions
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.prompt import Prompt, PrunedPrompt
from mmtok.hub.selection import Selection

from .attention import cls_attention, language_attention
from .selectors import CropView, Kept, Need, Selector


@dataclass(frozen=True)
class _Crop:
    image: int
    tokens: torch.Tensor  # (n,) int64 on the CPU, among the image's vision tokens
    view: CropView


@dataclass(frozen=True)
class EncodedBatch:
    """B prompts with one image each, and everything that selectors may look at.

    Attributes:
        prompt: the full prompts, with their images arranged.
        encoded: the images.
        crops: every crop of every image.
    """

    prompt: Prompt
    encoded: EncodedVision
    crops: list[_Crop]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        needs: Collection[Need],
        seeds: Sequence[int],
        images: EncodedVision | None = None,
    ) -> EncodedBatch:
        """Encodes the images of a batch.

        Args:
            model: a model with MMTok pruning.
            inputs: what the processor made, padded on the left.
            needs: what the selectors to come look at besides features.
            seeds: one for each prompt.
            images: those of the batch, where they have been encoded already; encoded again where the attention of the
                tower is needed.
        """
        image_inputs = _image_inputs(model, inputs)
        prompt = model.read_prompt(inputs["input_ids"], None, inputs["attention_mask"])
        with cls_attention(model, wanted="cls_attention" in needs) as tower:
            encoded = images if images is not None and tower is None else model.encode_images(**image_inputs)
        prompt, encoded = model.arrange(prompt, encoded)
        layouts, projected, raw = list(encoded.layouts), encoded.projected, torch.cat(list(encoded.raw))
        rows = prompt.rows_of_images(encoded.lengths)
        questions = model.questions(prompt, PruningOptions.from_config(model.config))
        text, text_mask = model.question_embeddings(questions, prompt.device)
        attention = None
        if "language_attention" in needs:
            full = _prompt_of(model, prompt, encoded, [torch.ones(length).bool() for length in encoded.lengths])
            attention = language_attention(model, {**full.language_inputs(), **full.per_token_inputs(types_of(inputs))})
        per_token = {"raw_vision": raw}
        if tower:
            per_token |= {
                name: values.flatten(0, 1) for name, values in tower.per_token(_tokens_per_crop(layouts)).items()
            }

        crops, offset = [], 0
        for number, image in enumerate(layouts):
            row = rows[number]
            place = torch.nonzero(prompt.image_mask[row])[:, 0]
            for crop in image.crop[image.crop >= 0].unique():
                tokens = torch.nonzero(image.crop == crop)[:, 0]
                sources = (image.source[tokens] + offset).to(raw.device)
                view = CropView(
                    text=text[row][text_mask[row].to(text.device)],
                    vision=projected[number][tokens.to(projected[number].device)],
                    row=image.row[tokens],
                    column=image.column[tokens],
                    seed=seeds[row],
                    language_attention=None
                    if attention is None
                    else attention[row, place[tokens].to(attention.device)],
                    **{name: values[sources] for name, values in per_token.items()},
                )
                crops.append(_Crop(number, tokens, view))
            offset += image.tokens_before_packing
        return cls(prompt, encoded, crops)

    @torch.no_grad()
    def pruned(self, model: Any, selector: Selector, budget: int | float) -> PrunedPrompt:
        """The prompts with `budget` tokens, or that share, of each crop; row separators stay where no token goes."""
        kept_vision = [torch.zeros(len(image.source), dtype=torch.bool) for image in self.encoded.layouts]
        projected = list(self.encoded.projected)
        for image, group in groupby(self.crops, key=lambda crop: crop.image):
            crops = list(group)
            views = [crop.view for crop in crops]
            if isinstance(budget, float):
                counts = [PruningOptions(vision_token_budget=budget).budget_of(len(crop.tokens)) for crop in crops]
                selected = [selector.select(view, count) for view, count in zip(views, counts, strict=True)]
            else:
                selected = selector.select_together(views, budget)
            for crop, kept in zip(crops, selected, strict=True):
                tokens = crop.tokens[kept.indices.cpu()]
                kept_vision[image][tokens] = True
                if kept.raw_vision is not None:
                    projected[image] = _replaced(model, projected[image], tokens, kept)
        for flags, image in zip(kept_vision, self.encoded.layouts, strict=True):
            separator = image.source < 0
            if bool((flags | separator).all()):
                flags |= separator
        return _prompt_of(model, self.prompt, replace(self.encoded, projected=projected), kept_vision)


def _image_inputs(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that belong to images.

    Raises:
        ValueError: there is a video among the inputs.
    """
    if inputs.get("pixel_values_videos") is not None:
        raise ValueError("pixel_values_videos holds a video, and selectors choose from images alone: leave it out.")
    return {name: inputs[name] for name in model.image_arguments if name in inputs}


def types_of(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that say of each token of the prompt what it is."""
    return {name: inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in inputs}


def _replaced(model: Any, features: torch.Tensor, tokens: torch.Tensor, kept: Kept) -> torch.Tensor:
    merged = model.model.multi_modal_projector(kept.raw_vision)
    return features.index_copy(0, tokens.to(features.device), merged.to(features.dtype))


def _prompt_of(model: Any, prompt: Prompt, encoded: EncodedVision, kept_vision: Sequence[torch.Tensor]) -> PrunedPrompt:
    return model.pack_prompt(prompt, encoded, Selection.of(kept_vision, encoded.layouts))


def _tokens_per_crop(layouts: Sequence[Layout]) -> int:
    """Tokens of a crop before packing, the same for all crops."""
    return layouts[0].tokens_before_packing // (int(layouts[0].crop.max()) + 1)
