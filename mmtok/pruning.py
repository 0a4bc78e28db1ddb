"""`mmtok.prune`: a model that is loaded already becomes one that prunes."""

from __future__ import annotations

from typing import Any

from .hub import shared_model
from .hub.tokenizer_source import TokenizerSource, checked_tokenizer
from .publish.families import FAMILIES


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
    classes = {family.stock_class: family.load_class for family in FAMILIES.values()}
    tokenizer = checked_tokenizer(getattr(processor, "tokenizer", processor))
    return shared_model.prune(model, classes, options, None if tokenizer is None else TokenizerSource(tokenizer))
