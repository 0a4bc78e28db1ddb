"""Small random stock LLaVA and LLaVA-NeXT checkpoints, in the folder layout of the published ones.

Images are 24 x 24 with patches of 6, which makes 16 tokens per crop. Processor, tokenizer and chat template are the
real classes and the published forms; nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

Layout = Literal["llava-hf", "new", "saved"]
Backbone = Literal["vicuna", "mistral"]

# The template of llava-hf/llava-1.5-7b-hf and of the Vicuna-based LLaVA-NeXT checkpoints.
VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# The template of llava-hf/llava-v1.6-mistral-7b-hf.
MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

IMAGE_SIZE = 24
PATCH_SIZE = 6
TOKENS_PER_CROP = (IMAGE_SIZE // PATCH_SIZE) ** 2
GRID_PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]

_CORPUS = [
    "USER: ASSISTANT: [INST] [/INST]",
    "Is there a snowboard in the image? Are there two red circles on the table?",
    "What is the colour of the car? How many people are there? Where is the dog, and who walks it?",
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "Describe the picture in one sentence. Yes, no: 0 1 2 3 4 5 6 7 8 9 (a) (b) (c)",
    "a an the is are was were be been being have has had do does did it they he she we you i",
]


def make_llava_checkpoint(
    folder: str | Path,
    *,
    layout: Layout = "llava-hf",
    sharded: bool = False,
    tokenizer_model: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a stock LLaVA-1.5 checkpoint; 16 vision tokens per image.

    Args:
        folder: where to; created.
        layout: tensor names of the llava-hf repositories ("llava-hf"), those of transformers since 4.52 ("new"), or
            whatever the installed transformers writes ("saved").
        sharded: three safetensors files and an index instead of one file.
        tokenizer_model: a SentencePiece file, such as Llama's; a small tokenizer is trained without it.
        dtype: of the weights.
        seed: of the weights.
        config: further fields of `LlavaConfig`, and `hidden_size` of the language model.
    """
    fields = {"image_seq_length": TOKENS_PER_CROP, **config}
    return _make(Path(folder), "llava", "vicuna", layout, sharded, tokenizer_model, dtype, seed, fields)


