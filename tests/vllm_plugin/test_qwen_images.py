"""What Qwen2.5-VL adds: positions in time, height and width, and unpruned requests, which stock vLLM answers alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm_engine import Case, Engine, noise, random_cases

pytestmark = pytest.mark.vllm

NAME = "qwen2_5_vl"
SQUARE = (48, 48)


def cases_of(engine: Engine, seed: int, count: int) -> list[Case]:
    return random_cases(seed, count, engine.model.layout.refused_options)


@pytest.mark.parametrize(
    ("requests", "options"),
    [(120, {}), (60, {"enable_prefix_caching": False}), (60, {"max_num_batched_tokens": 16})],
    ids=["plain", "no prefix cache", "prefill in chunks of 16 tokens"],
)
def test_every_request_gets_what_transformers_gives_where_the_runner_asks_for_positions(
    requests: int, options: dict[str, Any], folders: dict[str, Path]
) -> None:
    engine = Engine(folders[NAME], **options)
    _ask_for_positions(engine)
    assert engine.differences(cases_of(engine, 1 + requests, requests)) == []


def _ask_for_positions(engine: Engine) -> None:
    """Lets the runner ask as those of GPUs do: the code that asks is theirs, and the CPU's does not switch it on."""
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    assert runner.model_config.multimodal_config.is_multimodal_pruning_enabled()
    runner.is_multimodal_pruning_enabled = True


