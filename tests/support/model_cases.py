"""The model families as one table: small random models, and prompts with any mix of images, words and padding."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from configuration_mmtok import (
    MMTokLlavaConfig,
    MMTokLlavaNextConfig,
    MMTokLlavaOnevisionConfig,
    PruningOptions,
)
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration, MMTokLlavaNextForConditionalGeneration
from modeling_mmtok_llava_onevision import MMTokLlavaOnevisionForConditionalGeneration

# What the release calls the key-value cache, as an argument and in outputs.
CACHE = "cache" if "cache" in inspect.signature(LlavaForConditionalGeneration.forward).parameters else "past_key_values"
PAD, BOS, EOS, IMAGE, VIDEO, VOCABULARY = 0, 1, 2, 99, 100, 120
IMAGE_SIZE, PATCH_SIZE = 24, 6
TOKENS_PER_CROP = (IMAGE_SIZE // PATCH_SIZE) ** 2
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]

# A row of a prompt: one piece after another, a number of words or an image of (height, width).
Row = Sequence[int | tuple[int, int]]


@dataclass(frozen=True)
class Family:
    """A pruned model, the stock model with the same weights, and how its inputs are made."""

    name: str
    model_class: type
    stock_class: type
    config_class: type

    def config(self, **pruning_options: Any) -> Any:
        onevision = self.name == "llava_onevision"
        text = (Qwen2Config if onevision else LlamaConfig)(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
        kind, head = (SiglipVisionConfig, {"vision_use_head": False}) if onevision else (CLIPVisionConfig, {})
        vision = kind(
            **head,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
        )
        extra: dict[str, Any] = {} if onevision else {"image_seq_length": TOKENS_PER_CROP}
        if self.has_tiles:
            extra["image_grid_pinpoints"] = PINPOINTS
        if onevision:
            # A mosaic of more than two crops is shrunk.
            extra |= {"video_token_index": VIDEO, "vision_aspect_ratio": "anyres_max_2"}
        return self.config_class(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            image_token_index=IMAGE,
            pad_token_id=PAD,
            **extra,
            **pruning_options,
        )

    @property
    def has_tiles(self) -> bool:
        """Whether an image is seen as a whole and in tiles, and so has a size of its own."""
        return self.name != "llava"

    def models(self, *, seed: int = 0, **pruning_options: Any) -> tuple[Any, Any]:
        """The pruned model and the stock model with equal random weights, in float32 on the CPU, in eval mode."""
        torch.manual_seed(seed)
        pruned = self.model_class(self.config(**pruning_options)).eval()
        for parameter in pruned.parameters():
            # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
            torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
        torch.nn.init.normal_(pruned.model.vision_tower.get_input_embeddings().weight, std=0.6)
        stock = self.stock_class(pruned.config).eval()
        stock.load_state_dict(pruned.state_dict())
        for model in (pruned, stock):
            model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, None
        return pruned, stock

    def models_of_own_classes(self, **pruning_options: Any) -> tuple[Any, Any]:
        """As `models`, but the configuration of the stock model is of its own class and knows no option."""
        pruned, stock = self.models(**pruning_options)
        ours = {*PruningOptions.__dataclass_fields__, "model_type", "architectures"}
        known = {name: value for name, value in stock.config.to_dict().items() if name not in ours}
        own = self.stock_class(self.stock_class.config_class.from_dict(known)).eval()
        own.load_state_dict(stock.state_dict())
        own.generation_config = stock.generation_config
        return pruned, own

    def image_length(self, size: tuple[int, int], model: Any) -> int:
        """Vision tokens of an image of (height, width) in the prompt."""
        if not self.has_tiles:
            return TOKENS_PER_CROP
        numbers = torch.zeros(crops_of(size), TOKENS_PER_CROP, 1)
        if self.name == "llava_onevision":
            ratio = model.config.vision_aspect_ratio
            packed, _ = model.model.pack_image_features([numbers], [list(size)], torch.zeros(1), ratio)
        else:
            packed, _ = model.pack_image_features([numbers], [list(size)], "default", torch.zeros(1))
        return len(packed[0])

    def inputs(self, rows: Sequence[Row], model: Any, *, seed: int = 0, left: bool = True) -> dict[str, torch.Tensor]:
        """Random words and pixels for `rows`, padded on the left or on the right."""
        generator = torch.Generator().manual_seed(seed)
        sequences, sizes = [], []
        for row in rows:
            ids = [BOS]
            for piece in row:
                if isinstance(piece, tuple):
                    ids += [IMAGE] * self.image_length(piece, model)
                    sizes.append(piece)
                else:
                    ids += torch.randint(3, IMAGE, (piece,), generator=generator).tolist()
            sequences.append(ids)
        length = max(map(len, sequences))
        fill = [[PAD] * (length - len(ids)) for ids in sequences]
        padded = [pad + ids if left else ids + pad for pad, ids in zip(fill, sequences, strict=True)]
        real = [
            [0] * len(pad) + [1] * len(ids) if left else [1] * len(ids) + [0] * len(pad)
            for pad, ids in zip(fill, sequences, strict=True)
        ]
        inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(real)}
        if sizes:
            crops = max(map(crops_of, sizes)) if self.has_tiles else 1
            pixels = torch.randn(len(sizes), crops, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
            inputs["pixel_values"] = pixels if self.has_tiles else pixels[:, 0]
            if self.has_tiles:
                inputs["image_sizes"] = torch.tensor(sizes)
        return inputs


def crops_of(size: tuple[int, int]) -> int:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(list(size), PINPOINTS, IMAGE_SIZE)


def single(inputs: dict[str, torch.Tensor], row: int, images: slice) -> dict[str, torch.Tensor]:
    """One row of a batch without its padding, with its own images."""
    real = inputs["attention_mask"][row].bool()
    alone = {name: inputs[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
    for name in ("pixel_values", "image_sizes"):
        if name in inputs and images.stop > images.start:
            alone[name] = inputs[name][images]
    return alone


FAMILIES = {
    family.name: family
    for family in (
        Family("llava", MMTokLlavaForConditionalGeneration, LlavaForConditionalGeneration, MMTokLlavaConfig),
        Family(
            "llava_next",
            MMTokLlavaNextForConditionalGeneration,
            LlavaNextForConditionalGeneration,
            MMTokLlavaNextConfig,
        ),
        Family(
            "llava_onevision",
            MMTokLlavaOnevisionForConditionalGeneration,
            LlavaOnevisionForConditionalGeneration,
            MMTokLlavaOnevisionConfig,
        ),
    )
}
