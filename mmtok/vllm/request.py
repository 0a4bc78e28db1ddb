"""What one request asks of the selection, and how that travels from vLLM's front end to the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mmtok.hub.options import OPTION_NAMES, PruningOptions
from mmtok.vllm.method import ids_to_cover

_NO_PRUNING = {"vision_token_budget": None}


@dataclass(frozen=True)
class PruningRequest:
    """The options of one prompt and the text that its kept vision tokens have to cover.

    Attributes:
        options: values of `PruningOptions` by name, without its tables. Of an unpruned request only the budget, None:
            its images are the same for every question.
        text_ids: token ids of the text to cover, in order.
        image_key: names the image's pixels, so that requests about one image can share the vision tower's work; empty
            where they must not.
        tiled: whether the image is seen in tiles, where its family has tiles.
    """

    options: dict[str, Any]
    text_ids: list[int]
    image_key: str = ""
    tiled: bool = True

    @classmethod
    def of(cls, config: Any, prompt: list[int], overrides: dict[str, Any]) -> PruningRequest:
        """Reads a prompt in which one image token stands for each image.

        Args:
            config: an MMTok configuration; its options count where `overrides` has none.
            prompt: token ids.
            overrides: options of the request, by name.

        Raises:
            ValueError: an option out of range, or one that vLLM cannot honour: `coverage_target`, and for a
                family with tiles `select_before_unpadding`.
        """
        options = PruningOptions.from_config(config, **overrides)
        if not options.prunes:
            return cls(_NO_PRUNING, [])
        if options.coverage_target is not None:
            raise ValueError(
                f"coverage_target is {options.coverage_target!r}: vLLM plans with the number of tokens before it "
                "encodes an image, and a target makes that number depend on the image. Set it to null and give "
                "vision_token_budget."
            )
        if options.select_before_unpadding and hasattr(config, "image_grid_pinpoints"):
            raise ValueError(
                "select_before_unpadding is True: vLLM hands out the tokens of an image without their padding. Set it "
                "to False; for LLaVA-NeXT, the transformers classes have the selection of the paper."
            )
        sent = {
            name: getattr(options, name) for name in OPTION_NAMES if name not in ("covered_text", "question_format")
        }
        return cls(sent, ids_to_cover(config, prompt, options))

    @property
    def pruning(self) -> PruningOptions:
        """The options, without tables."""
        return PruningOptions(**self.options)

    def about(self, image_key: str) -> PruningRequest:
        """The request for one of the prompt's images, by its key."""
        return replace(self, image_key=image_key)

    def to_json(self) -> str:
        """Equal requests, and no others, have equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PruningRequest:
        return cls(**json.loads(text))

    def to_tensor(self) -> torch.Tensor:
        """(n,) uint8: what vLLM carries beside the pixels has to be a tensor, whose dtype it leaves alone."""
        return torch.frombuffer(bytearray(self.to_json().encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: torch.Tensor) -> PruningRequest:
        return cls.from_json(bytes(data.tolist()).decode())
