"""Ignored text in ids, against the reference's rule on words, in the forms in which prompts are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from reference_prompts import DATA, llama_or_skip
from small_checkpoints import MISTRAL_TEMPLATE, VICUNA_TEMPLATE, small_tokenizer
from transformers import PreTrainedTokenizerFast

from mmtok.hub.question import TextRules, text_to_cover
from mmtok.publish.ignored_text import INSTRUCTIONS, STOP_WORDS, render_chat, role_markers, text_options
from mmtok.publish.vocabulary import Vocabulary

TEMPLATES = {"vicuna": VICUNA_TEMPLATE, "mistral": MISTRAL_TEMPLATE}
SINGLE = {"vicuna": "USER: <image>\n{} ASSISTANT:", "mistral": "[INST] <image>\n{} [/INST]"}
SHORT_ANSWER = "\n" + INSTRUCTIONS[0]


def fast(backend: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def small() -> PreTrainedTokenizerFast:
    return fast(small_tokenizer())


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerFast:
    return llama_or_skip()


def rules(tokenizer: PreTrainedTokenizerFast, template: str | None, **settings: Any) -> TextRules:
    special = [tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<pad>")]
    image = tokenizer.convert_tokens_to_ids("<image>")
    return TextRules(image, special, **text_options(tokenizer, template, **settings))


def covered_pieces(
    tokenizer: PreTrainedTokenizerFast, prompts: list[str], text_rules: TextRules
) -> tuple[list[list[int]], Any]:
    """Ids of the covered pieces of each prompt, and the encoding."""
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    covered = text_to_cover(batch["input_ids"], batch["attention_mask"], text_rules)
    return [ids[valid].tolist() for ids, valid in zip(covered.ids, covered.valid, strict=True)], batch


def rows_of_the_reference(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """The ids that the reference covers: it tokenises the words that are left anew, or else the whole question."""
    for instruction in INSTRUCTIONS:
        question = question.replace(instruction, "")
    words = [word for word in re.findall(r"\b\w+\b", question) if word.lower() not in STOP_WORDS]
    return tokenizer(" ".join(words) or question.strip(), add_special_tokens=False)["input_ids"]


def check_against_the_reference(
    tokenizer: PreTrainedTokenizerFast, template: str, write: Callable[[str], str], questions: list[str]
) -> None:
    """`write` puts a question into a prompt."""
    found, _ = covered_pieces(tokenizer, [write(question) for question in questions], rules(tokenizer, template))
    for question, ids in zip(questions, found, strict=True):
        wanted = rows_of_the_reference(tokenizer, question)
        assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.convert_ids_to_tokens(wanted), write(question)


def pope_questions() -> list[str]:
    files = [DATA / f"coco_pope_{name}.json" for name in ("random", "popular", "adversarial")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"needs POPE's questions in {DATA}")
    questions = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(questions) == 9000
    return sorted(set(questions))


@pytest.mark.parametrize("template", TEMPLATES)
def test_pope_questions_cover_what_the_reference_covers(llama: PreTrainedTokenizerFast, template: str) -> None:
    questions = pope_questions()
    for suffix in ("", SHORT_ANSWER):
        asked = [question + suffix for question in questions]

        def in_a_second_turn(question: str, first: str = asked[0]) -> str:
            return render_chat(llama, TEMPLATES[template], first, "Yes.", question)

        check_against_the_reference(llama, TEMPLATES[template], SINGLE[template].format, asked)
        check_against_the_reference(llama, TEMPLATES[template], in_a_second_turn, asked)


def test_one_question_by_hand(llama: PreTrainedTokenizerFast) -> None:
    prompt = "USER: <image>\nIs there a snowboard in the image? ASSISTANT:"
    [found], _ = covered_pieces(llama, [prompt], rules(llama, VICUNA_TEMPLATE))
    assert llama.convert_ids_to_tokens(found) == ["▁there", "▁snow", "board", "▁in", "▁image"]


QUESTIONS = [
    "Is Auckland a town?",
    "What's the colour of A's car, the red or THE blue one?",
    '(is) "the" -- a/an ASSISTANTs\' USER?',
    "Who are you",
    "Où est l'été? 日本 and 3 dogs, 3a 42",
    "A",
    "the_a a-b isn't",
    "Which of the two?\nNeither: the third.",
    "What does the sign say?\n(a) Stop\n(b) Go\n" + INSTRUCTIONS[1],
    INSTRUCTIONS[1] + " Where is the cat?",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["small", "llama"])
def test_unusual_questions_cover_what_the_reference_covers(
    name: str, template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)

    def in_a_second_turn(question: str) -> str:
        return render_chat(tokenizer, TEMPLATES[template], "A dog?", "The word.", question)

    check_against_the_reference(tokenizer, TEMPLATES[template], SINGLE[template].format, QUESTIONS)
    check_against_the_reference(tokenizer, TEMPLATES[template], in_a_second_turn, QUESTIONS)


WORDS = ["Describe", "Read", "snowboard", "cat", "Stop", "42", "日本", "tokenizer", "lettering"]
BEFORE = ["is ", "\n", "\n\n", '"', "(", "<", "is: ", "“", "-", "/", ""]


@pytest.mark.parametrize("name", ["small", "llama"])
def test_a_word_has_the_same_rows_whatever_it_stands_behind(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    text_rules = rules(tokenizer, VICUNA_TEMPLATE)
    for word in WORDS:
        prompts = [f"USER: <image>\n{left}{word}? ASSISTANT:" for left in BEFORE]
        for left, ids in zip(BEFORE, covered_pieces(tokenizer, prompts, text_rules)[0], strict=True):
            assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.tokenize(word), left + word


def test_every_word_of_the_vocabulary_behind_a_newline_and_a_bracket(llama: PreTrainedTokenizerFast) -> None:
    pieces = llama.convert_ids_to_tokens(list(range(len(llama))))
    words = [piece[1:] for piece in pieces if re.fullmatch(r"▁\w+", piece) and piece[1:].lower() not in STOP_WORDS][::9]
    assert len(words) > 1000
    prompts = [f"USER: <image>\n{left}{word} ASSISTANT:" for left in ("", "(") for word in words]
    found, _ = covered_pieces(llama, prompts, rules(llama, VICUNA_TEMPLATE))
    assert [llama.convert_ids_to_tokens(ids) for ids in found] == [["▁" + word] for word in words] * 2


def test_stop_words_are_a_setting(small: PreTrainedTokenizerFast) -> None:
    prompt = ["USER: <image>\nWhere is the dog? ASSISTANT:"]
    only_dog = rules(small, VICUNA_TEMPLATE, stop_words=["dog"])
    [found], _ = covered_pieces(small, prompt, only_dog)
    assert small.decode(found).split() == ["Where", "is", "the"]
    with pytest.raises(ValueError, match=r"'the dog' is no single word"):
        text_options(small, None, stop_words=["the dog"])
    with pytest.raises(ValueError, match=r"give a list of texts"):
        text_options(small, None, stop_words="dog")
    with pytest.raises(ValueError, match=r"' ' is empty"):
        text_options(small, None, instructions=[" "])


def test_without_a_template_every_word_counts(small: PreTrainedTokenizerFast) -> None:
    [found], _ = covered_pieces(small, ["USER: <image>\nWhere is the dog? ASSISTANT:"], rules(small, None))
    assert small.decode(found).split() == ["USER", "dog", "ASSISTANT"]


def conversation(write: Any) -> Any:
    """A renderer for `role_markers` from a function of (role, text) and the text that begins the answer."""

    def render(first: str, answer: str, second: str, system: str | None = None) -> str:
        turns: Iterable[tuple[str, str]] = [("user", "<image>\n" + first), ("assistant", answer), ("user", second)]
        if system is not None:
            turns = [("system", system), *turns]
        return "".join(write(role, text) for role, text in turns) + write("assistant", "\0").split("\0")[0]

    return render


def test_role_markers_of_other_templates() -> None:
    chatml = conversation(lambda role, text: f"<|im_start|>{role}\n{text}<|im_end|>\n")
    assert role_markers(chatml) == ("<|im_start|>user", "<|im_end|>\n<|im_start|>assistant")
    headers = conversation(lambda role, text: f"### {role.title()}: {text}\n")
    assert role_markers(headers) == ("### User:", "### Assistant:")
    assert role_markers(conversation(lambda role, text: "" if role == "system" else f"{text}\n")) == ("", "")
    with pytest.raises(ValueError, match="does not write a question, its answer and the next question"):
        role_markers(lambda first, answer, second, system: answer)


def test_a_template_that_cannot_write_a_image_is_refused(small: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"cannot write a conversation with an image: no images"):
        text_options(small, "{{ raise_exception('no images') }}")


def test_vocabulary_of_llama(llama: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(llama)
    text = dict(zip(llama.convert_ids_to_tokens(list(range(len(vocabulary)))), vocabulary.texts, strict=True))
    assert (text["▁snow"], text["board"], text["<0x0A>"], text["<0xC3>"]) == (" snow", "board", "\n", "\ufffd")
    table = bytes.fromhex(vocabulary.continuation_bitmap())

    def continues(piece: str) -> bool:
        index = llama.convert_tokens_to_ids(piece)
        return bool(table[index // 8] >> index % 8 & 1)

    assert [continues(piece) for piece in ("board", "<0xC3>", "▁snow", "<0x0A>", "?", "<image>", "</s>")] == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    ignored = set(vocabulary.without_words())
    assert {llama.convert_tokens_to_ids(piece) for piece in ("?", "▁", "<0x0A>", "<image>", "▁(")} <= ignored
    assert not {llama.convert_tokens_to_ids(piece) for piece in ("board", "<0xC3>", "▁snow", "_")} & ignored


def test_byte_level_vocabulary() -> None:
    """Byte-level BPE, as in Llama 3 and Qwen: a piece may be a space and half a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["Is there a snowboard? été"] * 9, trainer)
    pruning_options = text_options(PreTrainedTokenizerFast(tokenizer_object=backend), None, stop_words=["a", "is"])
    ids = torch.tensor([backend.encode("Is a snowboard? à").ids])
    covered = text_to_cover(ids, None, TextRules(image_token_id=10_000, **pruning_options))
    assert backend.decode(covered.ids[0].tolist()) == " snowboard à"
