"""DeepStack: features of the vision tower's middle layers, which the first layers of the language model add to tokens.

Stock hands them to the language model beside the images. A pruned prompt has no images any more, so they join the
arguments of the language model for one forward pass; nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

# The features among the arguments of a forward pass.
DEEPSTACK = "deepstack"
# Arguments of the stock language model.
_PLACES, _FEATURES = "visual_pos_masks", "deepstack_visual_embeds"


@dataclass(frozen=True)
class DeepStack:
    """The features of a prompt; B rows, n slots.

    Attributes:
        slots: (B, n) bool, slots that hold a vision token.
        layers: for each of the first layers of the language model (B, n, hidden), any value at other slots.
    """

    slots: torch.Tensor
    layers: Sequence[torch.Tensor]

    @classmethod
    def of(cls, images: Sequence[Sequence[torch.Tensor]], numbers: torch.Tensor, slots: torch.Tensor) -> DeepStack:
        """The features of a pruned prompt.

        Args:
            images: for each image the features of each layer, (T, hidden).
            numbers: (B, n) int64, the number of each slot's vision token among those of all images.
            slots: (B, n) bool, slots that hold one.
        """
        layers = [torch.cat(list(features)) for features in zip(*images, strict=True)]
        return cls(slots, [features[numbers.to(features.device)] for features in layers])

    def columns(self, start: int, rows: int, width: int) -> DeepStack | None:
        """Those of the `width` slots from `start` on; `rows` is a multiple of B (beams). None behind the prompt."""
        own = self.slots[:, start : start + width]
        if own.shape[1] == 0:
            return None
        repeats, behind = rows // len(own), width - own.shape[1]

        def cut(values: torch.Tensor) -> torch.Tensor:
            values = values[:, start : start + width].repeat_interleave(repeats, dim=0)
            return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 2) + (0, behind))

        return DeepStack(cut(self.slots), [cut(features) for features in self.layers])

    def arguments(self) -> dict[str, Any]:
        """What stock gives its language model for these features; the value of `DEEPSTACK`."""
        return {_PLACES: self.slots, _FEATURES: [layer[self.slots.to(layer.device)] for layer in self.layers]}


@contextmanager
def adds_deepstack(model: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Lets the language model of `model` read `DEEPSTACK` among the arguments of a forward pass, inside the context.

    Stock passes an argument that it does not know on to its language model. What other threads ask of the model
    meanwhile has no such argument.
    """
    if arguments.get(DEEPSTACK) is None:
        yield
        return
    handle = model.model.language_model.register_forward_pre_hook(_read, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _read(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Puts the features where the stock language model expects them."""
    # torch leaves the keyword arguments out where another thread removes its hook meanwhile.
    if kwargs is None or kwargs.get(DEEPSTACK) is None:
        return None
    return args, {**{name: value for name, value in kwargs.items() if name != DEEPSTACK}, **kwargs[DEEPSTACK]}
