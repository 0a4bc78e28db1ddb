"""The real checkpoints' shapes with random weights, and the size of their key-value caches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)
from transformers.initialization import no_init_weights

from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration, MMTokLlavaNextForConditionalGeneration

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# LLaVA-NeXT's largest image: 672 x 672 pixels, five crops.
IMAGE = [672, 672]


@dataclass(frozen=True)
class Shape:
    """A CLIP tower, two projector layers and a Llama; by default the tower is ViT-L/14 at 336 pixels.

    `layers` and `vision_layers` can be reduced; every width stays.
    """

    name: str
    next: bool
    hidden: int
    mlp: int
    heads: int
    layers: int
    kv_heads: int
    vision_layers: int = 24
    vision_hidden: int = 1024
    vision_mlp: int = 4096
    vision_heads: int = 16
    image_size: int = 336
    patch_size: int = 14
    vocabulary: int = 32064
    image_token: int = 32000

    def reduced(self, layers: int | None) -> Shape:
        """The shape with `layers` language layers and the same share of the vision tower's."""
        if layers is None:
            return self
        return replace(self, layers=layers, vision_layers=max(2, round(self.vision_layers * layers / self.layers)))

    @property
    def crop_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def crops(self) -> int:
        return 5 if self.next else 1

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in the stock prompt: the base crop, the tiles, a separator for each of their rows."""
        side = self.image_size // self.patch_size
        return self.crop_tokens * self.crops + (2 * side if self.next else 0)

    @property
    def classes(self) -> tuple[Any, Any]:
        """The stock class and ours."""
        if self.next:
            return LlavaNextForConditionalGeneration, MMTokLlavaNextForConditionalGeneration
        return LlavaForConditionalGeneration, MMTokLlavaForConditionalGeneration

    def models(self, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
        """The stock model and ours, sharing random weights."""
        stock_class, own_class = self.classes
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device), no_init_weights():
                ours = own_class(self.config(own_class))
            with torch.device("meta"):
                stock = stock_class(self.config(stock_class))
        finally:
            torch.set_default_dtype(before)
        stock.model, stock.lm_head = ours.model, ours.lm_head
        _fill(ours)
        for model in (stock, ours):
            model.eval()
            model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
        return stock, ours

    def inputs(self, batch: int, words: int, dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
        """Random images, each with a question of so many tokens."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, self.image_token, (batch, words), generator=generator)
        image = torch.full((batch, self.image_tokens), self.image_token)
        ids = torch.cat((ids[:, :5], image, ids[:, 5:]), dim=1)
        pixels = torch.randn(batch, self.crops, 3, self.image_size, self.image_size, generator=generator).to(dtype)
        inputs = {"input_ids": ids, "pixel_values": pixels if self.next else pixels[:, 0]}
        if self.next:
            inputs["image_sizes"] = torch.tensor([IMAGE] * batch)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}

    def cache_bytes(self, prompt: int, bytes_per_value: int = 2) -> int:
        """Keys and values of a prompt."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * prompt * bytes_per_value

    def config(self, model_class: Any) -> Any:
        """The configuration of one of the `classes`."""
        text = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
        )
        vision = CLIPVisionConfig(
            hidden_size=self.vision_hidden,
            intermediate_size=self.vision_mlp,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
        )
        return model_class.config_class(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            image_token_index=self.image_token,
            image_seq_length=self.crop_tokens,
            **({"image_grid_pinpoints": PINPOINTS} if self.next else {}),
        )


def small_model(is_next: bool, width: int, vocabulary: int, image_token: int) -> Any:
    """Ours with LLaVA's crops, a small width, and random weights that are the same each time."""
    heads = {"heads": width // 16, "kv_heads": width // 16, "vision_heads": width // 16}
    own: dict[str, Any] = {"hidden": width, "mlp": 2 * width, "layers": 1, "vocabulary": vocabulary, **heads}
    tower = {"vision_hidden": width, "vision_mlp": 2 * width, "vision_layers": 3, "image_token": image_token}
    shape = Shape("small", is_next, **own, **tower)
    torch.manual_seed(0)
    return shape.classes[1](shape.config(shape.classes[1])).eval()


def _fill(model: torch.nn.Module) -> None:
    """Random weights in a fraction of the time that drawing every single one takes; those of norms are 1."""
    for parameter in model.parameters():
        flat = parameter.detach().view(-1)
        drawn = 0.02 * torch.randn(min(len(flat), 2**20), dtype=flat.dtype, device=flat.device)
        for block in flat.split(2**20):
            block.copy_(drawn[: len(block)] if parameter.dim() > 1 else torch.ones_like(block))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("LLaVA-1.5-7B", False, hidden=4096, mlp=11008, heads=32, layers=32, kv_heads=32),
        Shape("LLaVA-1.5-13B", False, hidden=5120, mlp=13824, heads=40, layers=40, kv_heads=40),
        Shape("LLaVA-NeXT-7B", True, hidden=4096, mlp=11008, heads=32, layers=32, kv_heads=32),
        Shape("LLaVA-NeXT-13B", True, hidden=5120, mlp=13824, heads=40, layers=40, kv_heads=40),
    )
}
