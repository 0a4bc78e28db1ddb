"""The OpenAI-compatible server: its processes are apart, requests come together, and some are bad or go away."""

from __future__ import annotations

import base64
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_serve
from PIL import Image
from transformers import AutoConfig, AutoProcessor
from vllm_engine import KV_CACHE_BYTES, SETTINGS, noise

from mmtok.hub.families import family_of

pytestmark = pytest.mark.vllm

NEW_TOKENS = 5
QUESTIONS = ("Where is the dog?", "Is there a red star?", "How many people walk?", "What is the colour of the car?")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"vision_token_budget": 2},
    {"vision_token_budget": None},
    {"vision_token_budget": 0.5, "padding": "exclude"},
)
BAD: tuple[dict[str, Any], ...] = (
    {"vision_token_budget": 0},
    {"vision_token_budget": "many"},
    {"coverage_target": 0.9},
    {"text_temperature": -1},
    {"paddings": "exclude"},
)
# Model and arguments by what they make: front ends that share nothing, and workers with a part of the model and a cache
# each.
PROCESSES: dict[str, tuple[str, list[str]]] = {
    "one server": ("onevision", []),
    "two servers, tensor parallel 2": ("next", ["--api-server-count", "2", "--tensor-parallel-size", "2"]),
}


@pytest.fixture(scope="module", params=PROCESSES)
def served(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Path, list[str]]:
    """Folder and further arguments of a server."""
    name, arguments = PROCESSES[request.param]
    return folders[name], arguments


@pytest.fixture(scope="module")
def server(served: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base address of a server."""
    folder, arguments = served
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, vllm_serve.__file__, str(folder), *arguments]
    command += ["--served-model-name", "small", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16", "--trust-request-mm-kwargs"]
    command += ["--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # A server that ended by itself leaves no group, which must not hide why it ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 400) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(seconds):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            opener.open(address, timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


@pytest.fixture(scope="module")
def reference(served: tuple[Path, list[str]], server: str) -> Any:
    """(image, question, options) -> new tokens and prompt length of the transformers model."""
    from mmtok.vllm import register

    register()
    folder, _ = served
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model_class = family_of(AutoConfig.from_pretrained(folder).model_type).load_class()
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(image: Image.Image, question: str, options: dict[str, Any]) -> tuple[list[int], int]:
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, images=image, return_tensors="pt")
        out = model.generate(**inputs, **options, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        kept = model.select_vision_tokens(**inputs, **options).kept_mask
        new = out[0, inputs["input_ids"].shape[1] :]
        return new.tolist(), int(kept.sum())

    return answer


def _ask(
    server: str, image: Image.Image, question: str, options: dict[str, Any], stream: bool
) -> tuple[list[int], int]:
    from openai import OpenAI

    address = "data:image/png;base64," + _encoded(image, "PNG")
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    request: dict[str, Any] = {
        "model": "small",
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
        "extra_body": {"add_special_tokens": True, "return_token_ids": True, "mm_processor_kwargs": options},
    }
    client = OpenAI(base_url=server, api_key="none", max_retries=0)
    if not stream:
        answer = client.chat.completions.create(**request)
        return answer.choices[0].token_ids, answer.usage.prompt_tokens
    parts = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    choices = [part.choices[0] for part in parts if part.choices]
    # The first part names the role and has no tokens.
    tokens = [token for choice in choices for token in (choice.model_extra or {}).get("token_ids") or ()]
    return tokens, parts[-1].usage.prompt_tokens


def _encoded(image: Image.Image, file_format: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return base64.b64encode(buffer.getvalue()).decode()


def test_64_requests_at_once(server: str, reference: Any) -> None:
    images = [noise((48, 48), seed) for seed in (1, 2)]
    kinds = [(image, question, options) for image in images for question in QUESTIONS for options in OPTIONS]
    for stream in (False, True):
        with ThreadPoolExecutor(32) as pool:
            got = list(pool.map(lambda kind: _ask(server, *kind, stream=stream), kinds))  # noqa: B023
        wrong = [kind[1:] for kind, answer in zip(kinds, got, strict=True) if answer != reference(*kind)]
        assert wrong == []


def test_five_bad_requests_among_twenty_good_ones(server: str, reference: Any) -> None:
    from openai import BadRequestError

    image = noise((60, 30), 3)
    requests = [(image, QUESTIONS[index % 4], OPTIONS[index % 3]) for index in range(20)]
    requests += [(image, QUESTIONS[0], options) for options in BAD]
    random.Random(0).shuffle(requests)

    def outcome(request: tuple[Image.Image, str, dict[str, Any]]) -> Any:
        try:
            return _ask(server, *request, stream=False)
        except BadRequestError as error:
            return error

    with ThreadPoolExecutor(25) as pool:
        got = list(pool.map(outcome, requests))
    for request, answer in zip(requests, got, strict=True):
        if request[2] in BAD:
            assert isinstance(answer, BadRequestError)
            assert next(iter(request[2])) in str(answer)
        else:
            assert answer == reference(*request)


def test_a_video_has_a_budget_for_each_frame(served: tuple[Path, list[str]], server: str) -> None:
    from openai import BadRequestError, OpenAI

    client = OpenAI(base_url=server, api_key="none", max_retries=0)
    frames = ",".join(_encoded(noise((30, 40), seed), "JPEG") for seed in range(3))
    content = [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}]
    messages: Any = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTIONS[0]}]}]

    def prompt_tokens(budget: int | None) -> int:
        options = {"mm_processor_kwargs": {"vision_token_budget": budget}}
        answer = client.chat.completions.create(model="small", messages=messages, max_tokens=1, extra_body=options)
        return answer.usage.prompt_tokens

    if served[0].name != "onevision":
        with pytest.raises(BadRequestError, match=r"At most 0 video\(s\)"):
            prompt_tokens(2)
        return
    # 3 frames of 4 tokens and a separator, or 2 of each frame.
    assert prompt_tokens(None) - prompt_tokens(2) == 13 - 6


def test_a_client_that_goes_away_harms_nobody(server: str, reference: Any) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=server, api_key="none", max_retries=0)
    for _ in range(5):
        stream = client.chat.completions.create(
            model="small", max_tokens=800, stream=True, messages=[{"role": "user", "content": "Where is the dog?"}]
        )
        next(iter(stream))
        stream.close()
    kind = (noise((30, 70), 4), QUESTIONS[1], OPTIONS[1])
    assert _ask(server, *kind, stream=True) == reference(*kind)
