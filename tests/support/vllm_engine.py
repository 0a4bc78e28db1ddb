"""A vLLM engine in this process beside the transformers model of the same folder, and what each kept of every request.

vLLM reads its settings from the environment, which an engine sets before it imports anything of vLLM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoProcessor
from transformers.video_utils import VideoMetadata

from mmtok.hub.families import family_of
from mmtok.hub.options import is_meaningful

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
    """One request: a question about images and videos with its options, and the turn before it.

    A video is frames, (frames, height, width, 3) uint8, and what vLLM calls its metadata.
    """

    question: str
    images: Sequence[Image.Image]
    options: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[str, str] | None = None
    videos: Sequence[tuple[np.ndarray, dict[str, Any]]] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a request: new tokens, prompt length, and the places of the kept tokens of each image and video."""

    tokens: list[int]
    prompt_length: int
    kept: list[list[int]]


class Engine:
    """vLLM with a model, what it selected so far, and the transformers model to compare with.

    Attributes:
        tower_crops: crops of each run of the vision tower; images where they are grids.
        selected: places of the kept tokens by the request for an image, as JSON.
        cached_tokens: of the prompts of the last run, tokens whose keys and values were cached.
    """

    def __init__(self, folder: Path, *, dtype: str = "float32", **options: Any) -> None:
        # Not when this module is imported: the ordinary test run imports it too, and must keep its own settings.
        os.environ.update(SETTINGS)
        # Two threads that wait for each other on a core that other programs use take a hundred times as long as one.
        torch.set_num_threads(1)
        from vllm import LLM
        from vllm.distributed import destroy_model_parallel

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
            "limit_mm_per_prompt": {"image": 2, "video": 2},
            "kv_cache_memory_bytes": KV_CACHE_BYTES,
        }
        # A process keeps the groups of its first engine, and a model with experts needs one more than the others.
        destroy_model_parallel()
        self.llm = LLM(model=str(folder), dtype=dtype, **{**defaults, **options})
        # The end of the process ends it too: a shutdown of each engine would collect garbage for seconds.
        self.llm.llm_engine.engine_core._finalizer.atexit = False
        self.worker = self.llm.llm_engine.model_executor.driver_worker.worker
        self.model = self.worker.model_runner.model
        self.tower_crops: list[int] = []
        self.selected: dict[str, list[int]] = {}
        self.cached_tokens = 0
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

    def budget(self) -> Any:
        """What vLLM plans with for images and videos, as at its start."""
        from vllm.multimodal import MULTIMODAL_REGISTRY
        from vllm.multimodal.encoder_budget import MultiModalBudget

        return MultiModalBudget(self.llm.llm_engine.vllm_config, MULTIMODAL_REGISTRY, enable_cache=False)

    def embed_dummies(self, kind: str, count: int) -> Any:
        """What the model makes of so many images or videos of vLLM's profiling run."""
        from vllm.multimodal.utils import group_and_batch_mm_kwargs

        dummies = self.budget().get_dummy_encoder_profile_inputs(kind, count)
        [(_, _, arguments)] = group_and_batch_mm_kwargs(dummies)
        return self.model.embed_multimodal(**arguments)

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

    def count_preemptions(self) -> list[Any]:
        """The requests that vLLM puts off from now on, for want of memory."""
        scheduler, put_off = self.llm.llm_engine.engine_core.engine_core.scheduler, []
        preempt = scheduler._preempt_request

        def noted(request: Any, *arguments: Any, **named: Any) -> Any:
            put_off.append(request)
            return preempt(request, *arguments, **named)

        scheduler._preempt_request = noted
        return put_off

    def differences(
        self, cases: Sequence[Case], together: int = 30, new_tokens: int = 6
    ) -> list[tuple[Case, Outcome, Outcome]]:
        """The cases of which vLLM and transformers don't agree; so many are in flight at once."""
        got = [
            outcome
            for start in range(0, len(cases), together)
            for outcome in self.run(cases[start : start + together], new_tokens)
        ]
        wanted = [self.expected(case, new_tokens) for case in cases]
        return [(case, *pair) for case, *pair in zip(cases, got, wanted, strict=True) if pair[0] != pair[1]]

    def prompt(self, case: Case) -> str:
        vision = [*[{"type": "image"}] * len(case.images), *[{"type": "video"}] * len(case.videos)]
        turns = [case.question] if case.earlier is None else [*case.earlier, case.question]
        chat = [
            {"role": ("user", "assistant")[index % 2], "content": [{"type": "text", "text": text}]}
            for index, text in enumerate(turns)
        ]
        chat[0]["content"] = [*vision, *chat[0]["content"]]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def run(self, cases: Sequence[Case], new_tokens: int = 6, adapters: Sequence[Any] | None = None) -> list[Outcome]:
        """vLLM's outcome of requests that are in flight together, with the adapters that vLLM's LoRA requests name."""
        from vllm import SamplingParams

        requests = []
        for case in cases:
            data = {"image": list(case.images), "video": list(case.videos)}
            request: dict[str, Any] = {"prompt": self.prompt(case), "mm_processor_kwargs": dict(case.options)}
            if case.images or case.videos:
                request["multi_modal_data"] = {kind: items for kind, items in data.items() if items}
            requests.append(request)
        bias = dict.fromkeys(self.no_text, -100.0)
        parameters = SamplingParams(temperature=0, max_tokens=new_tokens, logit_bias=bias or None)
        outputs = self.llm.generate(requests, parameters, use_tqdm=False, lora_request=adapters)
        self.cached_tokens = sum(output.num_cached_tokens for output in outputs)
        return [
            Outcome(list(output.outputs[0].token_ids), len(output.prompt_token_ids), self._selected(case))
            for case, output in zip(cases, outputs, strict=True)
        ]

    def processed(self, case: Case) -> tuple[int, int]:
        """For a case with one image, the placeholders of vLLM's processor and the tokens that the model gives."""
        from vllm.multimodal.utils import group_and_batch_mm_kwargs

        prompt = self.processed_prompt(case)
        [(_, _, arguments)] = group_and_batch_mm_kwargs([("image", prompt["mm_kwargs"]["image"][0])])
        [tokens] = self.model.embed_multimodal(**arguments)
        placeholders = prompt["prompt_token_ids"].count(self.reference.config.image_token_id)
        [place] = prompt["mm_placeholders"]["image"]
        assert place.length == placeholders
        return placeholders, len(tokens)

    def processed_prompt(self, case: Case) -> Any:
        """What vLLM's processor makes of a case."""
        from vllm.multimodal.processing import ProcessorInputs, TimingContext

        processor = self.llm.renderer.get_mm_processor()
        ids = self.processor.tokenizer(self.prompt(case))["input_ids"]
        data = {"image": list(case.images), "video": list(case.videos)}
        items = processor.info.parse_mm_data({kind: given for kind, given in data.items() if given})
        inputs = ProcessorInputs(ids, items, hf_processor_mm_kwargs=case.options)
        return processor.apply(inputs, TimingContext(enabled=False))

    def _selected(self, case: Case) -> list[list[int]]:
        """What vLLM kept of each image and video; nothing where it never selected for the case's text."""
        from mmtok.vllm.request import REQUESTS, PruningRequest

        if not case.images and not case.videos:
            return []
        prompt, kept = self.processed_prompt(case), []
        for kind in prompt["mm_kwargs"]:
            for item, place in zip(prompt["mm_kwargs"][kind], prompt["mm_placeholders"][kind], strict=True):
                request = PruningRequest.from_tensor(item[REQUESTS[kind]].data)
                whole = list(range(place.get_num_embeds()))
                kept.append(self.selected.get(request.to_json(), []) if request.pruning.prunes else whole)
        return kept

    def inputs(self, case: Case) -> Any:
        """What the processor of transformers makes of a case."""
        given: dict[str, Any] = {"text": self.prompt(case), "images": [list(case.images)] if case.images else None}
        if case.videos:
            given["videos"] = [[frames for frames, _ in case.videos]]
            if self.has_grids:
                given |= {
                    "video_metadata": [VideoMetadata(**each) for _, each in case.videos],
                    "do_sample_frames": False,
                }
        return self.processor(**given, return_tensors="pt")

    def expected(self, case: Case, new_tokens: int = 6) -> Outcome:
        """The outcome of the transformers model, alone with the case."""
        inputs = self.inputs(case).to(self.dtype)
        length, options = inputs["input_ids"].shape[1], dict(case.options)
        sequences = self.reference.generate(
            **inputs,
            **options,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=self.no_text or None,
        )
        tokens = sequences[0, length:].tolist()
        if not case.images and not case.videos:
            return Outcome(tokens, length, [])
        mask = self.reference.select_vision_tokens(**options, **inputs).kept_mask[0]
        ids, config, geometry = inputs["input_ids"][0], self.reference.config, self.model.geometry
        sizes = [self.size(image) for image in case.images]
        parts = mask[ids == config.image_token_id].split(
            [len(geometry.layout(size, geometry.tiled(len(sizes))).source) for size in sizes]
        )
        videos = mask[ids == config.video_token_id] if case.videos else mask[:0]
        # The videos of a case are alike.
        parts = [*parts, *videos.chunk(len(case.videos))] if case.videos else parts
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


