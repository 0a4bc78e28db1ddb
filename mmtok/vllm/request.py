"""What one request asks of the selection, and how that travels from vLLM's front end to the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mmtok.hub.options import OPTION_NAMES, PruningOptions
from mmtok.hub.tokenizer_source import TokenizerSource

# The request of an image and of a video, by modality. vLLM hashes the first, one of the processor's keyword arguments,
# into the keys of both.
REQUESTS = {"image": "mmtok_request", "video": "mmtok_video_request"}
REQUEST = REQUESTS["image"]
# Options that say what text is covered, which is read by then.
_OF_THE_TEXT = ("covered_text", "question_format")
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
    def of(cls, config: Any, prompt: list[int], overrides: dict[str, Any], source: TokenizerSource) -> PruningRequest:
        """Reads a prompt in which one image token stands for each image.

        Args:
            config: an MMTok configuration; its options count where `overrides` has none.
            prompt: token ids.
            overrides: options of the request, by name.
            source: the engine's tokenizer, which the question is read with.

        Raises:
            ValueError: an option out of range, or one that vLLM cannot honour: `coverage_target`, `image_scale`,
                `budget_scope` "video", and for a family with tiles `padding` "include".
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
        if options.image_scale is not None:
            raise ValueError(
                f"image_scale is {options.image_scale!r}: vLLM plans with the images that the processor makes. Set it "
                "to null and shrink them there, with mm_processor_kwargs such as max_pixels."
            )
        if options.budget_scope == "video":
            raise ValueError(
                "budget_scope is 'video': vLLM plans with the number of tokens of each frame before it encodes a "
                "video, and the frames would share theirs. Set it to 'image' or 'crop'."
            )
        if options.padding == "include" and hasattr(config, "image_grid_pinpoints"):
            raise ValueError(
                "padding is 'include': vLLM hands out the tokens of an image without their padding. Set it to 'stock'; "
                "for LLaVA-NeXT, the transformers classes have the selection of the paper."
            )
        # The text to cover is known by now.
        sent = {name: getattr(options, name) for name in OPTION_NAMES if name not in _OF_THE_TEXT}
        if options.text_coverage_weight == 0:
            return cls(sent, [])  # the text has no part in the selection: one key for all questions
        objects = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
        reader = source.reader(options.question_format, [each for each in objects if each is not None])
        assert reader is not None, "the engine has a tokenizer"
        question = reader.read(prompt) if options.covered_text is None else reader.read_text(options.covered_text)
        return cls(sent, list(question.ids))

    @property
    def pruning(self) -> PruningOptions:
        """The options, without tables."""
        return PruningOptions(**self.options)

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
