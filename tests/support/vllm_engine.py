"""A vLLM engine in this process beside the transformers model of the same folder, and what each kept of every request.

vLLM reads its settings from the environment, which an engine sets before it imports anything of vLLM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoProcessor

from mmtok.publish.families import family_of

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that a test can look at the model
}
# Each engine of a test run keeps its own until the end.
KV_CACHE_BYTES = 2**26


@dataclass(frozen=True)
class Case:
    """One request: a question about images with its options, and the turn before it."""

    question: str
    images: Sequence[Image.Image]
    options: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a request: new tokens, prompt length, and for each image the places of its kept tokens."""

    tokens: list[int]
    prompt_length: int
    kept: list[list[int]]


class Engine:
    """vLLM with a model, what it selected so far, and the transformers model to compare with.

    Attributes:
        tower_crops: crops of each run of the vision tower; images where they are grids.
        selected: places of the kept tokens by the request for an image, as JSON.
    """

    def __init__(self, folder: Path, *, dtype: str = "float32", **options: Any) -> None:
        # Not when this module is imported: the ordinary test run imports it too, and must keep its own settings.
        os.environ.update(SETTINGS)
        # Two threads that wait for each other on a core that other programs use take a hundred times as long as one.
        torch.set_num_threads(1)
        from vllm import LLM

        from mmtok.vllm import register

        register()  # as vLLM does; the processor's loading asks for the configuration
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        model_class = family_of(AutoConfig.from_pretrained(folder).model_type).load_class()
        self.dtype = getattr(torch, dtype)
        self.reference = model_class.from_pretrained(folder, dtype=self.dtype).eval()
        defaults = {
            "enforce_eager": True,
            "max_model_len": 1024,
            "max_num_seqs": 16,
            "limit_mm_per_prompt": {"image": 2},
            "kv_cache_memory_bytes": KV_CACHE_BYTES,
        }
        self.llm = LLM(model=str(folder), dtype=dtype, **{**defaults, **options})
        self.model = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
        self.tower_crops: list[int] = []
        self.selected: dict[str, list[int]] = {}
        self._watch()

    def _watch(self) -> None:
        kept = self.model._kept
        if self.has_grids:
            encoded = self.model._encoded

            def noted_images(pixels: Sequence[torch.Tensor], sizes: Sequence[Any]) -> Any:
                self.tower_crops.append(len(pixels))
                return encoded(pixels, sizes)

            self.model._encoded = noted_images
        else:
            tower = self.model._image_pixels_to_features

            def noted_tower(vision_tower: Any, pixels: torch.Tensor) -> torch.Tensor:
                self.tower_crops.append(len(pixels))
                return tower(vision_tower, pixels)

            self.model._image_pixels_to_features = noted_tower

        def noted_kept(*arguments: Any) -> Any:
            flags, counts = kept(*arguments)
            for request, flag in zip(arguments[-1], flags, strict=True):
                self.selected[request.to_json()] = flag.nonzero()[:, 0].tolist()
            return flags, counts

        self.model._kept = noted_kept

    @property
    def has_grids(self) -> bool:
        """Whether an image is a grid of patches of its own size."""
        return hasattr(self.model, "visual")

    @property
    def no_text(self) -> list[int]:
        """Token ids that a random model must not write, because they stand for images and videos."""
        config = self.reference.config
        return [config.image_token_id, config.video_token_id] if self.has_grids else []

    def size(self, image: Image.Image) -> tuple[int, int]:
        """The size of an image as the layout takes it: (height, width), or rows and columns of tokens."""
        if not self.has_grids:
            return image.height, image.width
        _, rows, columns = self.processor.image_processor([[image]], return_tensors="pt")["image_grid_thw"][0].tolist()
        return rows // 2, columns // 2

    def differences(self, cases: Sequence[Case], together: int = 30) -> list[tuple[Case, Outcome, Outcome]]:
        """The cases of which vLLM and transformers don't agree; so many are in flight at once."""
        got = [
            outcome for start in range(0, len(cases), together) for outcome in self.run(cases[start : start + together])
        ]
        wanted = [self.expected(case) for case in cases]
        return [(case, *pair) for case, *pair in zip(cases, got, wanted, strict=True) if pair[0] != pair[1]]

    def prompt(self, case: Case) -> str:
        images = [{"type": "image"}] * len(case.images)
        turns = [case.question] if case.earlier is None else [*case.earlier, case.question]
        chat = [
            {"role": ("user", "assistant")[index % 2], "content": [{"type": "text", "text": text}]}
            for index, text in enumerate(turns)
        ]
        chat[0]["content"] = [*images, *chat[0]["content"]]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def run(self, cases: Sequence[Case], new_tokens: int = 6, adapters: Sequence[Any] | None = None) -> list[Outcome]:
        """vLLM's outcome of requests that are in flight together, with the adapters that vLLM's LoRA requests name."""
        from vllm import SamplingParams

        requests = []
        for case in cases:
            request: dict[str, Any] = {"prompt": self.prompt(case), "mm_processor_kwargs": dict(case.options)}
            if case.images:
                request["multi_modal_data"] = {"image": list(case.images)}
            requests.append(request)
        bias = dict.fromkeys(self.no_text, -100.0)
        parameters = SamplingParams(temperature=0, max_tokens=new_tokens, logit_bias=bias or None)
        outputs = self.llm.generate(requests, parameters, use_tqdm=False, lora_request=adapters)
        return [
            Outcome(list(output.outputs[0].token_ids), len(output.prompt_token_ids), self._selected(case))
            for case, output in zip(cases, outputs, strict=True)
        ]

    def processed(self, case: Case) -> tuple[int, int]:
        """For a case with one image, the placeholders of vLLM's processor and the tokens that the model gives."""
        from vllm.multimodal.utils import group_and_batch_mm_kwargs

        prompt = self._processed(case)
        [(_, _, arguments)] = group_and_batch_mm_kwargs([("image", prompt["mm_kwargs"]["image"][0])])
        [tokens] = self.model.embed_multimodal(**arguments)
        placeholders = prompt["prompt_token_ids"].count(self.reference.config.image_token_id)
        [place] = prompt["mm_placeholders"]["image"]
        assert place.length == placeholders
        return placeholders, len(tokens)

    def _processed(self, case: Case) -> Any:
        """What vLLM's processor makes of a case."""
        from vllm.multimodal.processing import ProcessorInputs, TimingContext

        processor = self.llm.renderer.get_mm_processor()
        ids = self.processor.tokenizer(self.prompt(case))["input_ids"]
        images = processor.info.parse_mm_data({"image": list(case.images)})
        inputs = ProcessorInputs(ids, images, hf_processor_mm_kwargs=case.options)
        return processor.apply(inputs, TimingContext(enabled=False))

    def _selected(self, case: Case) -> list[list[int]]:
        """What vLLM kept of each image of a case; nothing where it never selected for the case's text."""
        from mmtok.vllm.processor import REQUEST
        from mmtok.vllm.request import PruningRequest

        if not case.images:
            return []
        prompt, kept = self._processed(case), []
        for item, place in zip(prompt["mm_kwargs"]["image"], prompt["mm_placeholders"]["image"], strict=True):
            request = PruningRequest.from_tensor(item[REQUEST].data)
            kept.append(
                self.selected.get(request.to_json(), []) if request.pruning.prunes else list(range(place.length))
            )
        return kept

    def expected(self, case: Case, new_tokens: int = 6) -> Outcome:
        """The outcome of the transformers model, alone with the case."""
        text, images = self.prompt(case), [list(case.images)] if case.images else None
        inputs = self.processor(text=text, images=images, return_tensors="pt").to(self.dtype)
        length = inputs["input_ids"].shape[1]
        sequences = self.reference.generate(
            **inputs,
            **case.options,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=self.no_text or None,
        )
        tokens = sequences[0, length:].tolist()
        if not case.images:
            return Outcome(tokens, length, [])
        mask = self.reference.select_vision_tokens(**inputs, **case.options).kept_mask[0]
        places = mask[inputs["input_ids"][0] == self.reference.config.image_token_id]
        sizes = [self.size(image) for image in case.images]
        layout = self.model.layout
        parts = places.split([len(layout.tokens(size, layout.tiled(len(sizes))).source) for size in sizes])
        return Outcome(tokens, int(mask.sum()), [part.nonzero()[:, 0].tolist() for part in parts])