def make_llava_next_checkpoint(
    folder: str | Path,
    *,
    backbone: Backbone = "vicuna",
    layout: Layout = "llava-hf",
    sharded: bool = False,
    tokenizer_model: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a stock LLaVA-NeXT checkpoint; 16 vision tokens per crop, up to 4 tiles.

    Args:
        backbone: "vicuna" (Llama, "USER: ... ASSISTANT:") or "mistral" (grouped heads, "[INST] ... [/INST]").
        folder, layout, sharded, tokenizer_model, dtype, seed, config: as in `make_llava_checkpoint`.
    """
    fields = {"image_seq_length": TOKENS_PER_CROP, "image_grid_pinpoints": GRID_PINPOINTS, **config}
    return _make(Path(folder), "llava_next", backbone, layout, sharded, tokenizer_model, dtype, seed, fields)


def _make(
    folder: Path,
    model_type: Literal["llava", "llava_next"],
    backbone: Backbone,
    layout: Layout,
    sharded: bool,
    tokenizer_model: str | Path | None,
    dtype: torch.dtype,
    seed: int,
    fields: dict[str, Any],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = llama_tokenizer(tokenizer_model) if tokenizer_model else small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    image_id, pad_id = tokenizer.token_to_id("<image>"), tokenizer.token_to_id("<pad>")
    _write_processor(folder, model_type, backbone, fields)

    config_class = LlavaConfig if model_type == "llava" else LlavaNextConfig
    config = config_class(
        text_config=_text_config(backbone, -(-tokenizer.get_vocab_size() // 64) * 64, fields.pop("hidden_size", 32)),
        vision_config=_vision_config(),
        image_token_index=image_id,
        pad_token_id=pad_id,
        **fields,
    )
    model_class = LlavaForConditionalGeneration if model_type == "llava" else LlavaNextForConditionalGeneration
    model = random_model(model_class, config, seed).to(dtype)
    if layout == "saved":
        model.save_pretrained(folder, max_shard_size="60KB" if sharded else "1GB")
        return folder
    tensors = {published_name(name, layout): tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_weights(folder, tensors, 3 if sharded else 1)
    saved = {
        **json.loads(config.to_json_string()),
        "architectures": [model_class.__name__],
        "torch_dtype": str(dtype).split(".")[-1],
    }
    saved.pop("dtype", None)
    write_json(folder / "config.json", saved)
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad_id}
    write_json(folder / "generation_config.json", generation)
    return folder


def random_model(model_class: Any, config: Any, seed: int) -> Any:
    """A model with seeded weights of a size that makes its answers depend on the image and on the prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
            elif not torch.all(parameter == 1):
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def _text_config(backbone: Backbone, vocabulary: int, hidden_size: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden_size, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    common = {"vocab_size": vocabulary, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, **sizes}
    if backbone == "vicuna":
        return {"model_type": "llama", **common}
    return {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None, **common}


def _vision_config() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    image = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "projection_dim": 32}
    return {"model_type": "clip_vision_model", **sizes, **image}


def published_name(name: str, layout: Layout) -> str:
    """The published name of a tensor of the installed transformers' state dict."""
    name = name.replace("model.vision_tower.vision_model.", "model.vision_tower.")
    name = name.replace("model.vision_tower.", "model.vision_tower.vision_model.")
    if layout == "new":
        return name
    if name.startswith("lm_head."):
        return "language_model." + name
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1)


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    files = {f"model-{i + 1:05}-of-{shards:05}.safetensors": names[i::shards] for i in range(shards)}
    for file, members in files.items():
        save_file({name: tensors[name] for name in members}, folder / file, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map = {name: file for file, members in files.items() for name in members}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def _write_processor(folder: Path, model_type: str, backbone: Backbone, fields: dict[str, Any]) -> None:
    processor_class = "LlavaProcessor" if model_type == "llava" else "LlavaNextProcessor"
    image: dict[str, Any] = {
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor" if model_type == "llava" else "LlavaNextImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": processor_class,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": IMAGE_SIZE},
    }
    if model_type == "llava_next":
        image |= {"do_pad": True, "image_grid_pinpoints": fields["image_grid_pinpoints"]}
    write_json(folder / "preprocessor_config.json", image)
    write_json(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH_SIZE,
            "processor_class": processor_class,
            "vision_feature_select_strategy": "default",
        },
    )
    template = VICUNA_TEMPLATE if backbone == "vicuna" else MISTRAL_TEMPLATE
    write_json(folder / "chat_template.json", {"chat_template": template})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "extra_special_tokens": {"image_token": "<image>"},
            "image_token": "<image>",
            "legacy": False,
            "model_max_length": 1024,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": processor_class,
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    )


def small_tokenizer() -> Tokenizer:
    """A byte-fallback BPE in the form of Llama's, trained on a few sentences: the same ids every time."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=440, special_tokens=specials, show_progress=False)
    )
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    return _like_llama(Tokenizer(models.BPE(vocab=state["vocab"], merges=merges, **_BPE_FORM)))


def llama_tokenizer(model_file: str | Path) -> Tokenizer:
    """The tokenizer of a SentencePiece BPE file with <image> and <pad> behind its pieces."""
    pieces = list(_pieces(Path(model_file)))
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    ranked = sorted((-score, index) for index, (piece, score) in enumerate(pieces) if index >= 259 and len(piece) > 1)
    merges = []
    for _, index in ranked:
        piece = pieces[index][0]
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return _like_llama(Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **_BPE_FORM)))


def _pieces(model_file: Path) -> Iterator[tuple[str, float]]:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(model_file))
    for index in range(model.get_piece_size()):
        yield model.id_to_piece(index), model.get_score(index)


_BPE_FORM: dict[str, Any] = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def _like_llama(tokenizer: Tokenizer) -> Tokenizer:
    """Normaliser, decoder and special tokens of the llava-hf tokenizer files."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>", "<image>", "<pad>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
