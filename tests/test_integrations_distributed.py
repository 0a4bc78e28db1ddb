"""Two processes on loopback: one model over both, and one model in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_programs
import pytest
from distributed_programs import answers
from model_cases import Family

ROOT = Path(__file__).resolve().parents[1]
# accelerate's --cpu starts one process where there is no MPI; with --multi_gpu the program itself chooses the CPU.
SETTINGS = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCHERS = {
    "tensor": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "data": ["-m", "accelerate.commands.launch", "--multi_gpu", *SETTINGS, "--main_process_port", "0"],
}


@pytest.mark.heavy
@pytest.mark.parametrize("program", LAUNCHERS)
def test_two_processes_answer_as_one(family: Family, program: str, tmp_path: Path) -> None:
    model, _ = family.models(vision_token_budget=3)
    folder, out = tmp_path / family.name, tmp_path / "answers.json"
    model.save_pretrained(folder)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ended = subprocess.run(
        [sys.executable, *LAUNCHERS[program], distributed_programs.__file__, program, str(folder), str(out)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.exists(), ended.stderr[-3000:]
    assert json.loads(out.read_text(encoding="utf-8")) == answers(family, model)
