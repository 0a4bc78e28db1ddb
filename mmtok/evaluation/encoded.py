"""A batch of questions, encoded once for all selectors and budgets, and the prompts that they make of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch

from configuration_mmtok import PruningOptions
from mmtok.hub.images import EncodedVision
from mmtok.hub.prompt import Prompt, PrunedPrompt
from mmtok.hub.selection import Selection

from .selectors import CropView, Need, Selector

_PROJECTIONS = ("q_proj", "k_proj")


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
            inputs: what the processor made, padded on the left.
            needs: what the selectors to come look at besides features.
            seeds: one for each prompt.
            images: those of the batch, where they have been encoded already; encoded again where the attention of the
                tower is needed.

        Raises:
            ValueError: there is a video among the inputs.
        """
        if inputs.get("pixel_values_videos") is not None:
            raise ValueError("pixel_values_videos holds a video, and selectors choose from images alone: leave it out.")
        image_inputs = {name: inputs[name] for name in model.image_arguments if name in inputs}
        prompt = model.read_prompt(inputs["input_ids"], None, inputs["attention_mask"])
        with cls_attention(model) if "cls_attention" in needs else nullcontext() as tower:
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
            before = layouts[0].tokens_before_packing // (int(layouts[0].crop.max()) + 1)  # as many of every crop
            per_token |= {name: values.flatten(0, 1) for name, values in tower.per_token(before).items()}
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
                    own, merged = projected[image], model.model.multi_modal_projector(kept.raw_vision)
                    projected[image] = own.index_copy(0, tokens.to(own.device), merged.to(own.dtype))
        for flags, image in zip(kept_vision, self.encoded.layouts, strict=True):
            separator = image.source < 0
            if bool((flags | separator).all()):
                flags |= separator
        return _prompt_of(model, self.prompt, replace(self.encoded, projected=projected), kept_vision)


def types_of(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that say of each token of the prompt what it is."""
    return {name: inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in inputs}


def _prompt_of(model: Any, prompt: Prompt, encoded: EncodedVision, kept_vision: Sequence[torch.Tensor]) -> PrunedPrompt:
    return model.pack_prompt(prompt, encoded, Selection.of(kept_vision, encoded.layouts))


@dataclass
class TowerAttention:
    """Queries and keys of one layer of a CLIP tower by the names of their projections, (crops, 1 + tokens, width) each.

    They are there when the tower has run.
    """

    heads: int
    projected: dict[str, torch.Tensor] = field(default_factory=dict)

    def per_token(self, tokens: int) -> dict[str, torch.Tensor]:
        """Means over the heads: `cls_attention` (crops, tokens) and `keys` (crops, tokens, d_key).

        The class token is left out unless it is one of the `tokens` that LLaVA reads.
        """
        queries, keys = (
            self.projected[name].float().unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in _PROJECTIONS
        )
        weights = (queries[:, :, :1] @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5).softmax(-1).mean(1)[:, 0]
        first = keys.shape[2] - tokens
        return {"cls_attention": weights[:, first:], "keys": keys.mean(1)[:, first:]}


@contextmanager
def cls_attention(model: Any) -> Iterator[TowerAttention]:
    """Records the attention of the tower's layer that LLaVA reads, with any attention kernel.

    Yields:
        What is filled when the tower runs inside the block.

    Raises:
        ValueError: a tower whose layers are not CLIP's.
    """
    tower = model.config.vision_config.model_type
    if tower != "clip_vision_model":
        raise ValueError(
            f"The vision tower is a {tower}, without a class token: CLS attention is read from CLIP towers."
        )
    layer = model.config.vision_feature_layer
    layer = layer if isinstance(layer, int) else layer[-1]
    # hidden_states[i] with i > 0 is what layer i - 1 returns; counted from the end the two agree.
    attention = _attention_layers(model.model.vision_tower)[layer - 1 if layer > 0 else layer]
    record = TowerAttention(model.config.vision_config.num_attention_heads)
    handles = [
        getattr(attention, name).register_forward_hook(
            lambda _module, _args, output, name=name: record.projected.update({name: output})
        )
        for name in _PROJECTIONS
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def language_attention(model: Any, inputs: Mapping[str, Any], layer: int = 1) -> torch.Tensor:
    """Attention of the last token of every prompt, a mean over the heads of one layer.

    Args:
        model: a model of a family; its language model is switched to "eager" attention, which returns weights.
        inputs: arguments for prompts of L tokens, padded on the left; types of the tokens reach the mask where the
            tokens of an image see each other in both directions.
        layer: 0 for the first; of a model with recurrent layers, those with attention are counted.

    Returns:
        (B, L) float32.
    """
    language_model = model.model.language_model
    # There the mask is made outside the language model.
    runs = model.model if model.sees_both_ways else language_model
    found: list[torch.Tensor] = []

    def record(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        found.append(output[1][:, :, -1].float().mean(1))

    layers = _attention_layers(language_model)
    handle = layers[min(layer, len(layers) - 1)].register_forward_hook(record)
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    try:
        runs(**inputs, use_cache=False)
    finally:
        handle.remove()
        language_model.set_attn_implementation(before)
    return found[0]


def _attention_layers(model: torch.nn.Module) -> list[Any]:
    """The self-attention modules of a transformer, first layer first."""
    return [module for name, module in model.named_modules() if name.endswith(".self_attn")]