@pytest.mark.parametrize("asks", [False, True])
def test_positions_are_those_of_the_full_prompt(asks: bool, folders: dict[str, Path]) -> None:
    engine, seen = Engine(folders[NAME], max_num_batched_tokens=24), []
    if asks:
        _ask_for_positions(engine)
    inner = engine.model.language_model.model
    forward = inner.forward

    def noted(*arguments: Any, **named: Any) -> Any:
        seen.append(named["positions"].clone())
        return forward(*arguments, **named)

    inner.forward = noted
    case = Case("where is the dog ?", [noise((60, 30), 1), noise((30, 90), 2)], {"vision_token_budget": 7})
    new_tokens = 4
    [outcome] = engine.run([case], new_tokens)
    inputs = engine.processor(text=engine.prompt(case), images=[list(case.images)], return_tensors="pt")
    names = ("input_ids", "image_grid_thw", "mm_token_type_ids")
    full = engine.reference.model.get_rope_index(**{name: inputs[name] for name in names})[0][:, 0]
    kept = engine.reference.select_vision_tokens(**inputs, **case.options).kept_mask[0]
    behind = full.max() + 1 + torch.arange(new_tokens - 1).expand(3, -1)
    assert torch.equal(torch.cat(seen, dim=1), torch.cat((full[:, kept], behind), dim=1))
    assert (outcome.prompt_length, len(seen)) == (int(kept.sum()), -(-int(kept.sum()) // 24) + new_tokens - 1)


@pytest.mark.parametrize("asks", [False, True])
def test_requests_that_are_put_off_are_answered_alike(asks: bool, folders: dict[str, Path]) -> None:
    # Memory for 8 blocks of 128 tokens, and 10 requests that grow to two blocks each.
    engine = Engine(folders[NAME], kv_cache_memory_bytes=2**20, max_model_len=512, enable_prefix_caching=False)
    if asks:
        _ask_for_positions(engine)
    scheduler, put_off = engine.llm.llm_engine.engine_core.engine_core.scheduler, []
    preempt = scheduler._preempt_request

    def noted(*arguments: Any, **named: Any) -> Any:
        put_off.append(arguments)
        return preempt(*arguments, **named)

    scheduler._preempt_request = noted
    cases = [Case(f"is it {seed} dogs ?", [noise((60, 48), seed)], {"vision_token_budget": 20}) for seed in range(10)]
    answers = [outcome.tokens for outcome in engine.run(cases, new_tokens=150)]
    assert put_off
    assert answers == [engine.expected(case, new_tokens=150).tokens for case in cases]


@pytest.mark.parametrize("asks", [False, True])
def test_leaving_the_places_out_is_found(asks: bool, folders: dict[str, Path], monkeypatch: Any) -> None:
    from mmtok.vllm import qwen2_5_vl

    engine = Engine(folders[NAME])
    if asks:
        _ask_for_positions(engine)
    monkeypatch.setattr(qwen2_5_vl, "with_places", lambda tokens, row, column: qwen2_5_vl.without_places(tokens))
    cases = [Case(f"is it {seed} dogs ?", [noise((60, 48), seed)]) for seed in range(8)]
    assert len(engine.differences(cases)) > 4


def test_requests_without_a_budget_get_what_stock_vllm_gives(folders: dict[str, Path]) -> None:
    from vllm import LLM

    engine = Engine(folders[NAME])
    stock = LLM(
        model=str(folders[f"stock-{NAME}"]),
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        kv_cache_memory_bytes=2**26,
    )
    video = np.stack([np.asarray(noise((30, 42), seed)) for seed in range(4)])
    clip = (video, {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]})
    vision = {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    }
    prompts: list[dict[str, Any]] = [
        {"image": [noise(SQUARE, 1)]},
        {"image": [noise((60, 30), 2), noise((30, 90), 3)]},
        {"video": [clip]},
        {"image": [noise(SQUARE, 1)], "video": [clip]},
        {},
    ]
    requests = [
        {
            "prompt": "user\n" + "".join(vision[kind] * len(items) for kind, items in data.items()) + text,
            **({"multi_modal_data": data} if data else {}),
        }
        for data in prompts
        for text in ("Is there a dog?", "Read it.", "")
    ][:-1]
    expected = _answers(stock, engine.no_text, requests)
    for asks in (False, True):
        if asks:
            _ask_for_positions(engine)
        unpruned = [{**request, "mm_processor_kwargs": {"vision_token_budget": None}} for request in requests]
        assert _answers(engine.llm, engine.no_text, unpruned) == expected


def _answers(llm: Any, no_text: list[int], requests: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0, max_tokens=6, logit_bias=dict.fromkeys(no_text, -100.0))
    outputs = llm.generate(requests, parameters, use_tqdm=False)
    return [(list(output.prompt_token_ids), list(output.outputs[0].token_ids)) for output in outputs]


def test_only_images_without_a_budget_are_shared_between_questions(folders: dict[str, Path]) -> None:
    engine, image = Engine(folders[NAME]), noise(SQUARE, 1)

    def key(question: str, budget: int | None) -> str:
        [found] = engine._processed(Case(question, [image], {"vision_token_budget": budget}))["mm_hashes"]["image"]
        return found

    assert key("dog", None) == key("circle", None)
    assert len({key("dog", None), key("dog", 4), key("circle", 4), key("dog", 5)}) == 4


def test_the_tower_gets_no_more_patches_than_vllm_measured(folders: dict[str, Path]) -> None:
    engine = Engine(folders[NAME], max_num_batched_tokens=256, max_num_seqs=64)
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    most = 64 * 4  # patches of the largest image of the checkpoint
    # vLLM measures with a video, which has more tokens.
    assert engine.model.crops_at_once == 256 // 64 * most <= runner.mm_budget.mm_max_items_per_batch["image"] * most
    patches: list[int] = []
    encoded = engine.model._encoded

    def noted(pixels: Any, sizes: Any) -> Any:
        patches.append(sum(map(len, pixels)))
        return encoded(pixels, sizes)

    engine.model._encoded = noted
    cases = [Case("dog", [noise(SQUARE, seed)], {"vision_token_budget": 1}) for seed in range(40)]
    assert engine.differences(cases, together=40) == []
    assert sum(patches) == 40 * most
    assert max(patches) <= engine.model.crops_at_once


def test_the_profiling_run_shares_no_features(folders: dict[str, Path]) -> None:
    engine = Engine(folders[NAME])
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    outputs = engine.model.embed_multimodal(**runner._get_mm_dummy_batch("image", 3))
    assert [tuple(output.shape) for output in outputs] == [(4, 128 + 4)] * 3
    assert (engine.tower_crops, len(engine.model.features)) == ([3], 0)


def test_refusals_are_sentences_and_leave_the_engine_alone(folders: dict[str, Path]) -> None:
    engine, good = Engine(folders[NAME]), Case("dog", [noise(SQUARE, 1)])
    refused = {
        r"vision_token_budget is 0: give": {"vision_token_budget": 0},
        r"coverage_target is 0\.5: vLLM plans": {"coverage_target": 0.5},
        r"exclude_padding is True, which means nothing for mmtok_qwen2_5_vl": {"exclude_padding": True},
        r"keep_image_newline is True, which means nothing": {"keep_image_newline": True},
        r"select_before_unpadding is True, which means nothing": {"select_before_unpadding": True},
        r"An image has 17424 vision tokens, and at most 16384 can be chosen from": {
            "min_pixels": 792**2,
            "max_pixels": 792**2,
        },
    }
    for sentence, options in refused.items():
        with pytest.raises(ValueError, match=sentence):
            engine.run([Case("dog", [noise(SQUARE, 2)], options)])
        assert engine.differences([good]) == []


def test_a_prompt_that_ends_with_an_image_is_refused_unless_pruning_is_off(folders: dict[str, Path]) -> None:
    engine = Engine(folders[NAME])
    request: dict[str, Any] = {
        "prompt": "user\n<|vision_start|><|image_pad|>",
        "multi_modal_data": {"image": noise(SQUARE, 1)},
    }
    with pytest.raises(ValueError, match=r"The prompt ends with an image: .* vision_token_budget=4"):
        _answers(engine.llm, engine.no_text, [request])
    request["mm_processor_kwargs"] = {"vision_token_budget": None}
    [(prompt, _)] = _answers(engine.llm, engine.no_text, [request])
    assert prompt.count(engine.reference.config.image_token_id) == 64


def test_image_embeds_are_refused_unless_pruning_is_off(folders: dict[str, Path]) -> None:
    engine, image = Engine(folders[NAME], enable_mm_embeds=True), noise(SQUARE, 1)
    inputs = engine.processor.image_processor([[image]], return_tensors="pt")
    features = engine.reference.get_image_features(**inputs).pooler_output[0].detach()
    request: dict[str, Any] = {"prompt": engine.prompt(Case("dog", [image]))}
    embeds = {"image_embeds": features, "image_grid_thw": inputs["image_grid_thw"]}
    with pytest.raises(ValueError, match="image_embeds cannot be pruned to vision_token_budget=4"):
        _answers(engine.llm, engine.no_text, [{**request, "multi_modal_data": {"image": embeds}}])
    request["mm_processor_kwargs"] = {"vision_token_budget": None}
    both = [{**request, "multi_modal_data": {"image": given}} for given in (embeds, image)]
    one, other = _answers(engine.llm, engine.no_text, both)
    assert one == other


@pytest.mark.parametrize(
    ("sentence", "multimodal", "others"),
    [
        (r"video_pruning_rate is 0\.5: MMTok reads the videos", {"video_pruning_rate": 0.5}, {}),
        (r"mm_encoder_tp_mode is 'data': MMTok selects", {"mm_encoder_tp_mode": "data"}, {}),
        (r"pipeline_parallel_size is 2: vLLM puts the positions", {}, {"stages": 2}),
        (r"speculative_config is given: vLLM hands the tokens", {}, {"speculative": SimpleNamespace(method="eagle")}),
    ],
)
def test_modes_that_would_go_wrong_end_start_up(
    sentence: str, multimodal: dict[str, Any], others: dict[str, Any]
) -> None:
    from mmtok.vllm.qwen2_5_vl import MMTokQwen2_5_VLForConditionalGeneration

    given = {"video_pruning_rate": None, "mm_encoder_tp_mode": "weights", **multimodal}
    config = SimpleNamespace(
        model_config=SimpleNamespace(multimodal_config=SimpleNamespace(**given)),
        parallel_config=SimpleNamespace(pipeline_parallel_size=others.get("stages", 1)),
        speculative_config=others.get("speculative"),
    )
    with pytest.raises(ValueError, match=sentence):
        MMTokQwen2_5_VLForConditionalGeneration(vllm_config=config)


def test_graphs_that_leave_forward_out_are_refused_where_the_runner_does_not_ask(folders: dict[str, Path]) -> None:
    engine = Engine(folders[NAME])
    engine.model.has_full_graphs = True
    with pytest.raises(RuntimeError, match="vLLM did not ask for the positions of kept tokens"):
        engine.run([Case("dog", [noise(SQUARE, 1)])])
