"""The question: which text tokens of a prompt the kept vision tokens have to cover.

Everything here works on whole batches of token ids, (B, L), on any device; nothing depends on a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .packing import PackedOrder


@dataclass(frozen=True)
class TextRules:
    """What is known about the token ids of a prompt; see `PruningOptions` for the last six.

    `special_token_ids` and `image_token_id` are never covered; the rest is derived from tokenizer and chat template.
    """

    image_token_id: int
    special_token_ids: Sequence[int] = ()
    ignored_token_ids: Sequence[int] = ()
    ignored_token_sequences: Sequence[Sequence[int]] = ()
    instruction_token_sequences: Sequence[Sequence[int]] = ()
    user_turn_token_sequences: Sequence[Sequence[int]] = ()
    assistant_turn_token_sequences: Sequence[Sequence[int]] = ()
    word_continuation_bitmap: str = ""


def text_to_cover(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, rules: TextRules) -> torch.Tensor:
    """Marks the text tokens that the kept vision tokens have to cover: the words of the last user turn.

    Role markers, special tokens, fixed instructions, punctuation and stop words are left out. Where nothing is left,
    punctuation and stop words come back; where there is still nothing, a row has no marked token.

    Args:
        input_ids: (B, L) integer.
        attention_mask: (B, L), 0 for padding; None for no padding.
        rules: what is known about the ids.

    Returns:
        (B, L) bool.
    """
    image = input_ids == rules.image_token_id
    real = torch.ones_like(image) if attention_mask is None else attention_mask.to(image.device).bool()
    # One token stands for a whole run of image tokens, so that no sequence matches across a picture and the work
    # below grows with the text alone.
    repeated = torch.nn.functional.pad(image[:, 1:] & image[:, :-1] & real[:, :-1], (1, 0))
    shortened = PackedOrder.of(real & ~repeated)
    marked = _words_to_cover(shortened.gather(input_ids), shortened.valid, rules)
    return torch.zeros_like(image).scatter(1, shortened.index, marked & shortened.valid)


def _words_to_cover(ids: torch.Tensor, valid: torch.Tensor, rules: TextRules) -> torch.Tensor:
    """(B, L) ids without padding inside -> (B, L) bool."""
    specials = _is_any(ids, [*rules.special_token_ids, rules.image_token_id]) | ~valid
    ignored = _is_any(ids, rules.ignored_token_ids)
    continues = _from_bitmap(ids, rules.word_continuation_bitmap)
    # A sequence of ids stands for whole words only: neither its first nor the next token may continue a word.
    glued = continues & torch.nn.functional.pad(~(specials | ignored)[:, :-1], (1, 0))

    def matched(sequences: Iterable[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return _find_sequences(ids, valid, glued, sequences)

    user, user_ends = matched(rules.user_turn_token_sequences)
    assistant, _ = matched(rules.assistant_turn_token_sequences)
    turn = _last_user_turn(user_ends, assistant)
    instructions, _ = matched(rules.instruction_token_sequences)
    stop_words, _ = matched(rules.ignored_token_sequences)

    question = turn & ~(specials | user | assistant | instructions)
    words = question & ~(ignored | stop_words)
    return torch.where(words.any(1, keepdim=True), words, question)


def _last_user_turn(user_ends: torch.Tensor, assistant: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: behind the last opening of a user turn, up to the assistant's turn that follows it."""
    positions = torch.arange(user_ends.shape[1], device=user_ends.device)
    start = torch.where(user_ends, positions + 1, 0).amax(1, keepdim=True)
    behind = positions >= start
    answered = (assistant & behind).cumsum(1) > 0
    # Without any user marker the whole row counts, whatever the assistant said in it.
    return behind & ~(answered & user_ends.any(1, keepdim=True))


def _find_sequences(
    ids: torch.Tensor, valid: torch.Tensor, glued: torch.Tensor, sequences: Iterable[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds id sequences that stand for whole words.

    Returns:
        (B, L) bool, tokens inside a match; (B, L) bool, last tokens of the matches.
    """
    inside, ends = torch.zeros_like(valid), torch.zeros_like(valid)
    by_length: dict[int, list[list[int]]] = {}
    for sequence in sequences:
        by_length.setdefault(len(sequence), []).append(list(sequence))
    glued_next = torch.nn.functional.pad(glued[:, 1:], (0, 1))
    for length, group in by_length.items():
        if length > ids.shape[1]:
            continue
        windows = ids.unfold(1, length, 1)
        wanted = torch.tensor(group, device=ids.device)
        found = (windows[:, :, None] == wanted).all(-1).any(-1)
        last = ids.shape[1] - length + 1
        found &= valid[:, length - 1 :] & ~glued[:, :last] & ~glued_next[:, length - 1 :]
        ends[:, length - 1 :] |= found
        for offset in range(length):
            inside[:, offset : offset + last] |= found
    return inside, ends


def _is_any(ids: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
    return torch.isin(ids, torch.tensor(list(wanted), dtype=ids.dtype, device=ids.device))


def _from_bitmap(ids: torch.Tensor, bitmap: str) -> torch.Tensor:
    """(B, L) bool: bit of each id in a hexadecimal bitmap, False for ids behind its end."""
    if not bitmap:
        return torch.zeros_like(ids, dtype=torch.bool)
    table = torch.tensor(list(bytes.fromhex(bitmap)), device=ids.device)
    byte = table[(ids // 8).clamp(0, len(table) - 1)]
    return ((byte >> (ids % 8)) & 1).bool() & (ids < 8 * len(table))


def ids_of_embeddings(inputs_embeds: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The token ids that embeddings were looked up with.

    Args:
        inputs_embeds: (B, L, hidden).
        table: (V, hidden), the embeddings of all ids.

    Returns:
        (B, L) int64; V for vectors that are in no row of the table, such as those of vision tokens or soft prompts.
    """
    flat = inputs_embeds.flatten(0, 1)
    table = table.to(flat.device, flat.dtype)
    ids = torch.full((len(flat),), len(table), device=flat.device)
    # A few components leave hardly any pair to compare in full; the slices bound the memory.
    for start in range(0, len(flat), 256):
        rows = flat[start : start + 256]
        same = torch.ones(len(rows), len(table), dtype=torch.bool, device=flat.device)
        for component in range(min(4, table.shape[1])):
            same &= rows[:, component, None] == table[:, component]
        row, candidate = same.nonzero(as_tuple=True)
        found = (rows[row] == table[candidate]).all(-1)
        # Backwards, so that the first of equal rows wins.
        ids[start + row[found].flip(0)] = candidate[found].flip(0)
    return ids.view(inputs_embeds.shape[:2])
