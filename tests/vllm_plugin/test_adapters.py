"""LoRA adapters of the language model: each request gets the answer of the model with its adapter merged."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from model_runner_v2 import is_wanted
from peft import LoraConfig, PeftModel, get_peft_model
from vllm_engine import Engine, random_cases

pytestmark = pytest.mark.vllm

TARGETS = {
    "attention": r".*language_model.*\.(q_proj|v_proj|o_proj)",
    "perceptron": r".*language_model.*\.(gate_proj|up_proj|down_proj)",
}


@pytest.mark.parametrize("name", ["llava", "next-mistral", "qwen2_5_vl"])
def test_every_request_gets_the_answer_of_its_adapter(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from vllm.lora.request import LoRARequest

    engine = Engine(folders[name], enable_lora=True, max_lora_rank=8, max_loras=2)
    plain, models, adapters = engine.reference, [], []
    for number, (adapter, target) in enumerate(TARGETS.items(), start=1):
        torch.manual_seed(number)
        folder = str(tmp_path / adapter)
        # The second factors are not zero, so that answers change.
        settings = LoraConfig(r=8, lora_alpha=64, target_modules=target, init_lora_weights=False)
        get_peft_model(deepcopy(plain), settings).save_pretrained(folder)
        models.append(PeftModel.from_pretrained(deepcopy(plain), folder).merge_and_unload())
        adapters.append(LoRARequest(adapter, number, folder))
    cases = random_cases(11, 8 if is_wanted() else 40, engine.reference.own_options)
    # Requests without an adapter in a run of their own: beside one that has one, vLLM's CPU build gives them the last
    # adapter (vllm-project/vllm#48421).
    assert engine.differences(cases) == []
    got = engine.run(cases, adapters=[adapters[index % 2] for index in range(len(cases))])
    for index, (case, outcome) in enumerate(zip(cases, got, strict=True)):
        engine.reference = models[index % 2]
        assert outcome == engine.expected(case), (case, index % 2)
    assert got != engine.run(cases)
