"""The model under test with its processor, what it is given to read, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from mmtok import register_auto_classes
from mmtok.hub.handler import Video, inputs_of
from mmtok.measuring import prompt_lengths
from mmtok.publish.hub import config_of


@dataclass(frozen=True)
class Checkpoint:
    """A model with pruning, in evaluation mode, and its processor, which pads on the left."""

    model: Any
    processor: Any

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        processor: Any = None,
    ) -> Checkpoint:
        """Loads a staged folder, or a stock checkpoint of a family, from disk or from the Hub.

        Args:
            path: folder or Hub id.
            dtype: of the weights, or its name; None for the checkpoint's own.
            processor: a loaded one; None for the checkpoint's own.

        Raises:
            ValueError: a model of another type, or a processor without a chat template.
        """
        model_class, config = pruning_config(path, revision)
        processor = processor or load_processor(path, revision)
        processor.tokenizer.padding_side = "left"
        model = model_class.from_pretrained(path, config=config, revision=revision, dtype=dtype or "auto")
        return cls(model.to(device).eval(), processor)

    def inputs(self, texts: Sequence[str], images: Sequence[Image.Image | Video]) -> dict[str, Any]:
        """Prompts of an image with a text each, or a single one about a video; see `batch_inputs`."""
        return batch_inputs(self, texts, [[image] for image in images])


def load_processor(path: str | Path, revision: str | None = None) -> Any:
    """The processor of a staged or stock checkpoint.

    Raises:
        ValueError: a model of no family, or a processor without a chat template.
    """
    model_class, _ = pruning_config(path, revision)
    # A tokenizer asks for the configuration's class, and warns where the model type is none that is known.
    register_auto_classes(model_class.config_class, model_class)
    # Told that no remote code is wanted, for which it would else ask on the terminal: the classes are ours.
    processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    if not processor.chat_template:
        raise ValueError(f"The processor of {path} has no chat template, which the prompts are written with.")
    return processor


def model_inputs(loaded: Any, image: Image.Image | Video, question: str) -> dict[str, Any]:
    """What `generate` takes of one turn of the user about an image or a video; see `batch_inputs`."""
    return batch_inputs(loaded, [question], [[image]])


def batch_inputs(
    loaded: Any, questions: Sequence[str], images: Sequence[Sequence[Image.Image | Video]]
) -> dict[str, Any]:
    """What `generate` takes of several turns, padded on the left, on the model's device.

    Args:
        loaded: a pipeline or a `Checkpoint`: it has a `processor` and a `model`.
        questions: the texts of the users' turns.
        images: for each question its images, none for a question without; a video for a single question alone.
    """
    processor, model = loaded.processor, loaded.model
    chats = [
        [{"role": "user", "content": [*map(_part, own), {"type": "text", "text": question}]}]
        for question, own in zip(questions, images, strict=True)
    ]
    if len(chats) == 1:
        inputs = inputs_of(processor, chats[0], list(images[0]))
    else:
        prompts = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        begin = processor.tokenizer.bos_token
        inputs = processor(
            # In one list for each question: LLaVA-OneVision cuts no tiles where a question has several images.
            images=[list(own) for own in images if own] or None,
            text=prompts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **({"add_special_tokens": False} if begin and prompts[0].startswith(begin) else {}),
        )
    return dict(inputs.to(model.device, dtype=model.dtype))


def _part(image: Image.Image | Video) -> dict[str, str]:
    return {"type": "video" if isinstance(image, Video) else "image"}


@torch.no_grad()
def answers_to(
    loaded: Any, inputs: Mapping[str, Any], generate: Callable[..., torch.Tensor] | None = None, **settings: Any
) -> tuple[list[str], list[int]]:
    """Answers a batch, greedily unless it is said otherwise.

    Args:
        loaded: a pipeline or a `Checkpoint`.
        inputs: from `batch_inputs`, with pixels or with `encoded_images`.
        generate: what is called with inputs and settings; None for the model's own.
        **settings: arguments of `generate`, options of the pruning among them.

    Returns:
        The texts of the answers, and the length of each prompt as it reached the language model.
    """
    with prompt_lengths(loaded.model) as lengths:
        output = (generate or loaded.model.generate)(**inputs, **{"do_sample": False, **settings})
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in loaded.processor.batch_decode(new, skip_special_tokens=True)], lengths


def pruning_config(path: str | Path, revision: str | None = None) -> tuple[Any, Any]:
    """The class with pruning of a stock or staged checkpoint, and the configuration that it is loaded with.

    Raises:
        ValueError: a model of another type.
    """
    config, family = config_of(path, revision)
    model_class = family.load_class()
    # A stock configuration names another model type; read as ours it would be warned about.
    own = {name: value for name, value in config.items() if name != "model_type"}
    return model_class, model_class.config_class.from_dict(own)
