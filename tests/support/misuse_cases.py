"""What a caller can do wrong, and the sentence that answers: the table of `test_misuse.py` and the page of errors."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from model_cases import CACHE, IMAGE, IMAGE_SIZE, VIDEO, Family
from safetensors import SafetensorError
from small_checkpoints import make_llava_checkpoint
from transformers import DynamicCache

from configuration_mmtok import MMTokLlavaConfig
from mmtok import coverage_matrix, coverage_value, greedy_coverage
from mmtok.publish import Recipe, stage, verify

SIZE = (IMAGE_SIZE, IMAGE_SIZE)


class Workshop:
    """A model of one family with a valid call, and folders to break."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.folder = folder
        self.family = family
        self.model, self.stock = family.models(vision_token_budget=3)
        self.inputs = family.inputs([[3, SIZE, 4], [SIZE, 2]], self.model)

    def changed(self, **changes: Any) -> dict[str, Any]:
        """The valid inputs with other values, None for an input that is left out."""
        return {name: value for name, value in {**self.inputs, **changes}.items() if value is not None}

    def generate(self, **changes: Any) -> Any:
        return self.model.generate(**self.changed(**changes), max_new_tokens=2, do_sample=False)

    def asked_about_a_video(self, ids: Callable[[torch.Tensor], torch.Tensor] = lambda ids: ids, **changes: Any) -> Any:
        """A call about one video of two temporal patches, with changed ids and other values."""
        inputs = dict(self.family.inputs([[3, (2, 12, 12), 4]], self.model))
        inputs |= {"input_ids": ids(inputs["input_ids"]), "mm_token_type_ids": None, **changes}
        return self.model.generate(**inputs, max_new_tokens=2, do_sample=False)

    def pixels(self, value: float) -> torch.Tensor:
        broken = self.inputs["pixel_values"].clone()
        broken.view(-1)[7] = value
        return broken

    def images(self, number: int) -> dict[str, torch.Tensor]:
        """The first images alone."""
        names = ("pixel_values", "image_sizes")
        return {name: self.inputs[name][:number] for name in names if name in self.inputs}

    @cached_property
    def base(self) -> Path:
        return make_llava_checkpoint(self.folder / "base")

    @cached_property
    def staged(self) -> Path:
        return stage(self.base, self.folder / "staged", check=False).path

    def broken(self, file: str, edit: Callable[[Path], None]) -> Path:
        """A copy of the staged folder in which `edit` changed a file."""
        copy = Path(tempfile.mkdtemp(dir=self.folder)) / "copy"
        shutil.copytree(self.staged, copy)
        edit(copy / file)
        return copy

    def broken_base(self, file: str, edit: Callable[[Path], None]) -> Path:
        copy = Path(tempfile.mkdtemp(dir=self.folder)) / "copy"
        shutil.copytree(self.base, copy)
        edit(copy / file)
        return copy

    def load(self, folder: Path) -> Any:
        return self.family.model_class.from_pretrained(folder)

    def config(self, **fields: Any) -> Any:
        """Loads a configuration that somebody edited by hand."""
        return MMTokLlavaConfig.from_pretrained(self.broken("config.json", lambda path: edit_json(path, **fields)))

    def filled_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self.model.config.get_text_config())
        with torch.no_grad():
            self.model(input_ids=torch.tensor([[5, 6], [7, 8]]), **{CACHE: cache})
        return cache


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@dataclass(frozen=True)
class Misuse:
    """One mistake.

    Attributes:
        what: the mistake in a few words.
        do: makes it.
        message: what the error says, in part.
        error: its type.
    """

    what: str
    do: Callable[[Workshop], Any]
    message: str
    error: type[Exception] = ValueError


def option(name: str, value: Any, message: str, *, generate: bool = True) -> Misuse:
    """An option out of range, in a call or when it is set in the configuration."""
    if generate:
        return Misuse(f"`generate({name}={value!r})`", lambda shop: shop.generate(**{name: value}), message)
    return Misuse(f"`config.{name} = {value!r}`", lambda shop: setattr(shop.model.config, name, value), message)


def _matrix() -> torch.Tensor:
    return torch.rand(3, 4, generator=torch.Generator().manual_seed(0))


