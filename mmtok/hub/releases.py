"""What differs between releases of transformers: names of arguments and output fields, and tables of names.

Nothing else in the published files mentions these names. `require_stock` checks them when a model class is made, so
that a release which renames one of them ends in an ImportError and never in other tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import torch
import transformers
from transformers.utils import TransformersKwargs

from .images import EncodedVision

# The releases that the test-suite and the compatibility checks ran on, oldest and newest.
OLDEST_TESTED, NEWEST_TESTED = "4.57.1", "5.24.0"

# The key-value cache is called `cache` from 5.24 on.
_CACHE_NAMES = ("cache", "past_key_values")
_IMAGE_FIELDS = ("image_outputs", "image_hidden_states")
_VIDEO_FIELDS = ("video_outputs", "video_hidden_states")
_ARGUMENTS = ("input_ids", "pixel_values", "attention_mask", "position_ids", "inputs_embeds", "labels")
# What the stock forwards take beside the arguments that they name.
STOCK_ARGUMENTS = frozenset(
    (*TransformersKwargs.__optional_keys__, *_CACHE_NAMES, "use_cache", "return_dict", "cache_position")
)
# Whether a `prefix_allowed_tokens_fn` gets the number of the prompt for every returned sequence, as for beams; before,
# sequences that are not beams had numbers of their own.
ROWS_ARE_PROMPTS = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 24)
_OUTPUT_FIELDS = ("loss", "logits", "hidden_states", "attentions")


class UnsupportedRelease(ImportError):
    """The installed release of transformers lacks something that the model classes rely on."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} MMTok was tested with transformers {OLDEST_TESTED} to {NEWEST_TESTED}, and "
            f"{transformers.__version__} is installed: install transformers=={NEWEST_TESTED}, or a newer release "
            "of MMTok."
        )


def require_stock(stock_class: Any, *, returns_images: bool = True) -> None:
    """Checks that a stock model class has the arguments and output fields that the pruned one passes and reads.

    The class of its outputs, whose name differs, is what its `forward` says it returns.

    Args:
        stock_class: the stock model class.
        returns_images: whether its outputs hold the encoded images on every release.

    Raises:
        UnsupportedRelease: one of them has another name, or is gone.
    """
    for method in ("forward", "generate", "get_image_features"):
        if not callable(getattr(stock_class, method, None)):
            raise UnsupportedRelease(f"{stock_class.__name__} has no method {method}.")
    arguments = inspect.signature(stock_class.forward).parameters
    for names in (*((name,) for name in (*_ARGUMENTS, "logits_to_keep")), _CACHE_NAMES):
        if not any(name in arguments for name in names):
            raise UnsupportedRelease(f"{stock_class.__name__}.forward has no argument {' or '.join(names)}.")
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments.values()):
        raise UnsupportedRelease(f"{stock_class.__name__}.forward takes no further keyword arguments.")
    annotation = inspect.signature(stock_class.forward).return_annotation
    output_class = next((each for each in (annotation, *get_args(annotation)) if is_dataclass(each)), None)
    if not isinstance(output_class, type):
        raise UnsupportedRelease(f"{stock_class.__name__}.forward does not say which output it returns.")
    found = {field.name for field in fields(output_class)}
    for names in (*((name,) for name in _OUTPUT_FIELDS), _CACHE_NAMES, *((_IMAGE_FIELDS,) if returns_images else ())):
        if not found.intersection(names):
            raise UnsupportedRelease(f"{output_class.__name__} has no field {' or '.join(names)}.")


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The key-value cache among keyword arguments or output fields, under either name; None where there is none."""
    return next((arguments[name] for name in _CACHE_NAMES if arguments.get(name) is not None), None)


def cached_length(cache: Any) -> int:
    """Tokens that a cache holds; 0 for None and for objects that are not caches."""
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def cached_keys(cache: Any) -> dict[int, tuple[int, torch.Tensor]]:
    """For each layer of a cache that shows keys: the column of the first one, and (B, heads, k, d) the keys.

    Layers of linear attention have none. Layers with a sliding window, and quantised ones, show the last columns alone.
    """
    shown = {}
    for number, layer in enumerate(getattr(cache, "layers", None) or ()):
        keys = getattr(layer, "keys", None)
        if isinstance(keys, torch.Tensor) and keys.dim() == 4:
            shown[number] = (max(int(layer.get_seq_length()) - keys.shape[2], 0), keys)
    return shown


def text_places(arguments: Mapping[str, Any]) -> torch.Tensor | None:
    """(R, n) places in the text that stock generation counts, in front of the positions in time, height and width.

    None where a release leaves them to the stock forward, or gives positions of an earlier call.
    """
    positions = arguments.get("position_ids")
    return positions[0] if positions is not None and positions.dim() == 3 and len(positions) == 4 else None


def cache_columns(arguments: Mapping[str, Any]) -> torch.Tensor | None:
    """(n,) columns of a step's tokens in the cache, which stock generation of earlier releases gives; else None."""
    columns = arguments.get("cache_position")
    return columns if isinstance(columns, torch.Tensor) and columns.dim() == 1 else None


