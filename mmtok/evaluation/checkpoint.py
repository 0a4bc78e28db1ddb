"""The model under test with its processor: a staged MMTok folder, or any stock checkpoint of a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from mmtok import register_auto_classes
from mmtok.hub.handler import Video, inputs_of
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
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        processor: Any = None,
    ) -> Checkpoint:
        """Loads a staged folder, or a stock checkpoint of a family, from disk or from the Hub.

        Args:
            path: folder or Hub id.
            device: where to.
            dtype: of the weights; None for the checkpoint's own.
            revision: branch, tag or commit on the Hub.
            processor: a loaded one; None for the checkpoint's own.

        Raises:
            ValueError: a model of another type, or a processor without a chat template.
        """
        model_class, config = pruning_config(path, revision)
        # A tokenizer asks for the configuration's class, and warns where the model type is none that is known.
        register_auto_classes(model_class.config_class, model_class)
        # Told that no remote code is wanted, for which it would else ask on the terminal: the classes are ours.
        processor = processor or AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
        if not processor.chat_template:
            raise ValueError(f"The processor of {path} has no chat template, which the prompts are written with.")
        processor.tokenizer.padding_side = "left"
        model = model_class.from_pretrained(
            path, config=config, revision=revision, dtype=dtype if dtype is not None else "auto"
        )
        return cls(model.to(device).eval(), processor)

    def inputs(self, texts: Sequence[str], images: Sequence[Image.Image | Video]) -> dict[str, Any]:
        """Prompts of an image with a text each, or a single one about a video; see `batch_inputs`."""
        return batch_inputs(self, texts, [[image] for image in images])


def model_inputs(loaded: Any, image: Image.Image | Video, question: str) -> dict[str, Any]:
    """What `generate` takes of one turn of the user, on the model's device.

    Args:
        loaded: a pipeline or a `Checkpoint`: it has a `processor` and a `model`.
        image, question: of the turn.
    """
    kind = "video" if isinstance(image, Video) else "image"
    chat = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
    return dict(inputs_of(loaded.processor, chat, [image]).to(loaded.model.device, dtype=loaded.model.dtype))


def batch_inputs(
    loaded: Any, questions: Sequence[str], images: Sequence[Sequence[Image.Image | Video]]
) -> dict[str, Any]:
    """Prompts padded on the left, each about its own images, or a single one about a video, on the model's device."""
    if images and images[0] and isinstance(images[0][0], Video):
        [question], [[video]] = questions, images
        return model_inputs(loaded, video, question)
    chats = [
        [{"role": "user", "content": [*({"type": "image"} for _ in own), {"type": "text", "text": question}]}]
        for question, own in zip(questions, images, strict=True)
    ]
    inputs = loaded.processor(
        # In one list for each question: LLaVA-OneVision cuts no tiles where a question has several images.
        images=[list(own) for own in images if own] or None,
        text=loaded.processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True),
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return dict(inputs.to(loaded.model.device, dtype=loaded.model.dtype))


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