def _features(**change: Any) -> Any:
    given = {"text": torch.ones(2, 8), "vision": torch.ones(5, 8), "raw_vision": torch.ones(5, 6), **change}
    return coverage_matrix(given.pop("text"), given.pop("vision"), given.pop("raw_vision"), **given)


NAN, INF = float("nan"), float("inf")

OPTIONS = [
    option("vision_token_budget", 0, "vision_token_budget is 0: give a number of tokens of at least 1"),
    option("vision_token_budget", -1, "vision_token_budget is -1"),
    option("vision_token_budget", 1.5, "vision_token_budget is 1.5"),
    option("vision_token_budget", 0.0, "vision_token_budget is 0.0"),
    option("vision_token_budget", NAN, "vision_token_budget is nan"),
    option("vision_token_budget", "many", "vision_token_budget is 'many'"),
    option("vision_token_budget", True, "vision_token_budget is True"),
    option("vision_token_budget", [4, 4], "vision_token_budget is [4, 4]"),
    option("budget_scope", "frame", "budget_scope is 'frame': give 'crop', 'image' or 'video'"),
    option("image_scale", 1.5, "image_scale is 1.5: give a number in (0, 1], or None for images as"),
    option("text_coverage_weight", -1.0, "text_coverage_weight is -1.0: give 0, or a number from 1e-6 to 1e6"),
    option("vision_coverage_weight", NAN, "vision_coverage_weight is nan"),
    option("vision_coverage_weight", "half", "vision_coverage_weight is 'half'"),
    option("text_temperature", 0, "text_temperature is 0: give a number from 1e-6 to 1e6"),
    option("text_temperature", -0.1, "text_temperature is -0.1"),
    option("vision_temperature", INF, "vision_temperature is inf"),
    option("text_temperature", 1e-300, "text_temperature is 1e-300: give a number from 1e-6 to 1e6"),
    option("vision_temperature", 1e30, "vision_temperature is 1e+30"),
    option("text_coverage_depth", 0, "text_coverage_depth is 0: give a number of tokens of at least 1, or 'spread'"),
    option("text_coverage_weight", 1e300, "text_coverage_weight is 1e+300"),
    option("vision_coverage_weight", 1e-45, "vision_coverage_weight is 1e-45: give 0, or a number from 1e-6 to 1e6"),
    option("padding", "yes", "padding is 'yes': give 'stock', 'exclude' or 'include'"),
    option("covered_text", 3, "covered_text is 3: give a text with words in it"),
    option("question_format", ["USER:"], "question_format is ['USER:']: give a dictionary"),
    option("question_format", {"turns": ["USER:"]}, "with the key 'turns': give some of user_turns, "),
    option("question_format", {"user_turns": [""]}, "question_format['user_turns'] is ['']: give a list of texts"),
    Misuse(
        "both weights 0",
        lambda shop: shop.generate(text_coverage_weight=0, vision_coverage_weight=0),
        "text_coverage_weight and vision_coverage_weight are both 0",
    ),
    Misuse("`generate(vision_budget=4)`, no option", lambda shop: shop.generate(vision_budget=4), "['vision_budget']"),
    Misuse(
        "`select_vision_tokens(vision_budget=4)`, no option",
        lambda shop: shop.model.select_vision_tokens(**shop.inputs, vision_budget=4),
        "vision_budget is neither an input nor an option",
    ),
    option("vision_token_budget", 0, "vision_token_budget is 0", generate=False),
    option("text_temperature", "cold", "text_temperature is 'cold'", generate=False),
]

