"""Two processes, of one launcher and of two on loopback: one model over both, and one model in each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_programs
import pytest
from distributed_programs import answers
from model_cases import Family
from question_files import write_questions
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

from mmtok.apps.batch_generate import BatchSettings, generate_file
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node"]
# accelerate's --cpu starts one process where there is no MPI; with --multi_gpu the program itself chooses the CPU.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
ACCELERATE += ["--num_processes", "2"]
ONE_LAUNCHER = {
    "tensor": [*TORCHRUN, "2", "--standalone"],
    "data": [*ACCELERATE, "--num_machines", "1", "--main_process_port", "0"],
}


def of_two_machines(program: str, rank: int, port: int) -> list[str]:
    """The launcher of machine `rank`, as docs/serving.md has it; both machines are this one."""
    if program == "tensor":
        place = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        return [*TORCHRUN, "1", *place]
    place = ["--num_machines", "2", "--machine_rank", str(rank)]
    return [*ACCELERATE, *place, "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_together(commands: list[list[str]], folder: Path) -> list[str]:
    """Runs programs at the same time, each with its own cache as on its own machine, and returns what they print."""
    running = []
    for number, command in enumerate(commands):
        own = {"HF_HOME": str(folder / f"home{number}"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]), **own}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([sys.executable, *command], env=environment, cwd=folder, **pipes))
    try:
        printed = [process.communicate(timeout=400) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, printed, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [output for output, _ in printed]


@pytest.mark.heavy
@pytest.mark.parametrize("launchers", [1, 2])
@pytest.mark.parametrize("program", ONE_LAUNCHER)
def test_two_processes_answer_as_one(family: Family, program: str, launchers: int, tmp_path: Path) -> None:
    model, _ = family.models(vision_token_budget=3)
    folder, out = tmp_path / family.name, tmp_path / "answers.json"
    model.save_pretrained(folder)
    arguments = [distributed_programs.__file__, program, str(folder), str(out)]
    port = free_port()
    parts = [ONE_LAUNCHER[program]] if launchers == 1 else [of_two_machines(program, rank, port) for rank in range(2)]
    run_together([[*part, *arguments] for part in parts], tmp_path)
    assert json.loads(out.read_text(encoding="utf-8")) == answers(family, model)


@pytest.mark.heavy
@pytest.mark.parametrize("make", [make_llava_checkpoint, make_llava_next_checkpoint])
def test_a_file_is_answered_by_two_machines(make: Callable[..., Path], tmp_path: Path) -> None:
    """`mmtok generate` as in docs/serving.md: the output of two launchers is that of one process."""
    model = stage(make(tmp_path / "base"), tmp_path / "machines_staged", check=False).path
    questions, output = write_questions(tmp_path, 11), tmp_path / "answers.jsonl"
    alone = BatchSettings(str(model), [questions], tmp_path / "alone.jsonl", budget=4, batch_size=2, max_new_tokens=3)
    generate_file(alone)
    command = ["-m", "mmtok", "generate", "--model", str(model), "--questions", str(questions), "--output", str(output)]
    command += ["--budget", "4", "--batch-size", "2", "--max-new-tokens", "3", "--json"]
    port = free_port()
    printed = run_together([[*of_two_machines("data", rank, port), *command] for rank in range(2)], tmp_path)
    summary = {"lines": 11, "resumed": 0, "errors": 0, "cut_off": 0, "unpruned": 0, "output": str(output)}
    assert [json.loads(text) if text.strip() else None for text in printed] == [summary, None]
    assert output.read_text(encoding="utf-8") == (tmp_path / "alone.jsonl").read_text(encoding="utf-8")
