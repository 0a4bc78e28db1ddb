"""The model families as one table: small random models, and prompts with any mix of images, words and padding."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.generation.streamers import BaseStreamer

from configuration_mmtok import OPTION_NAMES, PruningOptions
from mmtok.apps.small_models import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_SIZE,
    PAD,
    PATCH_SIZE,
    PINPOINTS,
    TOKENS_PER_CROP,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    small_config,
)
from mmtok.hub.families import FAMILIES as PUBLISHED
from mmtok.hub.options import is_meaningful
from mmtok.hub.prune import stock_class_of

# What the release calls the key-value cache, as an argument and in outputs.
CACHE = "cache" if "cache" in inspect.signature(LlavaForConditionalGeneration.forward).parameters else "past_key_values"

# A row of a prompt: one piece after another, a number of words, an image of (height, width) or a video of (frames,
# height, width); frames of LLaVA-OneVision have a size of their own, and as many in every video of a batch.
Row = Sequence[int | tuple[int, ...]]


class Family:
    """A pruned model, the stock model with the same weights, and how its inputs are made; here LLaVA-1.5.

    Attributes:
        name: the stock model type.
        has_tiles: whether an image is seen as a whole and in tiles, and so has a size of its own.
        has_grids: whether an image is a grid of patches of its own size, with a token in front of it and one behind.
        has_timestamps: whether words in front of each temporal patch of a video say when it is seen.
        counts_on_host: whether the number of tokens that stay is known without looking at which.
        drafts: whether stock takes an assistant model, or a prompt to look drafts up in.
        crops, separators: of a 48 x 48 image.
        prunable: ids of tokens that may be dropped.
    """

    has_tiles = has_grids = has_timestamps = False
    counts_on_host = drafts = True
    # Logits of weights that lie elsewhere in memory: equal, but for experts, also in stock.
    rounding = 0.0
    crops, separators = 1, 0
    prunable = frozenset((IMAGE, VIDEO))

    def __init__(self, name: str) -> None:
        self.name = name
        self.model_class: Any = PUBLISHED[name].load_class()
        self.stock_class: Any = stock_class_of(self.model_class)
        self.config_class: Any = self.model_class.config_class

    def config(self, **pruning_options: Any) -> Any:
        return small_config(self.name, **pruning_options)

    @property
    def takes_embeddings(self) -> bool:
        """Whether stock generation takes a prompt of embeddings."""
        return "inputs_embeds" in inspect.signature(self.stock_class.prepare_inputs_for_generation).parameters

    def refuses(self, model: Any, inputs: dict[str, Any], settings: dict[str, Any]) -> bool:
        """Whether the family cannot generate so, which is then checked; what stock refuses, with stock's reason."""
        ours = False
        if not self.drafts and settings.keys() & {"assistant_model", "prompt_lookup_num_tokens"}:
            reason = "assisted generation is not supported with stateful models"
        elif not self.takes_embeddings and "input_ids" not in inputs:
            reason = "doesn't have its forwarding implemented"
        elif model.sees_both_ways and "prefill_chunk_size" in settings:
            ours, reason = True, r"prefill_chunk_size is \d+, and the tokens of an image .* see each other in both"
        else:
            return False
        with pytest.raises(ValueError, match=reason):
            model.generate(**inputs, **settings)
        if not ours:
            known = {name: value for name, value in settings.items() if name not in OPTION_NAMES}
            with pytest.raises(ValueError, match=reason):
                model.unpruned().generate(**inputs, **known)
        return True

    def feature_owner(self, model: Any) -> Any:
        """The part of a model whose `get_image_features` is called."""
        return model

    @property
    def places(self) -> dict[str, str]:
        """Where the parts in front of the language model lie in a model that is offloaded to disk."""
        newline = {"model.image_newline": "cpu"} if self.has_tiles else {}
        return {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", **newline}

    def stock_takes(self, stock: Any, mode: dict[str, Any], rows: Sequence[Row] = ([9],)) -> bool:
        """Whether stock reads texts in a mode as it does without.

        In chunks Qwen2.5-VL fails on 5.17, and not on 5.23, and on 4.57 no model takes notice of padding; with a static
        cache Qwen3.5 fails on 5.9.
        """
        inputs = self.inputs(rows, stock)
        try:
            found = stock.generate(**inputs, max_new_tokens=4, do_sample=False, **mode)
        except (RuntimeError, KeyError):
            return False
        return torch.equal(found, stock.generate(**inputs, max_new_tokens=4, do_sample=False))

    def takes_positions(self, stock: Any) -> bool:
        """Whether stock generation goes on behind given positions of padded texts; before 5.5 it gives them again."""
        inputs = self.inputs([[9], [5]], stock)
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        found, counted = (
            stock.generate(**inputs, **given, max_new_tokens=4, do_sample=False)
            for given in ({}, {"position_ids": positions})
        )
        return torch.equal(found, counted)

    def tells_calls_apart(self, stock: Any) -> bool:
        """Whether a stock call is not changed by one in the middle of it.

        Qwen-VL keeps on the model where the positions of the last prompt end; on 4.57 and 5.1 each step reads that.
        """

        class Between(BaseStreamer):
            def put(self, value: torch.Tensor) -> None:
                stock.generate(**text, max_new_tokens=1)

            def end(self) -> None:
                pass

        text = self.inputs([[7]], stock)
        inputs = self.inputs([[3, (2 * IMAGE_SIZE, IMAGE_SIZE), 4]], stock)
        alone, disturbed = (
            stock.generate(
                **inputs, **more, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
            for more in ({}, {"streamer": Between()})
        )
        return all(map(torch.equal, alone.logits, disturbed.logits))

    def encodes_images_apart(self, stock: Any) -> bool:
        """Whether a stock call reads its own images where another runs in the middle of its vision tower.

        On 5.1 the towers of the LLaVA families put recorders into `forward` of their layers, which take down the other
        call's features too.
        """
        own, others = (self.inputs([[3, (2 * IMAGE_SIZE, IMAGE_SIZE), 4]], stock, seed=seed) for seed in range(2))
        layers = next(module for module in self.tower(stock).modules() if isinstance(module, torch.nn.ModuleList))

        def between(*_call: Any) -> None:
            handle.remove()
            stock(**others)

        with torch.no_grad():
            alone = stock(**own).logits
            handle = layers[-1].register_forward_hook(between)
            return torch.equal(stock(**own).logits, alone)

    def repeats_images(self, stock: Any) -> bool:
        """Whether each of stock's beams reads the images of its row; before 5.23, one gets the first image twice."""
        size = (IMAGE_SIZE, IMAGE_SIZE)
        inputs = self.inputs([[3, size, 2, size, 4]], stock)
        seen: list[Any] = []

        def record(_module: Any, _args: Any, given: dict[str, Any]) -> None:
            seen.append(given.get("pixel_values"))

        handle = stock.register_forward_pre_hook(record, with_kwargs=True)
        stock.generate(**inputs, max_new_tokens=1, num_beams=2)
        handle.remove()
        # Releases that encode the images before give the language model none.
        return seen[0] is None or torch.equal(seen[0], torch.cat([inputs["pixel_values"]] * 2))

    def repeats_videos(self, stock: Any) -> bool:
        """Whether stock's beams read a video; those of Qwen3-VL fail on 4.57, which takes each frame for a video."""
        try:
            stock.generate(**self.inputs([[3, (2, 24, 24), 4]], stock), max_new_tokens=1, num_beams=2)
        except RuntimeError:
            return False
        return True

    def reads_loss_arguments(self) -> bool:
        """Whether the stock loss reads `num_items_in_batch` and `shift_labels`; that of Qwen3-VL does not on 5.5."""
        stock = self.models(vision_token_budget=None)[1]
        inputs = self.inputs([[9]], stock)
        labels = inputs["input_ids"]
        loss, counted = (stock(**inputs, labels=labels, **more).loss for more in ({}, {"num_items_in_batch": 1}))
        return not torch.equal(loss, counted)

    def offloads_images(self, stock: Any) -> bool:
        """Whether an offloaded `stock` reads images.

        The towers of GLM-V, and of Qwen3-VL on 5.5, read weights too early.
        """
        try:
            stock(**self.inputs([[(IMAGE_SIZE, IMAGE_SIZE), 3]], stock))
        except RuntimeError:
            return False
        return True

    def options(self, **options: Any) -> dict[str, Any]:
        """The options that mean something for the family."""
        return {name: each for name, each in options.items() if is_meaningful(name, each, self.model_class.own_options)}

    def images(self, inputs: dict[str, torch.Tensor], images: slice = slice(None)) -> dict[str, torch.Tensor]:
        """The image arguments of some images of a batch."""
        names = [name for name in self.model_class.image_arguments if name in inputs]
        return {name: inputs[name][images] for name in names}

    def videos(self, inputs: dict[str, torch.Tensor], videos: slice = slice(None)) -> dict[str, torch.Tensor]:
        """The video arguments of some videos of a batch; none where the slice is empty."""
        names = [name for name in self.model_class.video_arguments if name in inputs]
        if not names or not range(100)[videos]:
            return {}
        return {name: inputs[name][videos] for name in names}

    def nearly_of_one_colour(self, inputs: dict[str, torch.Tensor], image: int, images: int) -> torch.Tensor:
        """`pixel_values` of a batch of so many images in which one has little to cover."""
        own = [self.images(inputs, slice(number, number + 1))["pixel_values"] for number in range(images)]
        own[image] = 0.5 + 0.02 * own[image]
        return torch.cat(own)

    def single(
        self, inputs: dict[str, torch.Tensor], row: int, images: slice, videos: slice = slice(0, 0)
    ) -> dict[str, torch.Tensor]:
        """One row of a batch without its padding, with its own images and videos."""
        real = inputs["attention_mask"][row].bool()
        per_token = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")
        alone = {name: inputs[name][row : row + 1, real] for name in per_token if name in inputs}
        own = self.images(inputs, images) if images.stop > images.start else {}
        return alone | own | self.videos(inputs, videos)

    def positions(self, stock: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`position_ids` (3, B, L) of a full prompt as stock counts them; nothing where they are counted again."""
        return {}

    def by_hand(self, stock: Any, inputs: dict[str, torch.Tensor], kept: torch.Tensor, **arguments: Any) -> Any:
        """(L', hidden) stock's embeddings of the kept tokens of one row.

        From here on the language model of `stock` adds DeepStack's features to them in prompts of embeddings, where the
        family has such features.

        Args:
            stock: the stock model.
            inputs: of one row without padding.
            kept: (L,) bool.
            arguments: further ones of `get_image_features`.
        """
        ids = inputs["input_ids"][0]
        encoded = stock.get_image_features(**self.images(inputs), **arguments)
        embeds = stock.get_input_embeddings()(ids)
        features = self.features_of(stock, encoded, kept[ids == IMAGE], (ids == IMAGE)[kept])
        embeds[ids == IMAGE] = torch.cat(list(getattr(features, "pooler_output", features)))
        return embeds[kept]

    def features_of(self, stock: Any, encoded: Any, kept: torch.Tensor, places: torch.Tensor) -> Any:
        """The vision tokens among what `get_image_features` returned.

        Args:
            stock: the stock model.
            encoded: what it returned.
            kept: (vision tokens,) bool.
            places: (L',) bool, those of the kept ones in the shorter prompt.
        """
        return encoded

    def tower(self, model: Any) -> Any:
        """The vision tower."""
        return model.model.vision_tower

    def projector(self, model: Any) -> Any:
        """What makes vision tokens of the tower's features."""
        return model.model.multi_modal_projector

    def patch_embedding(self, model: Any) -> Any:
        """What makes vectors of patches in front of the tower."""
        return self.tower(model).get_input_embeddings()

    def models(self, *, seed: int = 0, **pruning_options: Any) -> tuple[Any, Any]:
        """The pruned model and the stock model with equal random weights, in float32 on the CPU, in eval mode."""
        torch.manual_seed(seed)
        pruned = self.model_class(self.config(**pruning_options)).eval()
        for parameter in pruned.parameters():
            # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
            torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
        torch.nn.init.normal_(self.patch_embedding(pruned).weight, std=0.6)
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

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        """Vision tokens of an image of (height, width), or of a video, in the prompt."""
        return TOKENS_PER_CROP

    def marked(self, tokens: list[int], piece: tuple[int, ...], generator: torch.Generator) -> list[int]:
        """The vision tokens of an image or video as they stand in a prompt."""
        return tokens

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Random pixels of images of these sizes and of videos, and what goes with them."""
        inputs: dict[str, torch.Tensor] = {}
        if sizes:
            crops = max(map(crops_of, sizes)) if self.has_tiles else 1
            pixels = torch.randn(len(sizes), crops, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
            inputs["pixel_values"] = pixels if self.has_tiles else pixels[:, 0]
            if self.has_tiles:
                inputs["image_sizes"] = torch.tensor(sizes)
        if videos:
            shape = (len(videos), videos[0][0], 3, IMAGE_SIZE, IMAGE_SIZE)
            inputs["pixel_values_videos"] = torch.randn(shape, generator=generator)
        return inputs

    def inputs(self, rows: Sequence[Row], model: Any, *, seed: int = 0, left: bool = True) -> dict[str, torch.Tensor]:
        """Random words and pixels for `rows`, padded on the left or on the right."""
        generator = torch.Generator().manual_seed(seed)
        sequences: list[list[int]] = []
        sizes: list[tuple[int, ...]] = []
        videos: list[tuple[int, ...]] = []
        for row in rows:
            ids = [BOS]
            for piece in row:
                if isinstance(piece, tuple):
                    is_video = len(piece) == 3
                    image = [VIDEO if is_video else IMAGE] * self.image_length(piece, model)
                    ids += self.marked(image, piece, generator)
                    (videos if is_video else sizes).append(piece)
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
        return inputs | self.visual_inputs(inputs["input_ids"], sizes, videos, generator)


class Tiled(Family):
    """LLaVA-NeXT."""

    has_tiles = True
    crops, separators = 5, 8

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        numbers = torch.zeros(crops_of(size), TOKENS_PER_CROP, 1)
        return len(model.pack_image_features([numbers], [list(size)], "default", torch.zeros(1))[0][0])


class Mosaic(Tiled):
    """LLaVA-OneVision; a mosaic of more than two crops is shrunk."""

    crops, separators = 2, 5

    def feature_owner(self, model: Any) -> Any:
        return model.model

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        if len(size) == 3:  # 2 x 2 tokens of a frame are pooled, and a video ends with a separator
            return size[0] * TOKENS_PER_CROP // 4 + 1
        numbers = torch.zeros(crops_of(size), TOKENS_PER_CROP, 1)
        ratio = model.config.vision_aspect_ratio
        return len(model.model.pack_image_features([numbers], [list(size)], torch.zeros(1), ratio)[0][0])


class Grids(Family):
    """Qwen2.5-VL: 2 x 2 patches make a token of PATCH_SIZE pixels, and 2 x 2 tokens a window."""

    has_grids = True

    @property
    def places(self) -> dict[str, str]:
        return {"model.visual": "disk"}

    def images(self, inputs: dict[str, torch.Tensor], images: slice = slice(None)) -> dict[str, torch.Tensor]:
        if "pixel_values" not in inputs:
            return {}
        pixels = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(1).tolist())[images]
        return {
            "pixel_values": torch.cat(pixels) if pixels else inputs["pixel_values"][:0],
            "image_grid_thw": inputs["image_grid_thw"][images],
        }

    def videos(self, inputs: dict[str, torch.Tensor], videos: slice = slice(None)) -> dict[str, torch.Tensor]:
        own = super().videos(inputs, videos)
        if own:
            patches = inputs["video_grid_thw"].prod(1).tolist()
            own["pixel_values_videos"] = torch.cat(inputs["pixel_values_videos"].split(patches)[videos])
        return own

    def positions(self, stock: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = inspect.signature(stock.model.get_rope_index).parameters
        known = {name: inputs[name] for name in names if name in inputs}
        return {"position_ids": stock.model.get_rope_index(**known)[0]}

    def tower(self, model: Any) -> Any:
        return model.model.visual

    def projector(self, model: Any) -> Any:
        return model.model.visual.merger

    def patch_embedding(self, model: Any) -> Any:
        return model.model.visual.patch_embed.proj

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        return math.prod((*size[:-2], *self._grid(size[-2:])))

    def marked(self, tokens: list[int], piece: tuple[int, ...], generator: torch.Generator) -> list[int]:
        if not (self.has_timestamps and len(piece) == 3):
            return [VISION_START, *tokens, VISION_END]
        ids: list[int] = []
        for _ in range(piece[0]):
            ids += torch.randint(3, IMAGE, (3,), generator=generator).tolist()
            ids += [VISION_START, *tokens[: len(tokens) // piece[0]], VISION_END]
        return ids

    @staticmethod
    def _grid(size: tuple[int, ...]) -> tuple[int, ...]:
        """Rows and columns of vision tokens."""
        return tuple(max(side // PATCH_SIZE, 1) for side in size)

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        inputs = {}
        if "mm_token_type_ids" in inspect.signature(self.stock_class.forward).parameters:
            inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        values = 3 * 2 * (PATCH_SIZE // 2) ** 2
        for pixels, grid, pieces in (
            ("pixel_values", "image_grid_thw", [(1, *size) for size in sizes]),
            ("pixel_values_videos", "video_grid_thw", videos),
        ):
            if pieces:
                grids = [(frames, *(2 * side for side in self._grid(tuple(size)))) for frames, *size in pieces]
                inputs[pixels] = torch.randn(sum(map(math.prod, grids)), values, generator=generator)
                inputs[grid] = torch.tensor(grids)
        return inputs


class DeepGrids(Grids):
    """Qwen3-VL: two layers of the tower reach the language model beside its last one."""

    has_timestamps = True

    def features_of(self, stock: Any, encoded: Any, kept: torch.Tensor, places: torch.Tensor) -> Any:
        # On 4.57 they stand behind the features.
        layers = getattr(encoded, "deepstack_features", None) or encoded[1]
        whole = [layer if isinstance(layer, torch.Tensor) else torch.cat(list(layer)) for layer in layers]
        add_deepstack(stock, [layer[kept] for layer in whole], places)
        return encoded if hasattr(encoded, "pooler_output") else encoded[0]


def add_deepstack(stock: Any, features: Sequence[torch.Tensor], places: torch.Tensor) -> None:
    """From here on the language model of `stock` adds these features, and no earlier ones, to prompts of embeddings.

    Args:
        stock: a stock model of a family with DeepStack.
        features: of each layer (vision tokens, hidden).
        places: (L',) bool, those of the vision tokens.
    """

    def add(_module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        rows, length = given["inputs_embeds"].shape[:2]
        if given.get("visual_pos_masks") is not None or length < len(places):  # its own images, or a step of decoding
            return None
        mask = torch.nn.functional.pad(places, (0, length - len(places))).expand(rows, -1)
        added = [layer.repeat(rows, 1) for layer in features]
        return args, {**given, "visual_pos_masks": mask, "deepstack_visual_embeds": added}

    if hasattr(stock, "added_deepstack"):
        stock.added_deepstack.remove()
    stock.added_deepstack = stock.model.language_model.register_forward_pre_hook(add, with_kwargs=True)


def crops_of(size: tuple[int, ...]) -> int:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(list(size), PINPOINTS, IMAGE_SIZE)


def stock_tokens(stock: Any, shorter: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
    """What stock writes behind a prompt that was pruned by hand, (R, new); with its own positions where they are given.

    Releases that ask the model class for positions take them in `generate` and go on behind the last; earlier ones, and
    classes that refuse a prompt of embeddings, are called by hand, step by step.
    """
    shorter, length = dict(shorter), shorter["inputs_embeds"].shape[1]
    positions = shorter.pop("position_ids", None)
    takes_embeddings = "inputs_embeds" in inspect.signature(stock.prepare_inputs_for_generation).parameters
    if positions is None and takes_embeddings:
        tokens = stock.generate(**shorter, **settings)
        return tokens[:, length:] if "input_ids" in shorter else tokens
    if positions is not None and hasattr(stock, "_prepare_position_ids_for_generation"):
        text = torch.arange(length).expand(1, len(shorter["inputs_embeds"]), -1)
        tokens = stock.generate(**shorter, position_ids=torch.cat((text, positions)), **settings)
        return tokens[:, length:] if "input_ids" in shorter else tokens
    found: list[torch.Tensor] = []
    cache: dict[str, Any] = {}
    given: dict[str, Any] = {"inputs_embeds": shorter["inputs_embeds"]}
    for _ in range(settings["max_new_tokens"]):
        places = {} if positions is None else {"position_ids": positions}
        with torch.no_grad():
            output = stock(**given, **cache, **places, use_cache=True)
        scores = output.logits[:, -1].index_fill(
            1, torch.tensor(settings.get("suppress_tokens", [])).long(), -torch.inf
        )
        found.append(scores.argmax(-1, keepdim=True))
        cache, given = {CACHE: output[CACHE]}, {"input_ids": found[-1]}
        positions = None if positions is None else positions[:, :, -1:] + 1
    return torch.cat(found, dim=1)


class RecurrentGrids(Grids):
    """Qwen3.5: a layer of linear attention, whose state stock cannot take back, and one of full attention."""

    drafts = False
    has_timestamps = True


class RecurrentExperts(RecurrentGrids):
    """Qwen3.5-MoE."""

    rounding = 1e-5


class Marked(Family):
    """An image with a token in front of it and one behind; a token is 2 x 2 patches."""

    def marked(self, tokens: list[int], piece: tuple[int, ...], generator: torch.Generator) -> list[int]:
        return [VISION_START, *tokens, VISION_END]


class Shuffled(Marked):
    """InternVL, whose inputs say nowhere how many tiles an image has."""

    crops = 5

    def patch_embedding(self, model: Any) -> Any:
        return super().patch_embedding(model).projection

    @staticmethod
    def tiles(size: tuple[int, ...]) -> int:
        return 1 if max(size) <= IMAGE_SIZE else crops_of(size)

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        return self.tiles(size) * TOKENS_PER_CROP

    def images(self, inputs: dict[str, torch.Tensor], images: slice = slice(None)) -> dict[str, torch.Tensor]:
        if "pixel_values" not in inputs:
            return {}
        marks = torch.nn.functional.pad(inputs["input_ids"] == IMAGE, (0, 1)).flatten()
        kinds, counts = marks.unique_consecutive(return_counts=True)
        pixels = inputs["pixel_values"].split((counts[kinds] // TOKENS_PER_CROP).tolist())[images]
        return {"pixel_values": torch.cat(pixels) if pixels else inputs["pixel_values"][:0]}

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        tiles = sum(map(self.tiles, sizes))
        shape = (tiles, 3, IMAGE_SIZE, IMAGE_SIZE)
        return {"pixel_values": torch.randn(shape, generator=generator)} if tiles else {}


class Pooled(Marked):
    """Gemma 3: the tokens of an image see each other in both directions, by their types."""

    types = "token_type_ids"

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        return {**super().visual_inputs(ids, sizes, videos, generator), self.types: (ids == IMAGE).long()}

    def features_of(self, stock: Any, encoded: Any, kept: torch.Tensor, places: torch.Tensor) -> Any:
        """From here on stock is told where the vision tokens of a prompt of embeddings are."""
        name = self.types

        def add(_module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            embeds = given.get("inputs_embeds")
            if embeds is None or given.get(name) is not None or embeds.shape[1] < len(places):
                return None
            types = torch.nn.functional.pad(places.long(), (0, embeds.shape[1] - len(places))).expand(len(embeds), -1)
            return args, {**given, name: types}

        if hasattr(stock, "added_types"):
            stock.added_types.remove()
        stock.added_types = stock.model.register_forward_pre_hook(add, with_kwargs=True)
        return encoded


class Pixtral(Marked):
    """Mistral 3: a token, here an ordinary word, between two rows of an image."""

    separators = 7
    prunable = frozenset((IMAGE, VISION_START))
    counts_on_host = False

    @staticmethod
    def grid(size: tuple[int, ...]) -> tuple[int, int]:
        # Stock's Mistral 3 fails on an image of one token.
        return max(size[0] // PATCH_SIZE, 1), max(size[1] // PATCH_SIZE, 2)

    def patch_embedding(self, model: Any) -> Any:
        return self.tower(model).patch_conv

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        return math.prod(self.grid(size))

    def marked(self, tokens: list[int], piece: tuple[int, ...], generator: torch.Generator) -> list[int]:
        _, columns = self.grid(piece)
        ids = [*tokens[:columns]]
        for start in range(columns, len(tokens), columns):
            ids += [VISION_START, *tokens[start : start + columns]]
        return [*ids, VISION_END]

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        if not sizes:
            return {}
        fitted = torch.tensor([self.grid(size) for size in sizes]) * PATCH_SIZE
        height, width = fitted.amax(0).tolist()
        pixels = torch.randn(len(sizes), 3, height, width, generator=generator)
        return {"pixel_values": pixels, "image_sizes": fitted}


class Positioned(Pooled):
    """Gemma 4: an image keeps its shape, and says where its patches are."""

    types = "mm_token_type_ids"

    @property
    def places(self) -> dict[str, str]:
        return {"model.vision_tower": "disk", "model.embed_vision": "cpu"}

    def tower(self, model: Any) -> Any:
        return model.model.vision_tower

    def projector(self, model: Any) -> Any:
        return model.model.embed_vision

    def patch_embedding(self, model: Any) -> Any:
        return self.tower(model).patch_embedder.input_proj

    def image_length(self, size: tuple[int, ...], model: Any) -> int:
        return math.prod(Pixtral.grid(size))

    def visual_inputs(
        self,
        ids: torch.Tensor,
        sizes: Sequence[tuple[int, ...]],
        videos: Sequence[tuple[int, ...]],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        inputs = {self.types: (ids == IMAGE).int()}
        if not sizes:
            return inputs
        grids = [tuple(2 * side for side in Pixtral.grid(size)) for size in sizes]
        most = max(map(math.prod, grids))
        inputs["pixel_values"] = torch.randn(len(sizes), most, 3 * (PATCH_SIZE // 2) ** 2, generator=generator)
        inputs["image_position_ids"] = torch.full((len(sizes), most, 2), -1)
        for own, (rows, columns) in zip(inputs["image_position_ids"], grids, strict=True):
            place = torch.arange(rows * columns)
            own[: len(place)] = torch.stack((place % columns, place // columns), -1)
        return inputs


class Convolved(Grids):
    """GLM-4.1V."""

    def repeats_images(self, stock: Any) -> bool:
        """Stock's beams get the grid of a row's first image for its second one, too."""
        return False


_CASES: dict[str, type[Family]] = {
    "llava": Family,
    "llava_next": Tiled,
    "llava_onevision": Mosaic,
    "qwen2_vl": Grids,
    "qwen2_5_vl": Grids,
    "qwen3_vl": DeepGrids,
    "qwen3_vl_moe": DeepGrids,
    "qwen3_5": RecurrentGrids,
    "qwen3_5_moe": RecurrentExperts,
    "internvl": Shuffled,
    "gemma3": Pooled,
    "gemma4": Positioned,
    "mistral3": Pixtral,
    "glm4v": Convolved,
    "glm4v_moe": Convolved,
    "glm46v": Convolved,
}
# Those that the installed release has.
FAMILIES = {name: case(name) for name, case in _CASES.items() if PUBLISHED[name].is_available()}


def numbered_words(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer whose id i is the word "wi", in the order of `PAD`, `BOS`, `EOS` and the words."""
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(size)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens([f"w{index}" for index in (PAD, BOS, EOS, IMAGE, VIDEO, VISION_START, VISION_END)])
    return PreTrainedTokenizerFast(tokenizer_object=words)


def question_embeddings(model: Any, prompt: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The embeddings of the words that a prompt's vision tokens have to cover, and which of them are not fillers."""
    return model.question_embeddings(model.questions(prompt, model._options({})), prompt.device)
