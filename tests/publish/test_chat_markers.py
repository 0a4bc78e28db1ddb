"""Prompts whose turns are marked by registered special tokens: ChatML, as Qwen's and Yi's, and Llama 3's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from chat_checkpoints import CHATML_TEMPLATE, LLAMA3_TEMPLATE, ONEVISION_TEMPLATE, byte_level_tokenizer
from small_checkpoints import small_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mmtok.hub.question import TextRules, text_to_cover
from mmtok.publish.ignored_text import INSTRUCTIONS, render_chat, text_options

_CONTENT = (
    "{% for content in message['content'] %}{{ '<image>\n' if content['type'] == 'image' else content['text'] }}"
    "{% endfor %}"
)
TEMPLATES = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + _CONTENT
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # The published ones put a line break between an image and the text behind it, and before a text without image.
    "onevision": ONEVISION_TEMPLATE,
    "yi": CHATML_TEMPLATE,
    "llama3": LLAMA3_TEMPLATE,
}
MARKERS = ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@dataclass(frozen=True)
class Chat:
    tokenizer: PreTrainedTokenizerFast
    template: str
    rules: TextRules

    def words_covered(self, prompt: str) -> list[str]:
        ids = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return self.tokenizer.decode(text_to_cover(ids, None, self.rules).ids[0].tolist()).split()


@pytest.fixture(scope="module", params=[(kind, name) for kind in ("byte-level", "byte-fallback") for name in TEMPLATES])
def chat(request: pytest.FixtureRequest) -> Chat:
    kind, name = request.param
    backend = byte_level_tokenizer() if kind == "byte-level" else small_tokenizer()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*MARKERS, "<image>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    pruning_options = text_options(tokenizer, TEMPLATES[name])
    return Chat(tokenizer, TEMPLATES[name], TextRules(tokenizer.convert_tokens_to_ids("<image>"), **pruning_options))


def single(chat: Chat, question: str, system: str | None = None) -> str:
    """The prompt of one question: a conversation cut off where the answer begins."""
    text = render_chat(chat.tokenizer, chat.template, question, "Qanswer", "Qsecond", system=system)
    return text[: text.index("Qanswer")]


QUESTIONS = {
    "Is there a snowboard in the image?": ["there", "snowboard", "in", "image"],
    "Describe the cat.": ["Describe", "cat"],
    'What does "USER: Read" say?\n' + INSTRUCTIONS[0]: ["USER", "Read", "say"],
    "Who is the user, the assistant or the system?": ["user", "assistant", "system"],
    "Which sign?\n(a) Stop\n(b) Go\n" + INSTRUCTIONS[1]: ["sign", "Stop", "b", "Go"],
    "هل هذا user؟": ["هل", "هذا", "user"],
    INSTRUCTIONS[0]: ["using", "single", "word", "phrase"],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_words_of_a_question(chat: Chat, question: str) -> None:
    assert chat.words_covered(single(chat, question)) == QUESTIONS[question]
    with_system = single(chat, question, system="You are an assistant for the user.")
    assert chat.words_covered(with_system) == QUESTIONS[question]


@pytest.mark.parametrize("question", QUESTIONS)
def test_words_of_the_last_of_two_questions(chat: Chat, question: str) -> None:
    prompt = render_chat(chat.tokenizer, chat.template, "Is there a cat?", "The user.", question)
    assert chat.words_covered(prompt) == QUESTIONS[question]


def test_markers_and_roles_alone_give_no_rows(chat: Chat) -> None:
    assert chat.words_covered(single(chat, "")) == []


def test_timestamps_are_found_where_the_tokenizer_marks_frames() -> None:
    backend = byte_level_tokenizer()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert text_options(plain, None)["timestamp_token_ids"] == []
    backend.add_special_tokens([AddedToken(each, special=True) for each in ("<|vision_start|>", "<|video_pad|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    start, video = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|video_pad|>"])
    rules = TextRules(10_000, (start,), video_token_id=video, **text_options(tokenizer, None))
    frames = "".join(f"<{time} seconds><|vision_start|><|video_pad|>" for time in ("0.5", "12.0", "987.3"))
    ids = tokenizer(f"Read the 2{frames}Which sign at 12.0 seconds?", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(text_to_cover(ids, None, rules).ids[0].tolist()).split() == [
        *("Read", "2", "sign", "12", "0", "seconds")
    ]
