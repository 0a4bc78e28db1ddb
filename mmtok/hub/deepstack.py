"""DeepStack: features of the vision tower's middle layers, which the first layers of the language model add to tokens.

Stock hands them to the language model beside the images. A pruned prompt has no images any more, so they join the
arguments of the language model for one forward pass; nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# The features among the arguments of a forward pass.
DEEPSTACK = "deepstack"
# Arguments of the stock language model.
_PLACES, _FEATURES = "visual_pos_masks", "deepstack_visual_embeds"


def deepstack_arguments(slots: torch.Tensor, layers: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What stock gives its language model for the features of a prompt; the value of `DEEPSTACK`.

    Args:
        slots: (B, n) bool, slots that hold a vision token.
        layers: for each of the first layers of the language model (B, n, hidden), any value at other slots.
    """
    return {_PLACES: slots, _FEATURES: [layer[slots.to(layer.device)] for layer in layers]}


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
