"""`examples/ray_batch.py` on a local Ray with two workers. Needs ray[data]."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint

from mmtok.apps.answering import ask, load_pipeline
from mmtok.publish import stage

pytestmark = pytest.mark.heavy
pytest.importorskip("ray", reason="Ray Data is no part of the package: pip install 'ray[data]'")
ROOT = Path(__file__).resolve().parents[2]
BUDGET = 3


def test_two_workers_answer_as_the_pipeline_does(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base", seed=5)
    model = stage(base, tmp_path / "ray_model", check=False).path
    generator = np.random.default_rng(0)
    records = []
    for number in range(8):
        Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        records.append({"image": f"{number}.png", "question": f"Is there a snowboard in image {number}?"})
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, ROOT / "examples" / "ray_batch.py", "--model", model, "--questions", questions]
    command += ["--output", tmp_path / "answers", "--workers", "2", "--batch-size", "2"]
    command += ["--budget", BUDGET, "--max-new-tokens", "4"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ended = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    written = [json.loads(line) for file in (tmp_path / "answers").iterdir() for line in file.read_text().splitlines()]
    found = {record["image"]: record["answer"] for record in written}
    assert len(written) == len(records)
    pipe = load_pipeline(model)
    for record in records:
        image = Image.open(tmp_path / record["image"])
        assert found[record["image"]] == ask(pipe, image, record["question"], BUDGET, max_new_tokens=4).answer
    assert len(set(found.values())) > 1
