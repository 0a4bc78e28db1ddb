from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint

from mmtok.apps.answering import ask, load_pipeline
from mmtok.publish import Recipe, stage
from mmtok.visuals import read_image

QUESTION = "Is there a snowboard in the image?"
BUDGET = 2
OTHER = 3  # its answer is of whole characters, which a random model seldom writes and the server's stream needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    base = make_llava_checkpoint(root / "base", seed=5)
    return stage(base, root / "served_model", Recipe({"vision_token_budget": BUDGET}), check=False).path


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def encoded() -> str:
    file = io.BytesIO()
    image().save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def expected(folder) -> dict[Any, str]:
    """Answers of the pipeline by budget; they have to differ, or no test could tell which budget was used."""
    pipe = load_pipeline(folder)
    answers = {
        budget: ask(pipe, image(), QUESTION, budget, max_new_tokens=8).answer for budget in (BUDGET, OTHER, None)
    }
    assert len(set(answers.values())) == 3
    return answers


@pytest.fixture(scope="module")
def handler(folder) -> Any:
    """As the endpoints' toolkit makes it: from the file that `stage` put into the repository."""
    return handler_module(folder).EndpointHandler(str(folder))


def handler_module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_handler_answers_with_the_repositorys_budget(handler, expected) -> None:
    data = {"inputs": {"image": encoded(), "question": QUESTION}, "parameters": {"max_new_tokens": 8}}
    before = json.dumps(data)
    assert handler(data) == [{"generated_text": expected[BUDGET]}]
    assert json.dumps(data) == before


@pytest.mark.parametrize("budget", [OTHER, None])
def test_handler_takes_a_budget_with_the_request(handler, expected, budget) -> None:
    parameters = {"max_new_tokens": 8, "vision_token_budget": budget}
    answers = handler({"inputs": {"image": encoded(), "question": QUESTION}, "parameters": parameters})
    assert answers == [{"generated_text": expected[budget]}]


def test_handler_answers_conversations_and_lists(handler, expected) -> None:
    uri = f"data:image/png;base64,{encoded()}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": QUESTION}]
    chat = {"messages": [{"role": "user", "content": content}]}
    single = {"image": uri, "question": QUESTION}
    answers = handler({"inputs": [chat, single], "parameters": {"max_new_tokens": 8}})
    assert answers == [{"generated_text": expected[BUDGET]}] * 2


def test_handler_passes_options_on(handler) -> None:
    data = {"inputs": {"image": encoded(), "question": QUESTION}, "parameters": {"budget_scope": "kelvin"}}
    with pytest.raises(ValueError, match="budget_scope is 'kelvin': give 'crop', 'image' or 'video'"):
        handler(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "An input is neither"),
        ({"inputs": []}, "empty list"),
        ({"inputs": {"image": "abc"}}, "An input is neither"),
        ({"inputs": {"image": "/etc/hostname", "question": "?"}}, "An image cannot be read: it is not in base64"),
        ({"inputs": {"image": "https://a.com/a.png", "question": "?"}}, "An image cannot be read: it is not in base64"),
        ({"inputs": {"image": "aGVsbG8=", "question": "?"}}, "An image cannot be read: it is not an image"),
        ({"inputs": {"image": 3, "question": "?"}}, "An image is 3, not a text"),
        ({"inputs": {"messages": ["hello"]}}, "A message needs a role"),
        ({"inputs": {"messages": []}}, "messages is an empty list: give at least one message"),
        ({"inputs": {"messages": [{"role": "user", "content": []}]}}, "A message needs a role"),
        ({"inputs": {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}}, "of type 'audio'"),
        ({"inputs": {"video": "", "question": "?"}}, "A model of type mmtok_llava does not prune videos"),
        ({"inputs": {}, "parameters": {"logits_processor": 1}}, "parameters has 'logits_processor': give "),
        ({"inputs": {}, "parameters": ["max_new_tokens"]}, "parameters is a list: give an object"),
        ({"inputs": {}, "parameters": [["max_new_tokens", 4]]}, "parameters is a list: give an object"),
        ([], "The request is a list: give"),
    ],
)
def test_handler_refuses_what_it_cannot_answer(handler, data, message) -> None:
    with pytest.raises(ValueError, match=message):
        handler(data)


