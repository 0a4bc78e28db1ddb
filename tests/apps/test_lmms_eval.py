"""The real `lmms_eval` command on a local task: the same answers as our own runner. Needs lmms-eval."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from small_checkpoints import make_llava_checkpoint

from mmtok.apps.answering import ask, load_pipeline
from mmtok.publish import stage
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import SHORT_ANSWER
from mmtok.tiny.scenes import sample_scene

lmms_eval = pytest.importorskip("lmms_eval", reason="the adapter needs lmms-eval: pip install 'mmtok[lmms]'")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.heavy

QUESTIONS = 24
BUDGET = 4
TASK = """\
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {parquet}
task: "scenes"
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 4
  temperature: 0
  do_sample: false
process_results: !function utils.results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""
UTILS = f"""\
def visual(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + "\\n{SHORT_ANSWER}"


def results(doc, results):
    return {{"accuracy": float(results[0].strip().lower() == doc["answer"])}}
"""


def base(folder: Path) -> Path:
    """The embedded checkpoint."""
    return checkpoint_path() if (checkpoint_path() / "model.safetensors").is_file() else make_llava_checkpoint(folder)


def test_the_command_agrees_with_the_pipeline(tmp_path) -> None:
    from mmtok.apps.demo import SCENE
    from mmtok.tiny.questions import absent_question, present_question

    staged = stage(base(tmp_path / "base"), tmp_path / "lmms_staged", check=False).path
    rows = []
    for number in range(QUESTIONS):
        rng = np.random.default_rng(number)
        scene = sample_scene(SCENE, rng)
        question = absent_question(scene, rng, "adversarial") if number % 2 else present_question(scene, rng)
        rows.append({"image": scene.image(), "question": question.text, "answer": question.answer})
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    parquet = tmp_path / "scenes.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(parquet))
    task = tmp_path / "task"
    task.mkdir()
    (task / "scenes.yaml").write_text(TASK.format(parquet=parquet))
    (task / "utils.py").write_text(UTILS)

    pipe = load_pipeline(staged)
    right = [
        ask(pipe, row["image"], f"{row['question']}\n{SHORT_ANSWER}", BUDGET, max_new_tokens=4).answer.lower()
        == row["answer"]
        for row in rows
    ]
    root = Path(__file__).resolve().parents[2]
    _register(tmp_path / "installed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), str(root), *filter(None, sys.path)]),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "lmms_eval", "--model", "mmtok_llava", "--tasks", "scenes"]
    command += ["--model_args", f"pretrained={staged},vision_token_budget={BUDGET}", "--batch_size", "8"]
    command += ["--include_path", str(task), "--output_path", str(tmp_path / "out"), "--device", "cpu"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    [written] = (tmp_path / "out").rglob("*results.json")
    measured = json.loads(written.read_text())["results"]["scenes"]
    assert measured["accuracy,none"] == pytest.approx(sum(right) / QUESTIONS)


def _register(folder: Path) -> None:
    """The entry point as an installed package has it; a checkout on the path has none."""
    entry = EntryPoint("mmtok_llava", "mmtok.apps.lmms_adapter:manifest", "lmms_eval.models")
    assert entry.load()().model_id == "mmtok_llava"
    info = folder / "mmtok_entry-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmtok-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{entry.group}]\n{entry.name} = {entry.value}\n")
