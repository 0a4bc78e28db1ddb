"""What Qwen-VL adds: positions in time, height and width, and unpruned requests, which stock vLLM answers alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_runner_v2 import is_wanted
from vllm_engine import Case, Engine, noise, random_cases, random_video_cases, random_videos

pytestmark = pytest.mark.vllm

SQUARE = (48, 48)
STRAY = "<|video_pad|>"
# vLLM has their layers on the CPU in bfloat16 alone, which makes NaN of this tower in Triton's interpreter.
RECURRENT = () if is_wanted() else ("qwen3_5", "qwen3_5_moe")
with_recurrent = pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", *RECURRENT])


def dtype_of(name: str) -> str:
    return "bfloat16" if name in RECURRENT else "float32"


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def name(request: pytest.FixtureRequest) -> str:
    """Folder of a model."""
    return request.param


def cases_of(engine: Engine, seed: int, count: int) -> list[Case]:
    return random_cases(seed, count, engine.reference.own_options)


@pytest.mark.parametrize(
    "options",
    [{}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 16}],
    ids=["plain", "no prefix cache", "prefill in chunks of 16 tokens"],
)
def test_every_request_gets_what_transformers_gives_where_the_runner_asks_for_positions(
    name: str, options: dict[str, Any], folders: dict[str, Path]
) -> None:
    engine = Engine(folders[name], **options)
    _ask_for_positions(engine)
    requests = 6 if is_wanted() else 60
    assert engine.differences(cases_of(engine, len(options), requests)) == []
    assert engine.differences(random_video_cases(len(options), requests // 2)) == []


def _ask_for_positions(engine: Engine) -> None:
    """Lets the runner ask as those of GPUs do: the code that asks is theirs, and the CPU's does not switch it on."""
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    assert runner.model_config.multimodal_config.is_multimodal_pruning_enabled()
    runner.is_multimodal_pruning_enabled = True  # runner 2 does not read it