PROMPTS = [
    Misuse("NaN in the pixels", lambda shop: shop.generate(pixel_values=shop.pixels(NAN)), "pixel_values contains nan"),
    Misuse("an infinite pixel", lambda shop: shop.generate(pixel_values=shop.pixels(INF)), "pixel_values contains inf"),
    Misuse(
        "pixels as whole numbers",
        lambda shop: shop.generate(pixel_values=shop.inputs["pixel_values"].to(torch.uint8)),
        "pixel_values has dtype torch.uint8",
    ),
    Misuse(
        "pixels without rows and columns",
        lambda shop: shop.generate(pixel_values=shop.inputs["pixel_values"].flatten(1)),
        "pixel_values has shape",
    ),
    Misuse(
        "images of size 0",
        lambda shop: shop.generate(pixel_values=shop.inputs["pixel_values"][..., :0, :0]),
        "pixel_values has shape",
    ),
    Misuse(
        "images of another size than the vision tower's",
        lambda shop: shop.generate(pixel_values=shop.inputs["pixel_values"][..., :12, :12]),
        "doesn't match model",
    ),
    Misuse(
        "pixels in a list",
        lambda shop: shop.generate(pixel_values=shop.inputs["pixel_values"].tolist()),
        "pixel_values is a list: give a tensor",
    ),
    Misuse(
        "a number for the pixels", lambda shop: shop.generate(pixel_values=7), "pixel_values is a int: give a tensor"
    ),
    Misuse(
        "token ids in a list",
        lambda shop: shop.generate(input_ids=shop.inputs["input_ids"].tolist()),
        "input_ids is a list: give a tensor",
    ),
    Misuse(
        "a mask of NumPy",
        lambda shop: shop.generate(attention_mask=shop.inputs["attention_mask"].numpy()),
        "attention_mask is a ndarray: give a tensor",
    ),
    Misuse(
        "a mask that hides everything",
        lambda shop: shop.generate(attention_mask=torch.zeros_like(shop.inputs["attention_mask"])),
        "attention_mask is 0 for every token",
    ),
    Misuse(
        "a prompt of no tokens with an image",
        lambda shop: shop.generate(input_ids=torch.zeros(2, 0, dtype=torch.long), attention_mask=None),
        "The prompt has shape (2, 0)",
    ),
    Misuse(
        "a token id beyond the vocabulary",
        lambda shop: shop.generate(input_ids=shop.inputs["input_ids"].clone().index_fill(1, torch.tensor([0]), 10**9)),
        "input_ids contains 1000000000: give ids from 0 to",
    ),
    Misuse(
        "types of fewer tokens than the prompt has",
        lambda shop: shop.generate(token_type_ids=torch.zeros(2, 3, dtype=torch.long)),
        "token_type_ids has shape (2, 3): give one value a token",
    ),
    Misuse(
        "image tokens without an image",
        lambda shop: shop.generate(pixel_values=None, image_sizes=None),
        "image tokens and no images: give pixel_values",
    ),
    Misuse(
        "a video for a model that prunes images only",
        lambda shop: shop.generate(pixel_values_videos=torch.zeros(1, 2, 3, IMAGE_SIZE, IMAGE_SIZE)),
        "pixel_values_videos holds a video, and only images can be pruned: give the frames as images",
    ),
    Misuse(
        "an image without image tokens",
        lambda shop: shop.generate(
            input_ids=shop.inputs["input_ids"].masked_fill(shop.inputs["input_ids"] == IMAGE, 5)
        ),
        "The prompts have 0 image tokens and the images",
    ),
    Misuse(
        "fewer images than the prompts name",
        lambda shop: shop.generate(**shop.images(1)),
        "give one image for each <image> of the text",
    ),
    Misuse(
        "one image token for an image, not expanded",
        lambda shop: shop.generate(input_ids=torch.tensor([[1, IMAGE, 5], [1, IMAGE, 6]]), attention_mask=None),
        "The prompts have 2 image tokens",
    ),
    Misuse(
        "an image across two rows",
        lambda shop: shop.generate(
            **shop.images(1), input_ids=_straddling(shop), attention_mask=torch.ones_like(_straddling(shop))
        ),
        "the images are not in the order of the prompts",
    ),
    Misuse(
        "a prompt without batch dimension",
        lambda shop: shop.generate(input_ids=shop.inputs["input_ids"][0], attention_mask=None),
        "give (batch, length)",
    ),
    Misuse(
        "no prompt",
        lambda shop: shop.generate(input_ids=None, attention_mask=None),
        "An image needs a prompt: give input_ids or inputs_embeds",
    ),
    Misuse(
        "token ids as fractions",
        lambda shop: shop.generate(input_ids=shop.inputs["input_ids"].float()),
        "input_ids has dtype torch.float32",
    ),
    Misuse(
        "a mask of another length",
        lambda shop: shop.generate(attention_mask=shop.inputs["attention_mask"][:, 1:]),
        "with an image give one value a token",
    ),
    Misuse(
        "a four-dimensional mask with an image",
        lambda shop: shop.model(**shop.changed(attention_mask=torch.ones(2, 1, 8, 8))),
        "with an image give one value a token",
    ),
    Misuse(
        "embeddings of another length than the ids",
        lambda shop: shop.generate(inputs_embeds=torch.zeros(2, 3, 32)),
        "inputs_embeds has shape (2, 3, 32), but input_ids",
    ),
    Misuse(
        "embeddings of another width than the model's",
        lambda shop: shop.generate(inputs_embeds=torch.zeros(*shop.inputs["input_ids"].shape, 7)),
        ", 7): give (2, ",
    ),
    Misuse(
        "labels of another length",
        lambda shop: shop.model(**shop.inputs, labels=torch.zeros(2, 3, dtype=torch.long)),
        "labels has shape (2, 3)",
    ),
    Misuse(
        "positions of another length",
        lambda shop: shop.model(**shop.inputs, position_ids=torch.zeros(2, 3, dtype=torch.long)),
        "position_ids has shape (2, 3)",
    ),
    Misuse(
        "an image with a cache that holds tokens",
        lambda shop: shop.generate(**{CACHE: shop.filled_cache()}),
        "The cache already holds 2 tokens",
    ),
    Misuse(
        "a cache of another prompt",
        lambda shop: shop.model.generate(
            input_ids=torch.full((2, 60), 5), **{CACHE: _cache_of_the_prompt(shop)}, max_new_tokens=1
        ),
        "do not begin with it: continue from the returned sequences",
    ),
    Misuse(
        "an assistant model that cannot prune",
        lambda shop: shop.generate(assistant_model=shop.stock),
        "cannot read a pruned prompt: give an MMTok model",
    ),
    Misuse(
        "encoded images in place of pixels",
        lambda shop: shop.model(input_ids=shop.inputs["input_ids"], mm_encoder_outputs={"image": object()}),
        "mm_encoder_outputs holds encoded images",
    ),
]

