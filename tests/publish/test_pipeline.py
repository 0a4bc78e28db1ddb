"""`pipeline("image-text-to-text", model=<staged folder>)` takes pruning options as arguments; it never ignores them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from transformers import AutoProcessor, LlavaForConditionalGeneration, pipeline

import mmtok
from configuration_mmtok import MMTokLlavaConfig
from mmtok.publish import stage

LENGTH = {"max_new_tokens": 3, "do_sample": False}
# In a process of its own: another test may have registered the classes of the package with the Auto classes.
PROGRAM = """
import json, sys
from PIL import Image
from transformers import pipeline
folder, given = sys.argv[1], json.loads(sys.argv[2])
content = [{"type": "image", "image": Image.new("RGB", (24, 24), "red")}, {"type": "text", "text": "Is there a dog?"}]
seen = []
def answers(made, called):
    pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True, **made)
    generate = pipe.model.generate
    def recorded(**kwargs):
        seen.append(kwargs.get("vision_token_budget", "configured"))
        return generate(**kwargs)
    pipe.model.generate = recorded
    pipe([[{"role": "user", "content": content}]], max_new_tokens=3, **called)
    return type(pipe).__module__.startswith("transformers_modules."), seen[-1], pipe
*found, pipe = answers({}, {})
print(json.dumps([found, *(answers(*each)[:2] for each in given)]))
pipe.model.save_pretrained(sys.argv[3])
pipe.processor.save_pretrained(sys.argv[3])
folder = sys.argv[3]
print(json.dumps(answers({}, {"vision_token_budget": 2})[:2]))
"""


@pytest.mark.parametrize("make", [make_llava_checkpoint, make_llava_next_checkpoint])
def test_the_pipeline_of_a_staged_folder_takes_options_as_arguments(make, tmp_path: Path) -> None:
    staged = stage(make(tmp_path / "base"), tmp_path / "piped", check=False).path
    given = [
        [{}, {"vision_token_budget": 2}],
        [{}, {"vision_token_budget": None}],
        [{"vision_token_budget": 5}, {}],
        [{"vision_token_budget": 5}, {"vision_token_budget": 2}],
        [{"vision_token_budget": 5}, {"generate_kwargs": {"vision_token_budget": 2}}],
    ]
    command = [sys.executable, "-c", PROGRAM, str(staged), json.dumps(given), str(tmp_path / "saved")]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "will be ignored" not in ended.stderr
    found, of_saved = map(json.loads, ended.stdout.splitlines()[-2:])
    assert found == [[True, budget] for budget in ("configured", 2, None, 5, 2, 2)]
    assert of_saved == [True, 2]
    assert "custom_pipelines" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_the_class_of_the_package_makes_a_pipeline_of_any_pruned_model(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(base)
    model = mmtok.prune(LlavaForConditionalGeneration.from_pretrained(base), processor=processor)
    own = mmtok.MMTokImageTextToTextPipeline
    pipe = pipeline("image-text-to-text", model=model, processor=processor, pipeline_class=own, vision_token_budget=4)
    image, text = Image.new("RGB", (24, 24), "red"), "USER: <image>\nIs there a dog? ASSISTANT:"
    by_argument = pipe(image, text=text, max_new_tokens=3, generate_kwargs={"do_sample": False}, vision_token_budget=2)
    assert by_argument == pipe(image, text=text, generate_kwargs={"vision_token_budget": 2, **LENGTH})
    with pytest.raises(ValueError, match=r"vision_token_budget is given twice, as 2 and in generate_kwargs as 3"):
        pipe(image, text=text, vision_token_budget=2, generate_kwargs={"vision_token_budget": 3})
    with pytest.raises(ValueError, match=r"vision_token_budget is 0: give"):
        pipe(image, text=text, vision_token_budget=0)
    with pytest.raises(ValueError, match=r"text_temperature is -1: give"):
        pipeline("image-text-to-text", model=model, processor=processor, pipeline_class=own, text_temperature=-1)


def test_a_stock_model_refuses_the_options(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    own = mmtok.MMTokImageTextToTextPipeline
    pipe = pipeline("image-text-to-text", model=str(base), pipeline_class=own)
    with pytest.raises(ValueError, match=r"model_kwargs.*vision_token_budget"):
        pipe(Image.new("RGB", (24, 24)), text="USER: <image>\nA dog? ASSISTANT:", vision_token_budget=2)


def test_an_installed_configuration_names_no_pipeline() -> None:
    # It is not a repository: transformers would ask there for trust that nobody needs to give.
    assert MMTokLlavaConfig().custom_pipelines == {}
