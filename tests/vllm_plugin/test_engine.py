"""What the plugin saves and what it bounds: runs of the vision tower, bytes of features, crops at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_engine import Case, Engine, noise, random_cases

pytestmark = pytest.mark.vllm

SQUARE = (48, 48)


@pytest.mark.parametrize("name", ["next", "onevision", "qwen2_5_vl", "qwen3_vl"])
def test_questions_about_one_image_run_the_tower_once(name: str, folders: dict[str, Path]) -> None:
    engine, image = Engine(folders[name]), noise(SQUARE, 1)
    budgets = (4, 2, None, 4, 0.5)
    cases = [
        Case(f"is it {index} dogs ?", [image], {"vision_token_budget": budget}) for index, budget in enumerate(budgets)
    ]
    assert engine.differences(cases, together=1) == []
    assert engine.tower_crops == [engine.model.geometry.crops(SQUARE)]


def test_features_of_evicted_images_are_computed_again(folders: dict[str, Path]) -> None:
    one = 16 * 32 * 4  # bytes of an image: tokens, features before the projector, float32
    engine = Engine(folders["llava"], additional_config={"mmtok_feature_cache_gib": 2 * one / 2**30})
    images = [noise(SQUARE, seed) for seed in range(3)]
    cases = [Case(f"where is {turn} ?", [images[index]]) for turn, index in enumerate((0, 1, 0, 2, 0, 1))]
    assert engine.differences(cases, together=1) == []
    assert engine.tower_crops == [1, 1, 1, 1]  # the second image went when the third came
    assert (engine.model.features.bytes, len(engine.model.features)) == (2 * one, 2)


def test_an_image_alone_and_among_others_are_two_to_onevision(folders: dict[str, Path]) -> None:
    engine, images = Engine(folders["onevision"]), [noise(SQUARE, seed) for seed in range(3)]
    prompts = [[0], [0, 1], [1], [1, 0], [2, 0], [2, 1]]
    for budget in (None, 4):
        cases = [Case("dog", [images[index] for index in each], {"vision_token_budget": budget}) for each in prompts]
        assert engine.differences(cases, together=1) == []
    alone = engine.model.geometry.crops(SQUARE)
    assert engine.tower_crops == [alone, 2, alone, 1]


@pytest.mark.parametrize("name", ["llava", "next", "onevision"])
def test_the_tower_gets_no_more_crops_than_vllm_measured(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name], max_num_batched_tokens=256, max_num_seqs=64)
    geometry, bound = engine.model.geometry, engine.model.crops_at_once
    assert bound == engine.budget().mm_max_items_per_batch["image"] * geometry.crops(geometry.largest_image)
    came: list[int] = []
    embed = engine.model.embed_multimodal

    def noted(**kwargs: Any) -> Any:
        came.append(sum(len(each) if each.dim() == 4 else 1 for each in kwargs["pixel_values"]))
        return embed(**kwargs)

    engine.model.embed_multimodal = noted
    cases = [
        Case("dog", [noise(SQUARE, seed + 100 * n) for n in range(1 + (seed % 3 > 0))], {"vision_token_budget": 1})
        for seed in range(36)
    ]
    assert engine.differences(cases, together=40) == []
    assert max(came) > bound >= max(engine.tower_crops)


def test_new_weights_forget_the_features_of_the_old(folders: dict[str, Path]) -> None:
    engine = Engine(folders["llava"])
    engine.run([Case("dog", [noise(SQUARE, 1)])])
    assert len(engine.model.features) == 1
    engine.model.load_weights([])
    assert len(engine.model.features) == 0


def test_the_profiling_run_shares_no_features(folders: dict[str, Path]) -> None:
    engine = Engine(folders["llava"])
    outputs = engine.embed_dummies("image", 3)
    assert engine.tower_crops == [3]
    assert [len(output) for output in outputs] == [4, 4, 4]
    assert len(engine.model.features) == 0


@pytest.mark.parametrize(
    ("name", "mode"), [("llava", torch.no_grad), ("llava", torch.inference_mode), ("qwen3_vl", torch.no_grad)]
)
def test_weights_replaced_past_load_weights_forget_the_features_of_the_old(
    name: str, mode: Any, folders: dict[str, Path]
) -> None:
    engine, image = Engine(folders[name]), noise(SQUARE, 1)
    assert engine.differences([Case("dog", [image])]) == []
    tower = engine.model.visual if name == "qwen3_vl" else engine.model.vision_tower
    prefix = "visual" if name == "qwen3_vl" else "vision_tower"
    replaced = [(f"{prefix}.{own}", weight * 2) for own, weight in tower.named_parameters()]
    with mode():
        engine.worker.reload_weights(weights_iterator=replaced, is_checkpoint_format=False)
    engine.llm.reset_prefix_cache()
    before = len(engine.tower_crops)
    [new] = engine.run([Case("red star", [image])])
    assert (len(engine.tower_crops), len(engine.model.features)) == (before + 1, 1)
    # The reference has the old tower: what it keeps is not kept any more.
    assert new.kept != engine.expected(Case("red star", [image])).kept


def test_no_features_are_cached_where_weights_may_be_written_past_pytorch(folders: dict[str, Path]) -> None:
    engine = Engine(folders["llava"], weight_transfer_config={"backend": "ipc"})
    assert engine.differences([Case(text, [noise(SQUARE, 1)]) for text in ("dog", "red star")], together=1) == []
    assert (engine.tower_crops, len(engine.model.features)) == ([1, 1], 0)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("mm_encoder_only is True: MMTok selects by the embeddings of the text", {"mm_encoder_only": True}),
        (
            "cudagraph_mm_encoder is True: a CUDA graph of the vision tower takes the place",
            {"compilation_config": {"cudagraph_mm_encoder": True}},
        ),
    ],
)
def test_modes_without_a_selection_end_start_up(
    name: str, sentence: str, options: dict[str, Any], folders: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Engine(folders[name], **options)


@pytest.mark.parametrize("name", ["llava", "onevision", "qwen2_5_vl"])
def test_pixels_without_their_request_are_an_error(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name])
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        with pytest.raises(RuntimeError, match=f"{pixels} came without mmtok_.*request: MMTok's processor did not"):
            engine.model.embed_multimodal(**{pixels: torch.zeros(1), f"{kind}_grid_thw": torch.ones(1, 3)})


@pytest.mark.parametrize("name", ["llava", "onevision", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "options", [{"text_coverage_weight": 0.0}, {"covered_text": "Is there a dog?"}, {"vision_token_budget": None}]
)
def test_requests_whose_selection_reads_no_question_share_their_prefix(
    name: str, options: dict[str, Any], folders: dict[str, Path]
) -> None:
    engine, images = Engine(folders[name], block_size=32), [noise((60, 48), seed) for seed in (1, 2)]
    cases = [Case(text, images, {"vision_token_budget": 16, **options}) for text in ("dog", "where is the star ?")]
    assert len({engine.processed_prompt(case)["mm_hashes"]["image"][0] for case in cases}) == 1
    outcomes = [engine.run([case])[0] for case in cases]
    assert engine.cached_tokens >= 32
    if "covered_text" not in options:
        assert outcomes == [engine.expected(case) for case in cases]
    else:
        # What stays is what the transformers model keeps for a question of that text.
        asked = Case(options["covered_text"], images, {"vision_token_budget": 16})
        assert [outcome.kept for outcome in outcomes] == [engine.expected(asked).kept] * 2
    own = [Case(case.question, images, {"vision_token_budget": 16}) for case in cases]
    assert len({engine.processed_prompt(case)["mm_hashes"]["image"][0] for case in own}) == 2


def test_a_covered_text_of_the_engine_counts_where_a_request_has_none(folders: dict[str, Path]) -> None:
    engine, image = Engine(folders["llava"], mm_processor_kwargs={"covered_text": "red star"}), noise(SQUARE, 1)
    [shared, own] = engine.run([Case("dog", [image], options) for options in ({}, {"covered_text": None})])
    assert shared.kept == engine.expected(Case("red star", [image])).kept
    assert own == engine.expected(Case("dog", [image]))


@pytest.mark.parametrize("name", ["next", "onevision"])
def test_refusals_are_sentences_and_leave_the_engine_alone(name: str, folders: dict[str, Path]) -> None:
    engine, good = Engine(folders[name]), Case("dog", [noise(SQUARE, 1)])
    refused = {
        r"vision_token_budget is 0: give": {"vision_token_budget": 0},
        r"coverage_target is 0\.5: vLLM plans": {"coverage_target": 0.5},
        r"'vision_token_budgett', which is not an option: did you mean 'vision_token_budget'": {
            "vision_token_budgett": 4
        },
        r"padding is 'include': vLLM hands out": {"padding": "include"},
        r"covered_text is 3: give a text with words in it": {"covered_text": 3},
        r"'covered_txt', which is not an option: did you mean 'covered_text'": {"covered_txt": "dog"},
        r"pixel_values contains (nan|inf|-inf): check": {"image_std": [0.0, 0.0, 0.0]},
    }
    for sentence, options in refused.items():
        with pytest.raises(ValueError, match=sentence):
            engine.run([Case("dog", [noise(SQUARE, 2)], options)])
        assert engine.differences([good]) == []


def test_image_embeds_are_refused_unless_pruning_is_off(folders: dict[str, Path]) -> None:
    from vllm import SamplingParams

    engine = Engine(folders["llava"], enable_mm_embeds=True)
    request: dict[str, Any] = {
        "prompt": engine.prompt(Case("dog", [noise(SQUARE, 1)])),
        "multi_modal_data": {"image": torch.randn(1, 16, 128)},
    }
    with pytest.raises(ValueError, match="image_embeds cannot be pruned to vision_token_budget=4"):
        engine.llm.generate([request], SamplingParams(max_tokens=1), use_tqdm=False)
    request["mm_processor_kwargs"] = {"vision_token_budget": None}
    [output] = engine.llm.generate([request], SamplingParams(max_tokens=1), use_tqdm=False)
    assert output.prompt_token_ids.count(engine.reference.config.image_token_id) == 16


def test_options_of_the_engine_count_where_a_request_has_none(folders: dict[str, Path]) -> None:
    image = noise(SQUARE, 1)
    engine = Engine(
        folders["llava"], hf_overrides={"text_temperature": 1.0}, mm_processor_kwargs={"vision_token_budget": 2}
    )
    for given, counts in (({}, 2), ({"vision_token_budget": 8}, 8)):
        case = Case("where is the dog ?", [image], {"text_temperature": 1.0, "vision_token_budget": counts})
        [got] = engine.run([Case(case.question, [image], given)])
        assert got.prompt_length == engine.expected(case).prompt_length
        assert got.tokens == engine.expected(case).tokens


@pytest.mark.parametrize("name", ["llava", "next", "onevision", "qwen2_5_vl"])
def test_bfloat16_keeps_as_many_tokens_and_nearly_the_same(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name], dtype="bfloat16")
    cases = [case for case in random_cases(5, 60, engine.reference.own_options) if case.images]
    got, wanted = engine.run(cases), [engine.expected(case) for case in cases]
    assert [outcome.prompt_length for outcome in got] == [outcome.prompt_length for outcome in wanted]
    pairs = [
        (set(kept), set(other))
        for one, two in zip(got, wanted, strict=True)
        for kept, other in zip(one.kept, two.kept, strict=True)
    ]
    assert all(len(kept) == len(other) for kept, other in pairs)
    shared = sum(len(kept & other) for kept, other in pairs) / sum(len(kept) for kept, _ in pairs)
    print(f"bfloat16, {name}: {shared:.1%} of the kept tokens are the same")
    assert shared > 0.9