NEXT_PROMPTS = [
    Misuse(
        "LLaVA-NeXT without image_sizes",
        lambda shop: shop.generate(image_sizes=None),
        "image_sizes is missing: give (height, width) of each image",
    ),
    Misuse(
        "a number for the image sizes",
        lambda shop: shop.generate(image_sizes=7),
        "image_sizes is 7: give (height, width) of each image",
    ),
    Misuse(
        "fewer image sizes than images",
        lambda shop: shop.generate(image_sizes=shop.inputs["image_sizes"][:1]),
        "image_sizes has 1 rows, which makes 1 images",
    ),
    Misuse(
        "an image size of 0",
        lambda shop: shop.generate(image_sizes=torch.tensor([[0, 24], [24, 24]])),
        "image_sizes contains [0, 24]",
    ),
]

MATRICES = [
    Misuse("a budget of 0 columns", lambda _: greedy_coverage(_matrix(), 0), "The budget is 0"),
    Misuse("half a column", lambda _: greedy_coverage(_matrix(), 0.5), "The budget is 0.5"),  # type: ignore[arg-type]
    Misuse(
        "budgets of another shape", lambda _: greedy_coverage(_matrix(), torch.tensor([1, 2])), "The budgets have shape"
    ),
    Misuse("NaN in the coverage", lambda _: greedy_coverage(_matrix() * NAN, 1), "The coverage matrix contains nan"),
    Misuse("negative coverage", lambda _: greedy_coverage(-_matrix(), 1), "finite, non-negative entries"),
    Misuse("an empty matrix", lambda _: greedy_coverage(torch.ones(3, 0), 1), "at least one row to cover"),
    Misuse("a matrix of whole numbers", lambda _: greedy_coverage(torch.ones(3, 4).long(), 1), "dtype torch.int64"),
    Misuse(
        "a candidate mask of whole numbers",
        lambda _: greedy_coverage(_matrix(), 1, torch.ones(4).long()),
        "The candidate mask has dtype torch.int64",
    ),
    Misuse(
        "a column that does not exist",
        lambda _: coverage_value(_matrix(), torch.tensor([9])),
        "Column 9 does not exist",
    ),
    Misuse("no vision tokens", lambda _: _features(vision=torch.ones(0, 8), raw_vision=torch.ones(0, 6)), "no vision"),
    Misuse("features of different widths", lambda _: _features(text=torch.ones(2, 7)), "must share their width"),
    Misuse("NaN in the features", lambda _: _features(vision=torch.full((5, 8), NAN)), "vision contains nan"),
    Misuse("a negative temperature", lambda _: _features(text_temperature=-1.0), "text_temperature is -1.0"),
]

