"""Videos, of the families that read them: in full with pruning off, refused with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from model_cases import FAMILIES, IMAGE, IMAGE_SIZE, VIDEO, VISION_END, VISION_START


def onevision_video() -> dict[str, torch.Tensor]:
    """Three frames of 2 x 2 pooled tokens and a separator."""
    ids = torch.tensor([[5, 6, *[VIDEO] * (3 * 4 + 1), 7]])
    frames = torch.randn(1, 3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": frames}


def qwen_video() -> dict[str, torch.Tensor]:
    """Two frames of 2 x 2 tokens."""
    ids = torch.tensor([[5, 6, VISION_START, *[VIDEO] * 8, VISION_END, 7]])
    patches = torch.randn(2 * 16, 54, generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "pixel_values_videos": patches, "video_grid_thw": torch.tensor([[2, 4, 4]])}
    typed = "mm_token_type_ids" in FAMILIES["qwen2_5_vl"].inputs([[3]], None)
    return inputs | ({"mm_token_type_ids": 2 * (ids == VIDEO).int()} if typed else {})


@pytest.mark.parametrize(("family", "video"), [("llava_onevision", onevision_video), ("qwen2_5_vl", qwen_video)])
def test_a_video_is_read_in_full_or_refused(family: str, video: Callable[[], dict[str, torch.Tensor]]) -> None:
    model, stock = FAMILIES[family].models()
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match="only images can be pruned: give the frames as images"):
            call(**video())
    with torch.no_grad():
        assert torch.equal(model(**video(), vision_token_budget=None).logits, stock(**video()).logits)
    settings = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
    expected = stock.generate(**video(), **settings)
    assert torch.equal(model.generate(**video(), vision_token_budget=None, **settings), expected)
