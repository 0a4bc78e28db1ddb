"""Staged models under lmms-eval, as its model `mmtok_llava`.

    lmms-eval --model mmtok_llava --model_args pretrained=./llava-mmtok,vision_token_budget=64 --tasks pope

lmms-eval's own `llava_hf` picks stock classes by the model type and would refuse ours. lmms-eval finds this adapter
through the entry point `lmms_eval.models` of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from lmms_eval import utils
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache

from .answering import answer_batch, load_pipeline

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelManifest

_IMAGE = "<image>"
_GENERATION = ("max_new_tokens", "do_sample", "temperature", "top_p", "num_beams")


def manifest() -> ModelManifest:
    """What lmms-eval's registry asks for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("mmtok_llava", simple_class_path=f"{__name__}.MMTokLlava")


class MMTokLlava(lmms):
    """A staged model; one process for each accelerator under `accelerate launch`.

    Args:
        pretrained: staged folder or Hub repository.
        vision_token_budget: for every question; "model" for what the configuration says, "all" for every token.
        dtype: of the weights, "auto" for the model's own.
        image_memory: MiB of encoded images that are kept for further questions about them.
        **pruning_options: further options of the pruning, such as `vision_coverage_weight`.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        vision_token_budget: int | float | str = "model",
        revision: str = "main",
        dtype: str = "auto",
        device: str | None = None,
        attn_implementation: str | None = None,
        image_memory: int | str = MEMORY_LIMIT // 2**20,
        **pruning_options: Any,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device) if device and self._world_size == 1 else self.accelerator.device
        settings = {"attn_implementation": attn_implementation} if attn_implementation else {}
        self.pipeline = load_pipeline(
            pretrained, revision=revision, dtype=dtype, device=self.device, model_kwargs=settings
        )
        self.cache = EncodedImageCache(self.pipeline.model, int(image_memory) * 2**20)
        self.batch_size = int(batch_size)
        self.pruning_options = dict(pruning_options)
        if vision_token_budget != "model":
            self.pruning_options["vision_token_budget"] = None if vision_token_budget == "all" else vision_token_budget

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers every request, in the order of the data, where questions about one image stand together."""
        # Of the arguments, the last ones are the number of the question, its task and its split.
        collator = utils.Collator(
            [request.args for request in requests], lambda args: (args[4], args[5], args[3]), grouping=True
        )
        answers: list[str] = []
        progress = tqdm(total=len(requests), disable=self.rank != 0, desc="answers")
        for chunk in collator.get_batched(n=self.batch_size, batch_fn=None):
            contexts, settings, to_visuals, numbers, tasks, splits = zip(*chunk, strict=True)
            images = [
                to_visual(self.task_dict[task][split][number]) or ()
                for to_visual, task, split, number in zip(to_visuals, tasks, splits, numbers, strict=True)
            ]
            # The chat template says where images stand in the prompt.
            questions = [context.replace(_IMAGE, "").strip() for context in contexts]
            given = {**self.pruning_options, **_generation(settings[0])}
            texts = answer_batch(self.pipeline, questions, images, self.cache, **given)
            texts = [_until(text, settings[0].get("until")) for text in texts]
            for context, text in zip(contexts, texts, strict=True):
                self.cache_hook.add_partial("generate_until", (context, settings[0]), text)
            answers += texts
            progress.update(len(texts))
        progress.close()
        return collator.get_original(answers)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("mmtok_llava answers in words: choose tasks with output_type generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("mmtok_llava answers one question at a time: choose tasks of a single round.")


def _generation(settings: dict[str, Any]) -> dict[str, Any]:
    """What a task asks of `generate`; without sampling its settings mean nothing and are left out."""
    chosen = {name: settings[name] for name in _GENERATION if settings.get(name) is not None}
    chosen["do_sample"] = bool(chosen.get("do_sample", (chosen.get("temperature") or 0) > 0))
    if not chosen["do_sample"]:
        chosen.pop("temperature", None)
        chosen.pop("top_p", None)
    chosen.setdefault("max_new_tokens", 1024)
    return chosen


def _until(text: str, ends: str | Sequence[str] | None) -> str:
    """The text before the first of `ends`."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        text = text.split(end)[0] if end else text
    return text
