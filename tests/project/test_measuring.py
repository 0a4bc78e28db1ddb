"""What every measurement shares: how prompts are counted, and how a result says where it was measured."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import transformers
from small_checkpoints import make_llava_checkpoint

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.measuring import machine, prompt_lengths

TEXTS = ["Is there a dog?", "How many people are there in the image?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return Checkpoint.load(Path(make_llava_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llava"))).model


def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Prompts of words alone, padded on the left."""
    mask = torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])
    return {"input_ids": torch.full_like(mask, 5), "attention_mask": mask}


def test_prompts_are_counted_row_by_row_without_padding_and_decoding_steps(model) -> None:
    with prompt_lengths(model) as lengths:
        model.generate(**batch([3, 7]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
        model.generate(**batch([6]), max_new_tokens=2, do_sample=False)
    assert lengths == [3, 7, 6]
    model.generate(**batch([4]), max_new_tokens=1, do_sample=False)
    assert lengths == [3, 7, 6]


def test_prompts_of_other_threads_are_not_counted(model) -> None:
    with prompt_lengths(model) as lengths:
        other = threading.Thread(target=lambda: model.generate(**batch([5]), max_new_tokens=1, do_sample=False))
        other.start()
        other.join()
    assert lengths == []


def test_a_result_names_machine_and_versions() -> None:
    described = machine("transformers", "no-such-distribution")
    assert described["versions"]["torch"] == torch.__version__
    assert described["versions"]["transformers"] == transformers.__version__
    assert described["versions"]["no-such-distribution"] == "not installed"
    assert described["threads"] == torch.get_num_threads()
    assert described["processor"]
