"""`mmtok.prune`: a loaded model becomes one that prunes and shares its modules, and back; nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from functools import partial, update_wrapper, wraps
from typing import Any

from transformers import PreTrainedModel

from .families import FAMILIES, class_of
from .options import OPTION_NAMES, PruningOptions, call_options, require_known, require_meaningful
from .releases import keep_checkpoint_layout
from .tokenizer_source import TokenizerSource, checked_tokenizer

# The attribute of a pruned model that holds what it was made of. It is not a submodule: no weight has two names.
_GIVEN = "_pruned_from"
# Methods that accelerate puts on an object, which move the modules; they are shared, so the given model's do it.
_MOVES = frozenset(("to", "cuda", "hpu", "mlu", "musa", "neuron", "npu", "sdaa", "xpu"))
# What stock generation compiled for another object.
_COMPILED = frozenset(("_compiled_call", "_last_compile_config"))


def prune(model: Any, processor: Any = None, **options: Any) -> Any:
    """A model of the MMTok class that shares the modules of a loaded model; nothing is copied or loaded.

    The given object stays what it is: its class, configuration and outputs do not change, and `unpruned()` of the
    result returns it. Both have the same weights, so what trains, moves, quantises or switches the modules of one
    (`to`, `train`, `eval`, `set_attn_implementation`) does so for both. Configuration and generation configuration of
    the result are its own.

    Quantised models, models on several devices or offloaded by accelerate, and fine-tuned ones are taken as they are.
    Of a PEFT model the base model is taken (`get_base_model()`), with what the adapter put into its modules: the active
    adapter works, and `merge_adapter` or `set_adapter` of the PEFT object hold for both. The methods of the PEFT
    object, `save_pretrained` of the adapter among them, stay with the PEFT object.

    Args:
        model: a stock model of a family of MMTok, one that PEFT wraps, or an MMTok model. Of an MMTok model the result
            is another one, with these options in place of its own.
        processor: the model's processor, or its tokenizer, with which the questions are read. Without one it is the
            `tokenizer.json` of the checkpoint that the model was loaded from; where there is none, a warning says so,
            and every token of the prompt is covered, the words of the chat template too.
        **options: any of `PruningOptions`, such as `vision_token_budget=64`.

    Returns:
        A `MMTokLlavaForConditionalGeneration`, or the class of the family.

    Raises:
        ValueError: a model of another class, or one that is compiled or whose methods are replaced on the object; an
            option that is unknown or out of range; a tokenizer without a fast form.
    """
    tokenizer = checked_tokenizer(getattr(processor, "tokenizer", processor))
    return pruned(model, options, None if tokenizer is None else TokenizerSource(tokenizer))


def pruned(model: Any, options: Mapping[str, Any], source: TokenizerSource | None = None) -> Any:
    """As `prune`, with the source of the tokenizer; without one, the tokenizer is the one beside the weights."""
    stock = _unwrapped(model)
    model_class: Any = type(stock) if is_mmtok(stock) else _class_for(stock)
    config = _config_of(stock, model_class)
    given = dict(options)
    chosen = call_options(given, config)
    require_known(given, ())
    require_meaningful(chosen, model_class.own_options, model_class.__name__)
    vars(config).update({name: getattr(chosen, name) for name in OPTION_NAMES})
    result = _shared_as(stock, model_class, config)
    vars(result)[_GIVEN] = model
    if source is not None or not is_mmtok(stock):
        commit = getattr(config, "_commit_hash", None)
        vars(result)["_tokenizer_source"] = source or TokenizerSource(name=config._name_or_path, commit=commit)
    return result


def unpruned(model: Any) -> Any:
    """The stock model that shares the modules of an MMTok model: the very one that `prune` was given, if it was."""
    given = vars(model).get(_GIVEN)
    if given is not None:
        inside = _unwrapped(given)
        return unpruned(inside) if is_mmtok(inside) else given
    stock_class = stock_class_of(type(model))
    return _shared_as(model, stock_class, _config_of(model, stock_class))


def is_mmtok(model: Any) -> bool:
    """Whether a model, or a class of models, prunes."""
    return hasattr(model, "select_vision_tokens")


def stock_class_of(model_class: type) -> type:
    """The stock class behind an MMTok class."""
    return next(base for base in model_class.__mro__ if issubclass(base, PreTrainedModel) and not is_mmtok(base))


def _class_for(model: Any) -> type:
    """The MMTok class for a stock model.

    Raises:
        ValueError: there is none.
    """
    name = type(model).__name__
    if any(base.__name__ == "FSDPModule" for base in type(model).__mro__):
        raise ValueError(f"The model is a {name}, which fully_shard made: prune before sharding.")
    found = class_of(name)
    model_class = None if found is None else found[1].load_class()
    if model_class is None or type(model) is not stock_class_of(model_class):
        known = " or a ".join(family.stock_class for family in FAMILIES.values())
        raise ValueError(f"The model is a {name}, which cannot be pruned: give a {known}.")
    return model_class


def _unwrapped(model: Any) -> Any:
    """The model itself, without PEFT around it.

    Raises:
        ValueError: what is around it does its work in a `forward` of its own, which the model inside would not run.
    """
    if getattr(model, "_orig_mod", None) is not None or getattr(model, "_compiled_call_impl", None) is not None:
        raise ValueError("The model is compiled, for the stock forward: prune it first, then compile what you get.")
    if not hasattr(model, "get_base_model"):
        return model
    for adapter in model.peft_config.values():
        if getattr(adapter, "is_prompt_learning", False):
            raise ValueError(
                f"The adapter is a {type(adapter).__name__}, which adds to the prompt outside of the model: prune the "
                "base model and load the adapter onto the result."
            )
    return _unwrapped(model.get_base_model())


def _config_of(model: Any, model_class: Any) -> Any:
    """The configuration of `model` as one of `model_class`; what is nested in it belongs to the shared modules."""
    config_class = model_class.config_class
    config = config_class.__new__(config_class)
    own = {name: value for name, value in vars(model.config).items() if name not in ("model_type", "auto_map")}
    if not is_mmtok(model_class):
        own = {name: value for name, value in own.items() if name not in OPTION_NAMES}
    elif not is_mmtok(model):
        defaults = PruningOptions(**config_class.default_options)
        own |= {name: getattr(defaults, name) for name in OPTION_NAMES}
    vars(config).update(own, architectures=[model_class.__name__])
    return config


def _shared_as(model: Any, model_class: Any, config: Any) -> Any:
    """An object of `model_class` with the modules, hooks and settings of `model`, and a configuration of its own."""
    shared = model_class.__new__(model_class)
    for name, value in vars(model).items():
        if name in _MOVES:
            value = _returning(shared, model, value)
        elif name == "forward" and isinstance(value, partial) and value.args == (model,) and "_hf_hook" in vars(model):
            value = None  # accelerate's, made below for the object that it is called on
        elif callable(getattr(type(model), name, None)):
            raise ValueError(
                f"{name} of the {type(model).__name__} was replaced on the object, and a pruned model has to run its "
                f"own: prune the model before {name} is replaced or the model is wrapped for training."
            )
        elif isinstance(value, (dict, list, set)):
            value = copy(value)  # its own registries: a module that is put in its place is put there for it alone
        if name not in _COMPILED:
            vars(shared)[name] = value
    vars(shared).update(config=config, generation_config=deepcopy(model.generation_config))
    vars(shared).pop(_GIVEN, None)
    keep_checkpoint_layout(shared, model)
    if "forward" in vars(shared):
        del vars(shared)["forward"]
        own = shared.forward
        hooked = update_wrapper(partial(vars(model)["forward"].func, shared), own)
        vars(shared).update(_old_forward=own, forward=hooked)
    return shared


def _returning(shared: Any, model: Any, move: Callable) -> Callable:
    """A method of `model` that returns `shared` in place of `model`."""

    @wraps(move)
    def moved(*args: Any, **kwargs: Any) -> Any:
        result = move(*args, **kwargs)
        return shared if result is model else result

    return moved