@with_recurrent
def test_positions_are_those_of_the_full_prompt(name: str, asks: bool, folders: dict[str, Path]) -> None:
    engine, seen = Engine(folders[name], dtype=dtype_of(name), max_num_batched_tokens=24), []
    if asks:
        _ask_for_positions(engine)
    inner = engine.model.language_model.model
    forward = inner.forward

    def noted(*arguments: Any, **named: Any) -> Any:
        seen.append(named["positions"].clone())
        return forward(*arguments, **named)

    inner.forward = noted
    images, videos = [noise((60, 30), 1), noise((30, 90), 2)], random_videos(2, 1)
    case = Case("where is the dog ?", images, {"vision_token_budget": 7}, videos=videos)
    new_tokens = 4
    [outcome] = engine.run([case], new_tokens)
    inputs = engine.inputs(case)
    names = ("input_ids", "image_grid_thw", "video_grid_thw", "mm_token_type_ids", "second_per_grid_ts")
    full = engine.reference.model.get_rope_index(**{each: inputs[each] for each in names if each in inputs})[0][:, 0]
    kept = engine.reference.select_vision_tokens(**inputs, **case.options).kept_mask[0]
    behind = full.max() + 1 + torch.arange(new_tokens - 1).expand(3, -1)
    assert torch.equal(torch.cat(seen, dim=1), torch.cat((full[:, kept], behind), dim=1))
    assert (outcome.prompt_length, len(seen)) == (int(kept.sum()), -(-int(kept.sum()) // 24) + new_tokens - 1)


def test_requests_that_are_put_off_are_answered_alike(name: str, asks: bool, folders: dict[str, Path]) -> None:
    # Memory for 8 blocks of 128 tokens, and 10 requests that grow to two blocks each.
    engine = Engine(folders[name], kv_cache_memory_bytes=2**20, max_model_len=512, enable_prefix_caching=False)
    if asks:
        _ask_for_positions(engine)
    put_off = engine.count_preemptions()
    cases = [Case(f"is it {seed} dogs ?", [noise((60, 48), seed)], {"vision_token_budget": 20}) for seed in range(10)]
    answers = [outcome.tokens for outcome in engine.run(cases, new_tokens=150)]
    assert put_off
    assert answers == [engine.expected(case, new_tokens=150).tokens for case in cases]


def test_leaving_the_places_out_is_found(name: str, asks: bool, folders: dict[str, Path], monkeypatch: Any) -> None:
    from mmtok.vllm import qwen_vl

    engine = Engine(folders[name])
    if asks:
        _ask_for_positions(engine)
    monkeypatch.setattr(qwen_vl, "with_places", lambda tokens, row, column: qwen_vl.without_places(tokens))
    cases = [Case(f"is it {seed} dogs ?", [noise((60, 48), seed)]) for seed in range(8)]
    assert len(engine.differences(cases)) > 2


def test_leaving_deepstack_out_is_found(folders: dict[str, Path], monkeypatch: Any) -> None:
    from mmtok.vllm import qwen_vl

    engine, with_places = Engine(folders["qwen3_vl"]), qwen_vl.with_places
    hidden = engine.model.config.vision_config.out_hidden_size

    def without_deepstack(tokens: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return with_places(torch.cat((tokens[:, :hidden], tokens[:, hidden:] * 0), dim=1), row, column)

    monkeypatch.setattr(qwen_vl, "with_places", without_deepstack)
    assert len(engine.differences([Case(f"is it {seed} dogs ?", [noise((60, 48), seed)]) for seed in range(8)])) > 2


@with_recurrent
def test_requests_without_a_budget_get_what_stock_vllm_gives(name: str, folders: dict[str, Path]) -> None:
    from vllm import LLM

    engine = Engine(folders[name], dtype=dtype_of(name))
    stock = LLM(
        model=str(folders[f"stock-{name}"]),
        dtype=dtype_of(name),
        enforce_eager=True,
        max_model_len=1024,
        kv_cache_memory_bytes=2**26,
    )
    [clip] = random_videos(1, 1)
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
    states = [llm.llm_engine.vllm_config.cache_config.mamba_ssm_cache_dtype for llm in (engine.llm, stock)]
    # Since 0.33 vLLM names a type also where there is no state.
    assert states[0] == states[1]
    assert states[0] == "float32" or name not in RECURRENT
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


def test_only_images_without_a_budget_are_shared_between_questions(name: str, folders: dict[str, Path]) -> None:
    engine, image = Engine(folders[name]), noise(SQUARE, 1)

    def key(question: str, budget: int | None) -> str:
        [found] = engine.processed_prompt(Case(question, [image], {"vision_token_budget": budget}))["mm_hashes"][
            "image"
        ]
        return found

    assert key("dog", None) == key("circle", None)
    assert len({key("dog", None), key("dog", 4), key("circle", 4), key("dog", 5)}) == 4


def test_the_tower_gets_no_more_patches_than_vllm_measured(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name], max_num_batched_tokens=256, max_num_seqs=64)
    most = 64 * 4  # patches of the largest image of the checkpoint
    # vLLM measures with a video, which has more tokens.
    assert engine.model.crops_at_once == 256 // 64 * most <= engine.budget().mm_max_items_per_batch["image"] * most
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


def test_the_profiling_run_shares_no_features(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name])
    outputs = engine.embed_dummies("image", 3)
    assert [tuple(output.shape) for output in outputs] == [(4, engine.model.token_width + 4)] * 3
    assert (engine.tower_crops, len(engine.model.features)) == ([3], 0)


def test_refusals_are_sentences_and_leave_the_engine_alone(name: str, folders: dict[str, Path]) -> None:
    engine, good = Engine(folders[name]), Case("dog", [noise(SQUARE, 1)])
    refused = {
        r"vision_token_budget is 0: give": {"vision_token_budget": 0},
        r"coverage_target is 0\.5: vLLM plans": {"coverage_target": 0.5},
        r"padding is 'exclude', which means nothing for mmtok_qwen": {"padding": "exclude"},
        r"padding is 'include', which means nothing": {"padding": "include"},
        r"An image has 17424 vision tokens, and at most 16384 can be chosen from": {
            "min_pixels": 792**2,
            "max_pixels": 792**2,
        },
    }
    for sentence, options in refused.items():
        with pytest.raises(ValueError, match=sentence):
            engine.run([Case("dog", [noise(SQUARE, 2)], options)])
        assert engine.differences([good]) == []


def test_a_prompt_that_ends_with_an_image_is_refused_unless_pruning_is_off(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name])
    request: dict[str, Any] = {
        "prompt": "user\n<|vision_start|><|image_pad|>",
        "multi_modal_data": {"image": noise(SQUARE, 1)},
    }
    with pytest.raises(ValueError, match=r"The prompt ends with an image: .* vision_token_budget=4"):
        _answers(engine.llm, engine.no_text, [request])
    request["mm_processor_kwargs"] = {"vision_token_budget": None}
    [(prompt, _)] = _answers(engine.llm, engine.no_text, [request])
    assert prompt.count(engine.reference.config.image_token_id) == 64


