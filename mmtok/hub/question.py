"""The question: which text of a prompt the kept vision tokens have to cover.

Everything here works on whole batches of token ids, (B, L); nothing depends on a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .prompt import PackedOrder
from .word_pieces import WordPieces

# Attributes of configurations that name token ids which are no text.
_SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)


@dataclass(frozen=True)
class TextRules:
    """What is known about the token ids of a prompt; see `PruningOptions` for those from `ignored_token_ids` on.

    `special_token_ids`, `image_token_id` and `video_token_id` are never covered; the rest is derived from tokenizer and
    chat template.
    """

    image_token_id: int
    special_token_ids: Sequence[int] = ()
    ignored_token_ids: Sequence[int] = ()
    ignored_token_sequences: Sequence[Sequence[int]] = ()
    punctuation_token_sequences: Sequence[Sequence[int]] = ()
    instruction_token_sequences: Sequence[Sequence[int]] = ()
    user_turn_token_sequences: Sequence[Sequence[int]] = ()
    assistant_turn_token_sequences: Sequence[Sequence[int]] = ()
    timestamp_token_ids: Sequence[int] = ()
    word_continuation_bitmap: str = ""
    word_piece_texts: str = ""
    video_token_id: int | None = None

    @classmethod
    def from_config(cls, config: Any, tables: Mapping[str, Any]) -> TextRules:
        """The rules for the prompts of a model.

        Args:
            config: an MMTok configuration.
            tables: `PruningOptions.tables`.
        """
        special: list[int] = []
        for each in (config, config.get_text_config()):
            for name in _SPECIAL_TOKENS:
                value = getattr(each, name, None)
                special += [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return cls(config.image_token_id, special, video_token_id=getattr(config, "video_token_id", None), **tables)

    @property
    def vision_token_ids(self) -> list[int]:
        return [self.image_token_id] if self.video_token_id is None else [self.image_token_id, self.video_token_id]


@dataclass(frozen=True)
class CoveredText:
    """The text to cover of B prompts, M pieces each.

    Attributes:
        ids: (B, M) int64, token ids. A word counts as it is written behind a space, whatever it stands behind.
        positions: (B, M) int64, where in the prompt each piece stands; for a piece that is written otherwise there,
            where its word begins.
        valid: (B, M) bool, False for fillers, which stand behind the pieces of a row.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    valid: torch.Tensor


def text_to_cover(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, rules: TextRules) -> CoveredText:
    """Finds the text that the kept vision tokens have to cover: the words of the last user turn.

    Role markers, special tokens, fixed instructions, punctuation and stop words are left out. Where nothing is left,
    punctuation and stop words come back; where there is still nothing, the words of the instructions.

    Args:
        input_ids: (B, L) integer.
        attention_mask: (B, L), 0 for padding; None for no padding.
        rules: what is known about the ids.

    Returns:
        `CoveredText` on the device of `input_ids`.

    Raises:
        ValueError: `rules.word_piece_texts` holds no texts.
    """
    image = _is_any(input_ids, rules.vision_token_ids)
    real = torch.ones_like(image) if attention_mask is None else attention_mask.to(image.device).bool()
    # One token stands for a whole run of vision tokens, so that no sequence matches across an image and the work
    # below grows with the text alone.
    repeated = torch.nn.functional.pad(image[:, 1:] & image[:, :-1] & real[:, :-1], (1, 0))
    shortened = PackedOrder.of(real & ~repeated)
    ids = shortened.gather(input_ids)
    marked, begins = _words_to_cover(ids, shortened.valid, rules)
    marked &= shortened.valid
    if not rules.word_piece_texts:
        order = PackedOrder.of(marked)
        return CoveredText(order.gather(ids), order.gather(shortened.index), order.valid)
    bare = begins & _from_bitmap(ids, rules.word_continuation_bitmap)
    vocabulary = WordPieces.of(rules.word_piece_texts)
    rows = [
        _as_behind_a_space(*row, vocabulary)
        for row in zip(ids.tolist(), marked.tolist(), begins.tolist(), bare.tolist(), strict=True)
    ]
    return _side_by_side(rows, shortened.index)