def stock_positions(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """(3, B, L) int64 positions in time, height and width of a full prompt, as the stock model counts them.

    Inputs of `get_rope_index` that the release does not know are left out.
    """
    known = inspect.signature(model.model.get_rope_index).parameters
    return model.model.get_rope_index(**{name: value for name, value in inputs.items() if name in known})[0]


def projected_features(encoded: Any, method: str = "get_image_features") -> Sequence[torch.Tensor]:
    """For each image or video (T, hidden), the projected vision tokens in what `method` of stock returned.

    That is an object with `pooler_output`, its tuple where the configuration says `return_dict=False`, or before 5.0
    the features themselves, in front of those of DeepStack where the family has them.

    Raises:
        UnsupportedRelease: it is none of these.
    """
    if isinstance(encoded, tuple) and len(encoded) > 1 and isinstance(encoded[1], (list, tuple)):
        # The features of the tower's last layer in front of them are one tensor, those of the images are several.
        encoded = encoded[1] if isinstance(encoded[0], torch.Tensor) else encoded[0]
    features = getattr(encoded, "pooler_output", encoded)
    if isinstance(features, torch.Tensor) and features.dim() == 3:
        features = list(features)
    if not isinstance(features, (list, tuple)) or not all(
        isinstance(each, torch.Tensor) and each.dim() == 2 for each in features
    ):
        raise UnsupportedRelease(f"{method} returned a {type(encoded).__name__} without features per image.")
    return features


def deepstack_features(
    encoded: Any, lengths: Sequence[int], method: str = "get_image_features"
) -> list[tuple[torch.Tensor, ...]]:
    """For each image or video of so many tokens (T, hidden) of each DeepStack layer, of what `method` of stock gave.

    Raises:
        UnsupportedRelease: it holds no such features.
    """
    layers = getattr(encoded, "deepstack_features", None)
    if layers is None and isinstance(encoded, tuple):
        layers = encoded[-1]
    if not isinstance(layers, (list, tuple)) or not layers:
        raise UnsupportedRelease(f"{method} returned a {type(encoded).__name__} without DeepStack features.")
    # Before 5.0 a layer's features of all images are one tensor.
    split = [layer.split(list(lengths)) if isinstance(layer, torch.Tensor) else layer for layer in layers]
    if any([len(each) for each in layer] != list(lengths) for layer in split):
        raise UnsupportedRelease(f"The DeepStack features of {method} are not those of the vision tokens.")
    return list(zip(*split, strict=True))


def with_images(output: Any, vision: EncodedVision) -> Any:
    """Puts into a stock output what the stock forward says of the images and videos that it encoded."""
    names = {field.name for field in fields(output)}
    kinds = ((_IMAGE_FIELDS, vision.outputs, False), (_VIDEO_FIELDS, vision.video_outputs, True))
    for (whole, projected), outputs, videos in kinds:
        own = vision.projected_of(videos=videos)
        if own and whole in names:
            output[whole] = outputs
        elif own and projected in names:
            output[projected] = torch.cat(own)
    return output


def share_checkpoint_layout(model_class: type, model_type: str, *, stock_class: str, stock_type: str) -> None:
    """Lets checkpoints in the key layout of a stock model load into `model_class`.

    transformers looks its key conversions up by class name or, in releases about 5.5, by model type alone; ours are new
    names for the same layout. Releases without the table convert through the class attribute that our classes inherit.
    """
    try:
        from transformers import conversion_mapping
    except ImportError:
        return
    lookup: Callable[[str], Any] = conversion_mapping.get_checkpoint_conversion_mapping
    mapping = lookup(stock_class) or lookup(stock_type)
    if mapping is not None:
        for name in (model_class.__name__, model_type):
            conversion_mapping.register_checkpoint_conversion_mapping(name, mapping, overwrite=True)


def keep_checkpoint_layout(shared: Any, model: Any) -> None:
    """Lets `shared`, an object of another class with the modules of `model`, save its weights in the layout of `model`.

    Releases about 5.5 look key conversions up by model type, for the model and for what is in it: of two types for the
    same layout, each would be converted.

    Raises:
        UnsupportedRelease: the release gives key conversions in another way.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        return
    if "add_legacy" not in inspect.signature(get_model_conversion_mapping).parameters:
        raise UnsupportedRelease("get_model_conversion_mapping has no argument add_legacy.")
    own, given = (get_model_conversion_mapping(each, add_legacy=False) for each in (shared, model))
    if len(own) != len(given) and getattr(model, "_weight_conversions", None) is None:
        shared._weight_conversions = given


def name_for_tasks(model_type: str, class_name: str) -> None:
    """Names a model type in the tables in which transformers looks up what a model can do.

    `transformers serve`, pipelines and the choice of labels for training ask them by name.
    """
    from transformers.models.auto import modeling_auto

    for task in ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"):
        names = getattr(modeling_auto, task, None)
        if names is not None:
            names.setdefault(model_type, class_name)