FOLDERS = [
    Misuse(
        'config.json with a budget of "lots"',
        lambda shop: shop.config(vision_token_budget="lots"),
        "vision_token_budget is 'lots'",
    ),
    Misuse(
        "config.json with a negative temperature",
        lambda shop: shop.config(text_temperature=-3),
        "text_temperature is -3",
    ),
    Misuse(
        "config.json with both weights 0",
        lambda shop: shop.config(text_coverage_weight=0, vision_coverage_weight=0),
        "are both 0",
    ),
    Misuse(
        "config.json that is not JSON",
        lambda shop: MMTokLlavaConfig.from_pretrained(
            shop.broken("config.json", lambda path: path.write_text("{", encoding="utf-8"))
        ),
        "is not a valid JSON file",
        OSError,
    ),
    Misuse(
        "weights cut short",
        lambda shop: shop.load(shop.broken("model.safetensors", cut_short)),
        "incomplete metadata, file not fully covered",
        SafetensorError,
    ),
    Misuse(
        "no weights",
        lambda shop: shop.load(shop.broken("model.safetensors", Path.unlink)),
        "Error no file named ",
        OSError,
    ),
    Misuse(
        "staging: a base that does not exist",
        lambda shop: stage(shop.folder / "nowhere at all", shop.folder / "out"),
        "is neither a folder nor a Hub id",
    ),
    Misuse(
        "staging: a folder that is not a checkpoint",
        lambda shop: stage(_made(shop.folder / "empty"), shop.folder / "out"),
        "has no config.json",
    ),
    Misuse(
        "staging: a checkpoint of another model",
        lambda shop: stage(
            shop.broken_base("config.json", lambda path: edit_json(path, model_type="llama")), shop.folder / "out"
        ),
        "llama",
    ),
    Misuse(
        "staging: weights cut short",
        lambda shop: stage(shop.broken_base("model.safetensors", cut_short), shop.folder / "out"),
        "is damaged or no safetensors file",
    ),
    Misuse(
        "staging: an unknown option",
        lambda shop: stage(shop.base, shop.folder / "out", Recipe({"vision_budget": 4})),
        "There is no option 'vision_budget'",
    ),
    Misuse(
        "staging: a budget of 0",
        lambda shop: stage(shop.base, shop.folder / "out", Recipe({"vision_token_budget": 0})),
        "vision_token_budget is 0",
    ),
    Misuse(
        "staging into a folder with other files",
        lambda shop: stage(shop.base, _made(shop.folder / "full", "notes.txt")),
        "is not empty",
    ),
    Misuse("staging into the base", lambda shop: stage(shop.base, shop.base), "is the base or holds it"),
    Misuse(
        "staging where a file stands",
        lambda shop: stage(shop.base, _made(shop.folder / "there", "file") / "file"),
        "is a file: give a new folder",
    ),
    Misuse(
        "verifying a folder that is none",
        lambda shop: verify(shop.folder / "no such folder"),
        "is neither a folder nor a Hub id such as org/llava: give one of the two",
    ),
]

VIDEOS = [
    Misuse(
        "a video without video tokens",
        lambda shop: shop.asked_about_a_video(ids=lambda ids: ids.masked_fill(ids == VIDEO, 5)),
        "The prompts have 0 video tokens and the videos 8 features: give one video for each <video>",
    ),
    Misuse(
        "a video of another size than its grid",
        lambda shop: shop.asked_about_a_video(video_grid_thw=torch.tensor([[3, 4, 4]])),
        "video_grid_thw has 1 rows, which makes 48 patches, but pixel_values_videos holds 32",
    ),
    Misuse(
        "a video without its grid",
        lambda shop: shop.asked_about_a_video(video_grid_thw=None),
        "video_grid_thw is missing: give frames, and rows and columns of patches",
    ),
    Misuse(
        "seconds of more videos than there are",
        lambda shop: shop.asked_about_a_video(second_per_grid_ts=[1.0, 2.0]),
        "second_per_grid_ts has 2 values for 1 videos",
    ),
    Misuse(
        "NaN in the pixels of a video",
        lambda shop: shop.asked_about_a_video(pixel_values_videos=torch.full((32, 54), NAN)),
        "pixel_values_videos contains nan",
    ),
    Misuse(
        "text inside a video",
        lambda shop: shop.asked_about_a_video(ids=lambda ids: torch.cat((ids[:, 6:], ids[:, :6]), 1)),
        "The vision tokens stand in runs of 7, 1 tokens, and the images and videos have 8: let the tokens of each be",
    ),
]

