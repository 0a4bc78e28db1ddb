"""Chat templates: their questions are found before a model is published with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from chat_checkpoints import CHATML_TEMPLATE, LLAMA3_TEMPLATE, ONEVISION_TEMPLATE, QWEN_TEMPLATE, byte_level_tokenizer
from small_checkpoints import MISTRAL_TEMPLATE, VICUNA_TEMPLATE, small_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.publish.settings import question_format_of

CHATML = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
MARKERS = (*CHATML, "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")
KNOWN = [VICUNA_TEMPLATE, MISTRAL_TEMPLATE, ONEVISION_TEMPLATE, CHATML_TEMPLATE, QWEN_TEMPLATE, LLAMA3_TEMPLATE]
# A format that is not known, with text in front of the image.
HEADERS = (
    "{% for message in messages %}### {{ 'Human' if message['role'] == 'user' else 'Bot' }}: "
    "{% for content in message['content'] %}"
    "{{ 'Picture: <image>\n' if content['type'] == 'image' else content['text'] }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}### Bot: {% endif %}"
)


def processor(template: Any, kind: str = "byte fallback") -> Any:
    backend = byte_level_tokenizer() if kind == "byte level" else small_tokenizer()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MARKERS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return SimpleNamespace(tokenizer=tokenizer, chat_template=template)


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
@pytest.mark.parametrize("template", KNOWN, ids=["Vicuna", "Mistral", "OneVision", "ChatML", "Qwen", "Llama 3"])
def test_known_formats_need_no_markers(kind: str, template: str) -> None:
    given = {"stop_words": ["dog"]}
    assert question_format_of(processor(template, kind), None) is None
    assert question_format_of(processor(template, kind), given) == given
    assert question_format_of(processor({"default": template, "tool_use": ""}, kind), None) is None
    assert question_format_of(processor(None, kind), given) == given


def test_markers_of_another_format_are_derived() -> None:
    other = processor(HEADERS)
    found = question_format_of(other, {"instructions": ["Be brief."]})
    assert found == {
        "instructions": ["Be brief."],
        "user_turns": ["### Human:"],
        "assistant_turns": ["### Bot:"],
        "other_turns": [],
    }
    reader = TokenizerSource(other.tokenizer).reader(found, [other.tokenizer.convert_tokens_to_ids("<image>")])
    assert reader is not None
    for prompt, words in {
        "### Human: Picture: <image>\nIs it red? Be brief.\n### Bot: ": ("red",),
        "### Human: A cat?\n### Bot: No.\n### Human: Is it red?\n### Bot: ": ("red",),
    }.items():
        assert reader.read(other.tokenizer(prompt)["input_ids"]).words == words


@pytest.mark.parametrize(
    ("template", "given", "message"),
    [
        ("{{ raise_exception('no images') }}", None, r"cannot write a conversation with an image: no images"),
        ("{% for message in messages %}x{% endfor %}", None, r"not found in what the chat template writes, 'xxx'"),
        (HEADERS, {"user_turns": ["USER:"]}, r"name what opens the turns in question_format, with user_turns"),
        (VICUNA_TEMPLATE, {"user_turn": ["USER:"]}, r"with the key 'user_turn'"),
    ],
)
def test_what_is_refused(template: str, given: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        question_format_of(processor(template), given)


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is a SimpleNamespace without a tokenizer\.json"):
        question_format_of(SimpleNamespace(tokenizer=SimpleNamespace(), chat_template=VICUNA_TEMPLATE), None)