def test_image_embeds_are_refused_unless_pruning_is_off(name: str, folders: dict[str, Path]) -> None:
    engine, image = Engine(folders[name], enable_mm_embeds=True), noise(SQUARE, 1)
    inputs = engine.processor.image_processor([[image]], return_tensors="pt")
    outputs = engine.reference.get_image_features(**inputs)
    levels = [level[0] for level in getattr(outputs, "deepstack_features", None) or ()]
    features = torch.cat([outputs.pooler_output[0], *levels], dim=1).detach()
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
        (r"video_pruning_rate is 0\.5: MMTok prunes videos itself", {"video_pruning_rate": 0.5}, {}),
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


def test_graphs_that_leave_forward_out_are_refused_where_the_runner_does_not_ask(
    name: str, folders: dict[str, Path]
) -> None:
    engine = Engine(folders[name])
    engine.model.has_full_graphs = True
    if is_wanted():
        assert engine.differences([Case("dog", [noise(SQUARE, 1)])]) == []
        return
    with pytest.raises(RuntimeError, match="vLLM did not ask for the positions of kept tokens"):
        engine.run([Case("dog", [noise(SQUARE, 1)])])


@pytest.mark.parametrize("question", [f"{STRAY} dog", "<|image_pad|> dog"])
def test_marks_of_images_in_the_text_are_refused_unless_pruning_is_off(
    name: str, question: str, folders: dict[str, Path]
) -> None:
    engine, image = Engine(folders[name]), noise(SQUARE, 1)
    before, good = f"user\n{question} ", "<|vision_start|><|image_pad|><|vision_end|>where is it ?"
    request: dict[str, Any] = {"prompt": before + good, "multi_modal_data": {"image": image}}
    for _ in range(2):  # also where the processor's cache has the image
        with pytest.raises(ValueError, match=r"The text has 1 of the tokens that stand for images and videos"):
            _answers(engine.llm, engine.no_text, [request])
        _answers(engine.llm, engine.no_text, [{**request, "prompt": good}])
    if question.startswith(STRAY):
        unpruned = [{**request, "mm_processor_kwargs": {"vision_token_budget": None}}]
        assert len(_answers(engine.llm, engine.no_text, unpruned)) == 1


def test_positions_that_pass_the_models_are_refused(name: str, folders: dict[str, Path]) -> None:
    engine = Engine(folders[name], limit_mm_per_prompt={"image": 40, "video": 1})
    most = 4 * engine.reference.config.get_text_config().max_position_embeddings
    larger = {"vision_token_budget": 1, "max_pixels": 2400 * 24, "min_pixels": 2400 * 24}
    images = [noise((2400, 24), seed) for seed in range(2)]
    for _ in range(2):  # also where the processor's cache has the images
        with pytest.raises(ValueError, match=rf"take positions up to \d{{4,5}}, and the model has {most}"):
            engine.run([Case("dog", images * 20, larger)])
        assert len(engine.run([Case("dog", images, larger)])) == 1