QWEN3 = [
    Misuse(
        "images without their grids",
        lambda shop: shop.generate(image_grid_thw=None),
        "image_grid_thw is missing: give 1 frame, and rows and columns of patches",
    ),
    Misuse(
        "a grid that is not a number of whole tokens",
        lambda shop: shop.generate(image_grid_thw=torch.tensor([[1, 8, 8], [1, 8, 7]])),
        "image_grid_thw contains [1, 8, 7]: give 1 frame, and rows and columns of patches that are multiples of 2",
    ),
    Misuse(
        "an image of two frames",
        lambda shop: shop.generate(image_grid_thw=torch.tensor([[1, 8, 8], [2, 4, 8]])),
        "image_grid_thw contains [2, 4, 8]: give 1 frame",
    ),
    Misuse(
        "fewer grids than images",
        lambda shop: shop.generate(image_grid_thw=torch.tensor([[1, 8, 8]])),
        "image_grid_thw has 1 rows, which makes 64 patches, but pixel_values holds 128",
    ),
    Misuse(
        "`generate(padding='exclude')`, where images have no padding",
        lambda shop: shop.generate(padding="exclude"),
        "padding is 'exclude', which means nothing for MMTokQwen3VLForConditionalGeneration: leave it out",
    ),
    Misuse(
        "positions in time, height and width of another length",
        lambda shop: shop.model(**shop.inputs, position_ids=torch.zeros(3, 2, 3, dtype=torch.long)),
        "position_ids has shape (3, 2, 3)",
    ),
    Misuse(
        "a video whose temporal patches are one run of tokens, without timestamps",
        lambda shop: shop.asked_about_a_video(ids=_videos_last),
        "The vision tokens stand in runs of 8 tokens, and the images and videos have 4, 4",
    ),
    Misuse(
        "a video of more temporal patches than its pixels",
        lambda shop: shop.asked_about_a_video(video_grid_thw=torch.tensor([[3, 4, 4]])),
        "video_grid_thw has 1 rows, which makes 48 patches, but pixel_values_videos holds 32",
    ),
    Misuse(
        "encoded videos in place of pixels",
        lambda shop: shop.model(input_ids=shop.inputs["input_ids"], mm_encoder_outputs={"video": object()}),
        "mm_encoder_outputs holds encoded videos",
    ),
]

GROUPS: dict[str, list[Misuse]] = {
    "Options": OPTIONS,
    "Prompts and images": PROMPTS,
    "LLaVA-NeXT": NEXT_PROMPTS,
    "Videos (Qwen2.5-VL)": VIDEOS,
    "Images and videos (Qwen3-VL)": QWEN3,
    "Coverage matrices": MATRICES,
    "Folders and staging": FOLDERS,
}


def _straddling(shop: Workshop) -> torch.Tensor:
    """Two rows that share the image tokens of one image."""
    length = shop.family.image_length(SIZE, shop.model)
    row = [IMAGE] * (length // 2)
    return torch.tensor([[1, *row], [1, *row]])


def _videos_last(ids: torch.Tensor) -> torch.Tensor:
    return ids.gather(1, (ids == VIDEO).long().argsort(dim=1, stable=True))


def _cache_of_the_prompt(shop: Workshop) -> Any:
    return shop.model.generate(**shop.inputs, max_new_tokens=1, return_dict_in_generate=True)[CACHE]


def _made(folder: Path, *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).write_text("mine", encoding="utf-8")
    return folder


def family_name(cases: list[Misuse]) -> str:
    """The family whose workshop a group of mistakes is made in."""
    own = {id(NEXT_PROMPTS): "llava_next", id(VIDEOS): "qwen2_5_vl", id(QWEN3): "qwen3_vl"}
    return own.get(id(cases), "llava")
