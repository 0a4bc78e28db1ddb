"""The tokens that the model knows, their tokenizer and the chat template: Qwen's, with few words."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmtok.tiny.catalogue import CATEGORIES
from mmtok.tiny.prints import CHARACTERS, COLORS
from mmtok.tiny.questions import SHORT_ANSWER
from mmtok.tiny.reading import NAMES

PAD, START, END, IMAGE, VIDEO = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
CONTEXT = 4096

# Qwen's split of a text into the pieces that are encoded one by one.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The last line is what texts begin with: without a space.
_TEXTS = (
    "Is there a an in the image? What is written in the image? How many objects are in the image? word number",
    SHORT_ANSWER,
    " ".join(("", *CATEGORIES, *COLORS, *NAMES)),
    *("user", "assistant", "Is", "What", "How", "yes", "no", *NAMES),
)

# Qwen2.5-VL's, without its system prompt.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def tokens() -> list[str]:
    """List the vocabulary in the order of its ids: special tokens, all bytes, then the words of questions and answers.

    Characters of print are bytes.
    """
    split = _pre_tokenizer()
    words = [word for text in _TEXTS for word, _ in split.pre_tokenize_str(text)]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]))


def token_ids() -> dict[str, int]:
    """Token -> id."""
    return {token: index for index, token in enumerate(tokens())}


def character_ids() -> list[int]:
    """Ids of `CHARACTERS`."""
    ids = token_ids()
    return [ids[character] for character in CHARACTERS]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: byte-level, a known word as one token, any other text as its bytes."""
    backend = Tokenizer(models.BPE(token_ids(), [], ignore_merges=True))
    backend.pre_tokenizer = _pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
