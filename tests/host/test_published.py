"""A published model as its users have it: clean processes, an empty cache, no mmtok, with a Hub and without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_double import HubDouble
from published_models import BASE, TARGET, environment_of, hub_for_this_process, upload_folder
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

from mmtok.publish import stage
from mmtok.publish.clean_process import run_clean
from mmtok.publish.push import prepare, publish
from mmtok.publish.recipe import Destination, Recipe
from mmtok.publish.repository import HANDLER_FILE

NEXT_BASE, NEXT_TARGET = "llava-hf/small-llava-next", "org/llava-next-mmtok"
PROGRAM = str(Path(__file__).parents[1].joinpath("support", "published_use.py"))
TUNED = TARGET + "-tuned"
OPTIONS = {"vision_token_budget": 4}


@dataclass
class Published:
    """Both families on a Hub and staged in folders."""

    hub: HubDouble
    environment: dict[str, str]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("published")
    bases = {
        BASE: make_llava_checkpoint(root / "small-llava", sharded=True),
        NEXT_BASE: make_llava_next_checkpoint(root / "small-llava-next", backbone="mistral"),
    }
    with pytest.MonkeyPatch.context() as patch, hub_for_this_process(patch, root / "cache") as hub:
        folders = {}
        for base, target in ((BASE, TARGET), (NEXT_BASE, NEXT_TARGET)):
            upload_folder(hub, base, bases[base])
            name = target.split("/")[1]
            release = prepare(base, Recipe(OPTIONS), root / f"release-of-{name}", check=False)
            publish(release, Destination(target, tag="v1.0"), verify_after=False)
            folders[target] = stage(bases[base], root / f"staged-{name}", Recipe(OPTIONS), check=False).path
        yield Published(hub, environment_of(hub, root / "home-of-a-user"), folders)


def run(*arguments: str, environment: dict[str, str]) -> Any:
    """The JSON that a program of `published_use.py` prints in a clean process."""
    ended = run_clean([PROGRAM, *arguments], environment=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "not supported" not in ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_published_model_answers_as_the_staged_folder_with_and_without_the_hub(published: Published) -> None:
    models = [TARGET + "@v1.0", NEXT_TARGET + "@v1.0"]
    folders = [str(published.folders[target]) for target in (TARGET, NEXT_TARGET)]
    *online, local, local_next = run("answer", *models, *folders, environment=published.environment)
    assert online == [local, local_next]
    for found, family in zip(online, ("MMTokLlava", "MMTokLlavaNext"), strict=True):
        assert found["AutoModel"]["class"] == f"{family}ForConditionalGeneration"
        assert found["AutoModel"] == found["AutoModelForImageTextToText"]
        assert found["untrusted"] == "trust_remote_code=True"
        (kept,) = found["AutoModel"]["kept"]
        assert 0 < sum(kept) < len(kept)
    nowhere = {**published.environment, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    assert run("answer", *models, environment=nowhere) == online


def test_the_examples_of_the_card_run(published: Published, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_bytes(published.hub.files(TARGET, "v1.0")["README.md"])
    assert len(run("cards", str(card), environment=published.environment)["printed"]) == 2


def test_a_fine_tuned_model_is_pushed_and_loads_again(published: Published) -> None:
    tuned = run("tune", TARGET, TUNED, environment=published.environment)
    (again,) = run("answer", TUNED, environment=published.environment)
    assert (again["AutoModel"]["ids"], again["AutoModel"]["kept"]) == (tuned["ids"], tuned["kept"])
    # `save_pretrained` copies what the model imports, and it does not import the handler.
    files, original = published.hub.files(TUNED), published.hub.files(TARGET)
    assert {name for name in original if name.endswith(".py") and files.get(name) != original[name]} == {HANDLER_FILE}
    changed = [name for name in files if name.endswith(".safetensors") and files[name] != original.get(name)]
    assert changed
