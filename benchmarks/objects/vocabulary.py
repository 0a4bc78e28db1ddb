"""The words that the model knows, their tokenizer and the chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmtok.tiny.catalogue import CATEGORIES, NAMES
from mmtok.tiny.questions import COUNT, DESCRIBE, SHORT_ANSWER

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, IMAGE)
_SPLIT = pre_tokenizers.Whitespace()
_TEMPLATES = ("USER: ASSISTANT:", "Is there a an in the image?", "What is in the image?", "yes no and , .")

# Vicuna's prompt form, as the llava-hf repos have it: images first, then the text; an answer ends with </s>.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'] | upper }}: {% endif -%}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{{ '</s>' if message['role'] == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"""


def words() -> list[str]:
    """List the vocabulary in the order of its ids: special tokens, then every word of the questions and answers."""
    texts = [*_TEMPLATES, COUNT, DESCRIBE, SHORT_ANSWER, *CATEGORIES, *NAMES, *map(str, range(10))]
    found = [word for text in texts for word, _ in _SPLIT.pre_tokenize_str(text.lower())]
    return [*SPECIAL_TOKENS, *dict.fromkeys(found)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer: lower case, punctuation apart, <s> in front."""
    vocabulary = {word: index for index, word in enumerate(words())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = _SPLIT
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    # Words are whole, so no prefix marks a continuation; this decoder is taken for its spacing of punctuation.
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