def test_handler_reads_a_camera_image_as_the_commands_do(handler, folder, tmp_path) -> None:
    """An image on its side with an orientation in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image().save(tmp_path / "photo.png", exif=exif)
    data = base64.b64encode((tmp_path / "photo.png").read_bytes()).decode()
    parameters = {"max_new_tokens": 8, "vision_token_budget": None}
    [answer] = handler({"inputs": {"image": data, "question": QUESTION}, "parameters": parameters})
    pipe = load_pipeline(folder)
    upright, sideways = (
        ask(pipe, seen, QUESTION, None, max_new_tokens=8).answer
        for seen in (read_image(tmp_path / "photo.png"), image())
    )
    assert answer["generated_text"] == upright != sideways


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """`transformers serve --trust-remote-code FOLDER` on a free port of loopback, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    program = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", str(folder), "--trust-remote-code"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
        deadline = time.monotonic() + 240
        while not _listens(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", log
        process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _request(folder: Path, **more: Any) -> dict[str, Any]:
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded()}"}},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": str(folder), "messages": messages, "temperature": 0.0, "max_tokens": 8, **more}


@pytest.fixture(scope="module")
def client(server) -> Any:
    """The official client, which tries again where the server cuts the connection after a 500."""
    from openai import OpenAI

    return OpenAI(base_url=server[0], api_key="none", timeout=240)


def _with(**pruning_options: Any) -> dict[str, Any]:
    return {"extra_body": {"generation_config": json.dumps(pruning_options)}}


@pytest.mark.heavy
@pytest.mark.parametrize("budget", ["the model's", OTHER, None])
def test_a_server_answers_whole_and_streamed(client, folder, expected, budget) -> None:
    more = {} if budget == "the model's" else _with(vision_token_budget=budget)
    answer = expected[budget if more else BUDGET]
    whole = client.chat.completions.create(**_request(folder, **more))
    assert whole.choices[0].message.content.strip() == answer
    chunks = list(client.chat.completions.create(**_request(folder, **more), stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces).strip() == answer
    assert sum(bool(piece) for piece in pieces) > 1


@pytest.mark.heavy
def test_usage_counts_the_full_prompt(client, folder) -> None:
    counts = [
        client.chat.completions.create(**_request(folder, **_with(vision_token_budget=budget))).usage.prompt_tokens
        for budget in (2, None)
    ]
    assert counts[0] == counts[1]


@pytest.mark.heavy
def test_a_server_refuses_what_the_docs_say_it_refuses(client, server, folder, expected) -> None:
    """Status codes of docs/serving.md; afterwards the server still answers."""
    from openai import APIError, APIStatusError, InternalServerError, UnprocessableEntityError

    with pytest.raises(UnprocessableEntityError) as unknown:
        client.chat.completions.create(**_request(folder, extra_body={"vision_token_budget": OTHER}))
    assert "vision_token_budget" in unknown.value.response.text
    sentence = "vision_token_budget is 0: give a number of tokens"
    assert sentence not in server[1].read_text()
    with pytest.raises(InternalServerError) as failed:
        client.chat.completions.create(**_request(folder, **_with(vision_token_budget=0)))
    assert failed.value.status_code == 500
    assert sentence not in failed.value.response.text
    assert sentence in server[1].read_text()
    with pytest.raises(APIError, match="during streaming"):
        list(client.chat.completions.create(**_request(folder, **_with(vision_token_budget=0)), stream=True))
    with pytest.raises(APIStatusError) as refused:
        client.chat.completions.create(**_request(folder / "elsewhere"))
    assert refused.value.status_code == 400
    whole = client.chat.completions.create(**_request(folder))
    assert whole.choices[0].message.content.strip() == expected[BUDGET]


@pytest.mark.heavy
def test_a_generation_config_forgets_the_servers_length(client, folder) -> None:
    """Without `max_tokens`: 1,024 tokens, which a random model uses up; with it 20, the default of `generate`."""
    request = _request(folder)
    del request["max_tokens"]
    answers = [client.chat.completions.create(**request, **more) for more in ({}, _with(vision_token_budget=BUDGET))]
    assert [answer.usage.completion_tokens for answer in answers] == [1024, 20]
    assert [answer.choices[0].finish_reason for answer in answers] == ["length", "stop"]