def random_cases(seed: int, count: int, own_options: Mapping[str, Any]) -> list[Case]:
    """Questions of random words about a few images, so that many share an image, with random options of the family."""
    random, images = Random(seed), random_images(seed, 8)
    choices: dict[str, Sequence[Any]] = {
        "vision_token_budget": (None, 1, 2, 4, 8, 16, 200, 0.1, 0.5, 1.0),
        "text_coverage_weight": (0.0, 0.5, 2.0),
        "vision_coverage_weight": (0.25, 4.0),
        "text_coverage_depth": (2, "spread"),
        "text_temperature": (0.1, 1.0),
        "vision_temperature": (0.05, 1.6),
        "budget_scope": ("image",),
        "padding": ("exclude",),
    }
    choices = {name: values for name, values in choices.items() if is_meaningful(name, values[0], own_options)}

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


def random_videos(seed: int, count: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Videos of 2 to 6 frames of one size, at one or two frames a second.

    None is longer than high or wide in positions: behind one that is, vLLM counts on from its last frame and
    transformers from its largest side.
    """
    random, videos = Random(seed), []
    for index in range(count):
        size, frames = random.choice([(48, 48), (60, 30), (30, 70)]), 2 * random.randint(1, 3)
        shown = np.stack([np.asarray(noise(size, seed * 1000 + 10 * index + frame)) for frame in range(frames)])
        fps = 2.0 if frames == 6 else random.choice([1.0, 2.0])
        length = {"total_num_frames": frames, "frames_indices": list(range(frames)), "duration": frames / fps}
        videos.append((shown, {"fps": fps, **length}))
    return videos


def random_video_cases(seed: int, count: int) -> list[Case]:
    """Questions about a video, some about an image, too, with a budget of each frame."""
    random, videos, images = Random(seed), random_videos(seed, 4), random_images(seed, 4)
    # With a noun in each: where a question is of stop words alone, the transformers class also covers the "<" of
    # Qwen3-VL's timestamps, which stand in no prompt of vLLM before it is expanded.
    return [
        Case(
            " ".join(["dog", *random.choices(WORDS, k=random.randint(0, 11))]),
            random.choices(images, k=random.choice([0, 0, 1])),
            {"vision_token_budget": random.choice([None, 1, 2, 4, 8, 0.3])},
            videos=[random.choice(videos)],
        )
        for _ in range(count)
    ]