def _words_to_cover(ids: torch.Tensor, valid: torch.Tensor, rules: TextRules) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L) ids without padding inside -> (B, L) bool, pieces to cover; (B, L) bool, pieces that begin a word."""
    specials = _is_any(ids, [*rules.special_token_ids, *rules.vision_token_ids]) | ~valid
    nowhere = torch.zeros_like(valid)
    # The bytes of one character are found wherever they stand: no other character contains them.
    punctuation, _ = _find_sequences(ids, valid, nowhere, rules.punctuation_token_sequences)
    ignored = _is_any(ids, rules.ignored_token_ids) | punctuation
    timestamps = _timestamps(ids, specials, rules)
    no_word = specials | ignored
    # A sequence of ids stands for whole words only: neither its first nor the next token may continue a word.
    glued = (
        _from_bitmap(ids, rules.word_continuation_bitmap)
        & ~punctuation
        & torch.nn.functional.pad(~no_word[:, :-1], (1, 0))
    )

    def matched(sequences: Iterable[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return _find_sequences(ids, valid, glued, sequences)

    _, user_ends = matched(rules.user_turn_token_sequences)
    assistant, _ = matched(rules.assistant_turn_token_sequences)
    turn = _last_user_turn(user_ends, assistant, alternating=bool(rules.assistant_turn_token_sequences))
    instructions, _ = matched(rules.instruction_token_sequences)
    stop_words, _ = matched(rules.ignored_token_sequences)

    text = turn & ~(specials | assistant | timestamps)
    question = text & ~instructions
    marked = question & ~(ignored | stop_words)
    for otherwise in (question, text & ~(ignored | stop_words)):
        marked = torch.where(marked.any(1, keepdim=True), marked, otherwise)
    return marked, ~(glued | no_word)


def _timestamps(ids: torch.Tensor, specials: torch.Tensor, rules: TextRules) -> torch.Tensor:
    """(B, L) bool: the text of `timestamp_token_ids` that ends in front of a frame, or of the marker before one."""
    wanted = _is_any(ids, rules.timestamp_token_ids)
    found = torch.zeros_like(wanted)
    if rules.video_token_id is None or not rules.timestamp_token_ids:
        return found
    ends = ids == rules.video_token_id
    ends |= torch.nn.functional.pad(ends[:, 1:], (0, 1)) & specials
    while bool(ends.any()):
        ends = torch.nn.functional.pad(ends[:, 1:], (0, 1)) & wanted
        found |= ends
    return found


def _last_user_turn(user_ends: torch.Tensor, assistant: torch.Tensor, *, alternating: bool) -> torch.Tensor:
    """(B, L) bool: behind the last opening of a user turn, up to the assistant's turn that follows it.

    Where turns are `alternating`, a marker of the user inside the user's own turn is text and opens nothing.
    """
    positions = torch.arange(user_ends.shape[1], device=user_ends.device)

    def latest_before(flags: torch.Tensor) -> torch.Tensor:
        latest = torch.where(flags, positions, -1).cummax(1).values
        return torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)

    opens = user_ends
    if alternating:
        opens = user_ends & ((latest_before(assistant) > latest_before(user_ends)) | (latest_before(user_ends) < 0))
    start = torch.where(opens, positions + 1, 0).amax(1, keepdim=True)
    behind = positions >= start
    answered = (assistant & behind).cumsum(1) > 0
    # Without any user marker the whole row counts, whatever the assistant said in it.
    return behind & ~(answered & opens.any(1, keepdim=True))


def _as_behind_a_space(
    ids: list[int], marked: list[bool], begins: list[bool], bare: list[bool], vocabulary: WordPieces
) -> list[tuple[int, int]]:
    """The marked pieces of one row as (id, position); words that lack the space in front as they are with it."""
    pieces: list[tuple[int, int]] = []
    position = 0
    while position < len(ids):
        end = position + 1
        if begins[position]:
            while end < len(ids) and marked[end] and not begins[end]:
                end += 1
        if marked[position]:
            if begins[position] and (bare[position] or vocabulary.lacks_space(ids[position])):
                pieces += [(index, position) for index in vocabulary.behind_a_space(ids[position:end])]
            else:
                pieces += [(ids[place], place) for place in range(position, end)]
        position = end
    return pieces


def _side_by_side(rows: Sequence[Sequence[tuple[int, int]]], index: torch.Tensor) -> CoveredText:
    """Rows of (id, position), filled up; `index` (B, L) is where in the prompt the positions are."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *[(0, -1)] * (width - len(row))] for row in rows]
    table = torch.tensor(filled, dtype=torch.long, device=index.device).reshape(len(rows), width, 2)
    valid = table[..., 1] >= 0
    return CoveredText(table[..., 0], index.gather(1, table[..., 1].clamp_min(0)), valid)


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