_TEXT = "is there a red star in the image how many people walk where does dog and circle , ? yes no"
WORDS = tuple(_TEXT.split())


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """An image of (width, height) pixels, none of whose patches is like another: equal patches would be ties."""
    width, height = size
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


def random_images(seed: int, count: int) -> list[Image.Image]:
    """Images of many shapes, some with black bands above and below."""
    random = Random(seed)
    images = []
    for index in range(count):
        size = random.choice([(24, 24), (48, 48), (60, 30), (30, 70), (100, 20), (37, 41), (64, 48)])
        image = noise(size, seed * 1000 + index)
        if random.random() < 0.3:
            image = ImageOps.expand(image, (0, image.height // 2))
        images.append(image)
    return images


def random_cases(seed: int, count: int, without: Sequence[str] = ()) -> list[Case]:
    """Questions of random words about a few images, so that many share an image, with random options but `without`."""
    random, images = Random(seed), random_images(seed, 8)
    choices: dict[str, Sequence[Any]] = {
        "vision_token_budget": (None, 1, 2, 4, 8, 16, 200, 0.1, 0.5, 1.0),
        "text_coverage_weight": (0.0, 0.5, 2.0),
        "vision_coverage_weight": (0.25, 4.0),
        "text_temperature": (0.1, 1.0),
        "vision_temperature": (0.05, 1.6),
        "text_temperature_unit": ("spread",),
        "budget_scope": ("image",),
        "exclude_padding": (True,),
        "keep_image_newline": (True,),
    }
    choices = {name: values for name, values in choices.items() if name not in without}

    def words() -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, 12)))

    return [
        Case(
            words(),
            random.choices(images, k=random.choice([0, 1, 1, 1, 1, 2])),
            {name: random.choice(choices[name]) for name in random.sample(sorted(choices), random.randint(0, 3))},
            (words(), words()) if random.random() < 0.2 else None,
        )
        for _ in range(count)
    ]
