"""`generate(custom_generate=...)` of a stock model equals the model class, and leaves the stock model as it is."""

from __future__ import annotations

import ast
import gc
import json
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hub_double import HubDouble
from model_cases import IMAGE_SIZE, Family
from published_models import ASK_TWICE, environment_of, hub_for_this_process
from small_checkpoints import make_llava_checkpoint
from transformers import AutoProcessor, LlavaForConditionalGeneration, pipeline

from mmtok import MMTokLlavaForConditionalGeneration
from mmtok.hub.families import FAMILIES
from mmtok.publish import push_generate, stage_generate
from mmtok.publish.clean_process import HIDDEN, run_clean
from mmtok.publish.recipe import Destination
from mmtok.publish.repository import GENERATE_FILE, generate_code

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "beams": {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
    "scores": {**GREEDY, "return_dict_in_generate": True, "output_scores": True},
    "sampling": {**GREEDY, "do_sample": True},
}
REPO = "org/mmtok"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(stage_generate(tmp_path_factory.mktemp("generate") / "mmtok_generate", check=False).path)


@pytest.fixture
def ours(folder: str) -> dict[str, Any]:
    return {"custom_generate": folder, "trust_remote_code": True, "vision_token_budget": 3}


@pytest.fixture
def without_collector() -> Iterator[None]:
    """No garbage collection: where it lets another thread run in the middle of parsing, Python 3.11.7 fails to parse.

    transformers parses the code of `custom_generate` in every call; python/cpython#106905.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def models(family: Family) -> tuple[Any, Any]:
    """A model of the MMTok class with a budget of 3, and a stock one with equal weights."""
    return family.models_of_own_classes(vision_token_budget=3)


def run(model: Any, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **settings})


@pytest.mark.parametrize("way", WAYS)
def test_it_equals_the_model_class_and_the_model_stays(family: Family, models: Any, ours: Any, way: str) -> None:
    expected, stock = models
    inputs = family.inputs(ROWS, expected)
    before, state, config = run(stock, inputs), set(vars(stock)), stock.config.to_dict()
    torch.manual_seed(0)
    wanted = expected.generate(**inputs, **WAYS[way])
    torch.manual_seed(0)
    found = stock.generate(**inputs, **WAYS[way], **ours)
    if way == "scores":
        assert all(map(torch.equal, found.scores, wanted.scores))
        found, wanted = found.sequences, wanted.sequences
    assert torch.equal(found, wanted)
    assert set(vars(stock)) == state
    assert type(stock) is family.stock_class
    assert stock.config.to_dict() == config
    assert torch.equal(run(stock, inputs), before)


@pytest.mark.parametrize("budget", [None, 10_000])
def test_the_full_budget_is_stock(family: Family, models: Any, ours: Any, budget: int | None) -> None:
    expected, stock = models
    inputs = family.inputs(ROWS, expected)
    assert torch.equal(run(stock, inputs, **{**ours, "vision_token_budget": budget}), run(stock, inputs))


def test_without_a_budget_it_is_that_of_the_family(family: Family, models: Any, ours: Any) -> None:
    expected, stock = models
    del ours["vision_token_budget"]
    inputs, default = family.inputs(ROWS, expected), family.config_class().vision_token_budget
    assert torch.equal(run(stock, inputs, **ours), run(expected, inputs, vision_token_budget=default))


def test_options_of_the_generation_configuration_count(family: Family, models: Any, ours: Any) -> None:
    expected, stock = models
    del ours["vision_token_budget"]
    stock.generation_config.vision_token_budget = 3
    inputs = family.inputs(ROWS, expected)
    assert torch.equal(run(stock, inputs, **ours), run(expected, inputs))


def test_a_model_that_prunes_is_taken_too(family: Family, models: Any, ours: Any) -> None:
    inputs = family.inputs(ROWS, models[0])
    wanted = run(models[0], inputs, vision_token_budget=2)
    assert torch.equal(run(models[0], inputs, **{**ours, "vision_token_budget": 2}), wanted)


@pytest.mark.usefixtures("without_collector")
def test_threads_with_budgets_of_their_own(family: Family, models: Any, ours: Any) -> None:
    if family.name == "llava_onevision" and transformers.__version__.startswith("4."):
        pytest.skip("In transformers 4.57 two threads of the stock LLaVA-OneVision get each other's vision features.")
    expected, stock = models
    if not family.encodes_images_apart(stock):
        pytest.skip("stock itself fails on calls that run together on this release")
    inputs = family.inputs(ROWS, expected)
    budgets = (1, 3, None if family.tells_calls_apart(stock) else 5)
    alone = [run(expected, inputs, vision_token_budget=budget) for budget in budgets] * 4
    calls = [{**ours, "vision_token_budget": budget} for budget in budgets] * 4
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda call: stock.generate(**inputs, **GREEDY, **call), calls))
    assert all(map(torch.equal, together, alone))


def test_nothing_is_kept_of_a_model(family: Family, ours: Any) -> None:
    expected, stock = family.models_of_own_classes()
    run(stock, family.inputs(ROWS, expected), **ours)
    gone = weakref.ref(stock)
    del stock
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_token_budget": 0}, "vision_token_budget is 0: give a number of tokens of at least 1"),
        ({"vision_tokens_budget": 4}, "vision_tokens_budget is not an argument: did you mean vision_token_budget"),
    ],
)
def test_a_bad_option_is_refused_by_its_own_sentence(
    family: Family, models: Any, ours: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(models[1], family.inputs(ROWS, models[0]), **{**ours, **options})


def test_another_class_is_refused(models: Any, ours: Any) -> None:
    class Mine(LlavaForConditionalGeneration):
        pass

    models[1].__class__ = Mine
    with pytest.raises(ValueError, match="is a Mine, which cannot be pruned: give a LlavaForConditionalGeneration"):
        models[1].generate(**ours)


def test_the_published_entry_names_every_published_file() -> None:
    """Since transformers before 5.10 copies no other."""
    files = generate_code()
    source = files[f"custom_generate/{GENERATE_FILE}"].decode()
    assert {f"custom_generate/{family.module}.py" for family in FAMILIES.values()} < set(files)
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.level == 1]
    named = {f"custom_generate/{node.module}.py" for node in imports}
    assert named == set(files) - {f"custom_generate/{GENERATE_FILE}"}


PROGRAM = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from PIL import Image
from transformers import pipeline

base, *sources = sys.argv[2:]
ask = pipeline("image-text-to-text", model=base)
answers = []
for source in sources:
    source, _, revision = source.partition("@")
    ours = {"custom_generate": source, "trust_remote_code": True, "vision_token_budget": 3}
    ours |= {"revision": revision} if revision else {}
    def ask(*args, ask=ask, generate_kwargs, **kwargs):
        return ask(*args, generate_kwargs={**generate_kwargs, **ours}, **kwargs)
    ASKED
    answers.append(single + batch)
print(json.dumps(answers))
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        yield serving


def test_a_clean_process_gets_the_answers_of_the_class_from_folder_and_hub(
    hub: HubDouble, folder: str, tmp_path: Path
) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    push_generate(Destination(REPO, tag="v1.0"), verify_after=False)
    program = PROGRAM.replace("    ASKED", "    " + ASK_TWICE.strip().replace("\n", "\n    "))
    blocked = json.dumps(HIDDEN)
    given = [
        "-c",
        program,
        blocked,
        str(base),
        folder,
        REPO,
        f"{REPO}@v1.0",
        f"{REPO}@{hub.store.repository(REPO).branches['main']}",
    ]
    ended = run_clean(given, environment=environment_of(hub, tmp_path / "home"), timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]

    # The class without the tables of the tokenizer, which `generate` does not see.
    model = MMTokLlavaForConditionalGeneration.from_pretrained(base, vision_token_budget=3)
    ask = pipeline("image-text-to-text", model=model, processor=AutoProcessor.from_pretrained(base))
    names: dict[str, Any] = {"ask": ask}
    exec("from PIL import Image\n" + ASK_TWICE, names)
    wanted = names["single"] + names["batch"]
    assert json.loads(ended.stdout.splitlines()[-1]) == [wanted] * 4


def test_the_question_is_read_as_a_staged_model_reads_it(folder: str, ours: Any, tmp_path: Path) -> None:
    from mmtok.publish import stage

    base = make_llava_checkpoint(tmp_path / "base")
    staged = stage(base, tmp_path / "staged", check=False).path
    expected = MMTokLlavaForConditionalGeneration.from_pretrained(staged, vision_token_budget=3)
    stock, processor = LlavaForConditionalGeneration.from_pretrained(base), AutoProcessor.from_pretrained(base)
    generator = torch.Generator().manual_seed(0)
    text = "USER: <image>\nIs there a snowboard in the image? ASSISTANT:"
    inputs = processor.tokenizer(text.replace("<image>", "<image>" * 16), return_tensors="pt")
    inputs["pixel_values"] = torch.randn(1, 3, 24, 24, generator=generator)
    assert torch.equal(run(stock, inputs, **ours), run(expected, inputs))
