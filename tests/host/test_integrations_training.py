"""PEFT, Trainer and gradient accumulation with pruning on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import IMAGE, IMAGE_SIZE, Family
from transformers import Trainer, TrainingArguments

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2], [5], [2, SIZE, 6]]


@pytest.fixture
def model(family: Family) -> Any:
    return family.models(vision_token_budget=3)[0]


def labelled(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels for the words; none for images and padding."""
    ids = inputs["input_ids"]
    silent = (ids == IMAGE) | (inputs["attention_mask"] == 0)
    return {**inputs, "labels": ids.masked_fill(silent, -100)}


def examples(family: Family, model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    rows = [ROWS[0]] * count
    batch = labelled(family.inputs(rows, model, left=False))
    return [family.single(batch, row, slice(row, row + 1)) for row in range(count)]


def collated(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


# PEFT's own use of transformers.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
def test_an_adapter_learns_is_saved_and_merges(family: Family, model: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)"))
    data = examples(family, model, 8)
    settings = TrainingArguments(
        output_dir=str(tmp_path / "runs"),
        max_steps=20,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=2e-2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Trainer(model=adapted, args=settings, train_dataset=data, data_collator=collated)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])

    inputs = {name: values for name, values in collated(data[:2]).items() if name != "labels"}
    settings_of_call: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    adapted.eval()
    learned = adapted.generate(**inputs, **settings_of_call)
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = peft.PeftModel.from_pretrained(family.models(vision_token_budget=3)[0], tmp_path / "adapter").eval()
    assert torch.equal(fresh.generate(**inputs, **settings_of_call), learned)
    merged = fresh.merge_and_unload()
    assert type(merged) is family.model_class
    assert torch.equal(merged.generate(**inputs, **settings_of_call), learned)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_accumulated_gradients_are_those_of_the_batch(family: Family, model: Any, checkpointing: bool) -> None:
    if not family.reads_loss_arguments():
        pytest.skip("The stock loss of this release leaves out num_items_in_batch.")
    batch = labelled(family.inputs(ROWS, model, left=False))
    words = int((batch["labels"][:, 1:] != -100).sum())
    if checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.train()
    model(**batch, num_items_in_batch=words).loss.backward()
    whole = gradients(model)
    model.zero_grad()
    image = 0
    for row, pieces in enumerate(ROWS):
        images = sum(isinstance(piece, tuple) for piece in pieces)
        one = family.single(batch, row, slice(image, image + images))
        model(**one, num_items_in_batch=words).loss.backward()
        image += images
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], atol=2e-5, rtol=2e-4, msg=lambda text, name=name: name + text)
    projector = {id(values) for values in family.projector(model).parameters()}
    assert all(whole[name].abs().sum() > 0 for name, values in model.named_parameters() if id(values) in projector)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}
