"""The built wheel, alone in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mmtok.hub.families import FAMILIES
from mmtok.publish import published_code
from mmtok.publish.repository import generate_code

ROOT = Path(__file__).resolve().parents[2]
# What draws the images of the demo, and nothing that trains.
TINY = ("__init__", "backgrounds", "catalogue", "prints", "questions", "reading", "scenes", "sprites")
# The wheel is small enough to be fetched for a demo: code, the embedded models and their drawings.
MOST_BYTES = 11_000_000

PROGRAM = """
import sys
import torch
import mmtok
from configuration_mmtok import MMTokLlavaConfig
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

assert all("site-packages" in sys.modules[name].__file__ for name in ("mmtok", "modeling_mmtok_llava"))
assert not {"matplotlib", "gradio", "accelerate"} & sys.modules.keys()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
config = MMTokLlavaConfig(
    text_config={"model_type": "llama", "vocab_size": 40, **sizes},
    vision_config={"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **sizes},
    image_token_index=30,
    vision_token_budget=2,
)
model = MMTokLlavaForConditionalGeneration(config).eval()
ids = torch.tensor([[1, 30, 30, 30, 30, 5]])
pixels = torch.randn(1, 3, 8, 8)
assert model(input_ids=ids, pixel_values=pixels).kept_mask.sum() == 4
assert model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=2, do_sample=False).shape == (1, 8)
print("fine")
"""


SMOKE = """
from transformers import pipeline
from mmtok.publish import stage
from mmtok.tiny import checkpoint_path
from mmtok.tiny.scenes import SceneSettings, sample_scene
import numpy as np

staged = stage(checkpoint_path(), "staged")
assert staged.report["tensors_compared"] > 0
pipe = pipeline("image-text-to-text", model="staged", trust_remote_code=True)
assert type(pipe.model).__module__.startswith("transformers_modules.")
image = sample_scene(SceneSettings(4, 5), np.random.default_rng(7)).image()
content = [{"type": "image", "image": image}, {"type": "text", "text": "Is there a dog in the image?"}]
for budget in (None, 16):
    [answer] = pipe(
        text=[{"role": "user", "content": content}],
        return_full_text=False,
        generate_kwargs={"vision_token_budget": budget, "max_new_tokens": 1},
    )
    assert answer["generated_text"].strip() in ("yes", "no"), answer
print("fine")
"""


def run(*command: str | Path, cwd: Path) -> str:
    own = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "home")}
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=own)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.heavy
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "environments", "*.egg-info", "__pycache__")
    )
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    packed = zipfile.ZipFile(wheel).namelist()
    published = {name for model_type in FAMILIES for name in published_code(model_type)}
    for name in published | {path.partition("/")[2] for path in generate_code()}:
        assert name in packed or f"mmtok/hub/{name}" in packed
    assert any(name.endswith(".safetensors") for name in packed), "the embedded model is not in the wheel"
    assert not any(name.startswith(("tests/", "benchmarks/", "compat/")) for name in packed)
    licences = {name.partition(".dist-info/")[2] for name in packed if ".dist-info/licenses/" in name}
    assert licences == {"licenses/LICENSE", "licenses/mmtok/tiny/drawings/NOTICE"}
    assert wheel.stat().st_size < MOST_BYTES
    # The laboratory, which trains models, is beside the benchmarks.
    modules = {name for name in packed if name.startswith("mmtok/tiny/") and name.endswith(".py")}
    assert modules == {f"mmtok/tiny/{name}.py" for name in TINY}

    environment = tmp_path / "environment"
    version = torch.__version__.partition("+")[0]
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, f"torch=={version}", cwd=tmp_path)
    assert run(python, "-I", "-c", PROGRAM, cwd=tmp_path).strip().endswith("fine")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[publish]", f"torch=={version}", cwd=tmp_path)
    assert run(python, "-I", "-c", SMOKE, cwd=tmp_path).strip().endswith("fine")
