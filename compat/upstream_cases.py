"""transformers' own tests of a model class, for a stock class and for its pruned class with every budget off.

Not part of the test-suite: `upstream.py` runs this file beside the tests of a release's source distribution, which
`tests.test_modeling_common` names, and compares the two results of each test.
"""

from __future__ import annotations

import copy
import inspect
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from model_cases import FAMILIES, IMAGE_SIZE, Family
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin
from transformers import AutoModel

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
# Tests whose result depends on whether a class comes from transformers itself: missing weights of any other class are
# initialised otherwise. Such a test is also run for a subclass of the stock class that changes nothing.
OUTSIDE = ("test_can_init_all_missing_weights",)


class ModelTester:
    """What `ModelTesterMixin` asks for: a configuration, inputs of three rows with an image each, and their numbers."""

    batch_size = 3
    is_training = True

    def __init__(self, family: Family, model_class: type) -> None:
        config = family.config(vision_token_budget=None)
        if not issubclass(model_class, family.model_class):
            config = model_class.config_class.from_dict(config.to_dict())  # type: ignore[attr-defined]
        self.config = config
        self.family, self.model = family, family.models()[0]
        self.inputs = self.inputs_of(self.batch_size)
        text = config.text_config
        self.seq_length = self.encoder_seq_length = self.inputs["input_ids"].shape[1]
        self.num_hidden_layers, self.hidden_size = text.num_hidden_layers, text.hidden_size
        self.num_attention_heads = text.num_attention_heads
        self.patch_size = config.vision_config.patch_size
        self.image_size = getattr(config.vision_config, "image_size", IMAGE_SIZE)
        self.vision_config = config.vision_config.to_dict()

    def inputs_of(self, rows: int) -> dict[str, torch.Tensor]:
        return self.family.inputs([[2, SIZE, 3]] * rows, self.model)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        return copy.deepcopy(self.config), copy.deepcopy(self.inputs)


def case(kind: str, tests: type, family: Family, model_class: type, **attributes: Any) -> type[unittest.TestCase]:
    """The `tests`, one of transformers' mixins, of `model_class`."""

    def set_up(test: Any) -> None:
        test.model_tester = ModelTester(family, model_class)

    attributes = {
        "setUp": set_up,
        "all_model_classes": (model_class,),
        "all_generative_model_classes": (),
        "pipeline_model_mapping": {},
        "_is_composite": True,
        "__module__": __name__,
        **attributes,
    }
    return type(f"{kind}_{family.name}", (tests, unittest.TestCase), attributes)


def model_case(kind: str, family: Family, model_class: type, **attributes: Any) -> type[unittest.TestCase]:
    """The tests of `model_class`."""
    own = {
        "test_can_init_all_missing_weights": missing_weights_test(family),
        # The same for releases from 5.23 on, which ask the test class.
        "test_can_init_all_missing_weights_before_2023": True,
    }
    if hasattr(ModelTesterMixin, "test_moe_models_record_router_logits"):
        own["test_moe_models_record_router_logits"] = router_logits_test(family)
    return case(kind, ModelTesterMixin, family, model_class, **{**attributes, **own})


def generation_case(kind: str, family: Family, model_class: type) -> type[unittest.TestCase]:
    """The tests of generation of `model_class`."""

    def prepare(test: Any, batch_size: int = 2) -> tuple[Any, dict[str, torch.Tensor]]:
        # transformers cuts every tensor to `batch_size`, also one that holds a row a patch.
        config, _ = GenerationTesterMixin.prepare_config_and_inputs_for_generate(test, batch_size)
        return config, test.model_tester.inputs_of(batch_size)

    own = {"all_generative_model_classes": (model_class,), "prepare_config_and_inputs_for_generate": prepare}
    return case(f"Generation{kind}", GenerationTesterMixin, family, model_class, **own)


def missing_weights_test(family: Family) -> Callable[[Any], None]:
    """The test of missing weights, which leaves out models whose configuration file has no licence of 2023 or later.

    It reads the year in the file of stock's configuration instead, so that it runs for a pruned class where it does
    for the stock class.
    """
    stock_file = inspect.getfile(family.stock_class.config_class)

    def run(test: Any) -> None:
        with mock.patch.object(inspect, "getfile", return_value=stock_file):
            ModelTesterMixin.test_can_init_all_missing_weights(test)

    return run


def router_logits_test(family: Family) -> Callable[[Any], None]:
    """The test of router logits, which looks for experts in the source of the class: in that of stock's."""

    def run(test: Any) -> None:
        with mock.patch.object(inspect, "getmodule", return_value=inspect.getmodule(family.stock_class)):
            ModelTesterMixin.test_moe_models_record_router_logits(test)

    return run


def cases(family: Family) -> list[type[unittest.TestCase]]:
    """The tests of the stock class and of the pruned class, and those of `OUTSIDE` of a subclass of the stock class."""
    # A test of stock leaves configurations out that no auto class knows.
    AutoModel.register(family.config_class, family.model_class, exist_ok=True)
    subclass = type(family.stock_class.__name__, (family.stock_class,), {"__module__": __name__})
    others = {name: None for name in dir(ModelTesterMixin) if name.startswith("test_") and name not in OUTSIDE}
    return [
        model_case("Stock", family, family.stock_class),
        model_case("Pruned", family, family.model_class),
        model_case("Subclass", family, subclass, **others),
        generation_case("Stock", family, family.stock_class),
        generation_case("Pruned", family, family.model_class),
    ]


globals().update({made.__name__: made for family in FAMILIES.values() for made in cases(family)})
