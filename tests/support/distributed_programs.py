"""What each process of `test_integrations_distributed.py` runs: `python distributed_programs.py PROGRAM FOLDER OUT`.

The folder holds a saved model; rank 0 writes the tokens of four prompts to OUT.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from model_cases import FAMILIES, IMAGE_SIZE, VOCABULARY, Family

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[[3, SIZE, 4]], [[SIZE, 2]], [[5, SIZE, 1]], [[2, SIZE, SIZE, 6]]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


def prompts(family: Family, model: Any) -> list[dict[str, torch.Tensor]]:
    return [family.inputs(rows, model, seed=seed) for seed, rows in enumerate(ROWS)]


def answers(family: Family, model: Any) -> list[list[int]]:
    return [model.generate(**inputs, **GREEDY)[0].tolist() for inputs in prompts(family, model)]


def tensor_parallel(family: Family, folder: str) -> list[list[int]] | None:
    """One model over all processes."""
    torch.distributed.init_process_group("gloo")
    assert torch.distributed.get_world_size() == 2
    model = family.model_class.from_pretrained(folder, tp_plan="auto").eval()
    # The plan of transformers for Qwen3-VL splits the embeddings alone.
    language_model = model.model.language_model
    weights = [(language_model.layers[0].self_attn.q_proj.weight, 32), (language_model.embed_tokens.weight, VOCABULARY)]
    assert any("DTensor" in type(weight).__name__ or len(weight) < rows for weight, rows in weights), (
        "the weights are not split"
    )
    found = answers(family, model)
    return found if torch.distributed.get_rank() == 0 else None


def data_parallel(family: Family, folder: str) -> list[list[int]] | None:
    """A model in each process, the prompts shared out, the answers gathered."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=True)
    assert state.num_processes == 2
    model = family.model_class.from_pretrained(folder).eval()
    every = prompts(family, model)
    with state.split_between_processes(list(range(len(every)))) as own:
        found = [(number, model.generate(**every[number], **GREEDY)[0].tolist()) for number in own]
    gathered = dict(gather_object(found))
    return [gathered[number] for number in range(len(every))] if state.is_main_process else None


def main(program: str, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    family = FAMILIES[Path(folder).name]
    found = {"tensor": tensor_parallel, "data": data_parallel}[program](family, folder)
    if found is not None:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(*sys.argv[1:])
