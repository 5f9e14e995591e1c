"""Models cut unevenly compute what their masked originals compute, and survive a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from components.contract import DataError, SpecError
from components.lib import pruned
from components.lib.modelling import (
    KNOWN_CONFIGS,
    load_model,
    new_model,
    resolve_tokenizer,
    save_model,
)
from tests.inference_support import MINILM

LABELS = ["O", "B-LOC", "I-LOC"]
IDS = torch.tensor([[101, 2000, 2100, 2200, 102], [101, 2300, 102, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def tiny(config: str = "bert-tiny", task: str = "token-classification") -> torch.nn.Module:
    torch.manual_seed(0)
    return new_model({"config": config}, task, LABELS).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits


def cut_unevenly(model: torch.nn.Module) -> None:
    pruned.shrink(model, [np.array([1]), np.array([0, 1])], [np.arange(0, 512, 3), np.arange(40)])


def masked(model: torch.nn.Module) -> torch.Tensor:
    """The logits with the same structures set to zero instead of removed."""
    keep_heads = [torch.tensor([0.0, 1.0]), torch.ones(2)]
    keep_neurons = [torch.zeros(512), torch.zeros(512)]
    keep_neurons[0][::3] = 1.0
    keep_neurons[1][:40] = 1.0
    handles = []
    for layer, heads, neurons in zip(
        pruned.layers_of(model), keep_heads, keep_neurons, strict=True
    ):
        columns = heads.repeat_interleave(64)
        for module, mask in (
            (layer.attention.output.dense, columns),
            (layer.output.dense, neurons),
        ):
            handles.append(module.register_forward_pre_hook(lambda _, x, mask=mask: (x[0] * mask,)))
    found = logits(model)
    for handle in handles:
        handle.remove()
    return found


def saved(model: torch.nn.Module, folder: Path) -> Path:
    folder.mkdir()
    info = {"labels": LABELS, "task": "token-classification",
            "pruning": pruned.description(model)}  # fmt: skip
    save_model(model, folder, tokenizer=resolve_tokenizer(MINILM), info=info)
    return folder


def test_removing_equals_masking() -> None:
    model = tiny()
    expected = masked(model)
    cut_unevenly(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=1e-5)


def test_sizes_and_description_follow_the_cut() -> None:
    model = tiny()
    assert pruned.description(model) is None
    before = pruned.encoder_parameters(model)
    cut_unevenly(model)
    assert pruned.description(model) == {
        "layers": [{"heads": 1, "neurons": 171}, {"heads": 2, "neurons": 40}]
    }
    head = 4 * 64 * 128 + 3 * 64
    neuron = 2 * 128 + 1
    assert before - pruned.encoder_parameters(model) == head + (512 - 171 + 512 - 40) * neuron


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_pruned_model_reloads_bit_for_bit(tmp_path: Path, attention: str) -> None:
    model = tiny()
    cut_unevenly(model)
    folder = saved(model, tmp_path / "model")
    again = load_model(folder, "token-classification", attention=attention)
    for (name, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=1e-5)


def test_a_pruned_model_is_pruned_and_trained_again(tmp_path: Path) -> None:
    model = tiny()
    cut_unevenly(model)
    again = load_model(saved(model, tmp_path / "model"), "token-classification")
    pruned.shrink(again, [np.array([0]), np.array([1])], [np.arange(16), np.arange(8)])
    again.train()
    again(input_ids=IDS, attention_mask=MASK).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in pruned.layers_of(again)[0].intermediate.parameters())  # fmt: skip


def test_fewer_layers_are_an_ordinary_model(tmp_path: Path) -> None:
    model = tiny()
    pruned.keep_layers(model, [1])
    assert model.config.num_hidden_layers == 1
    assert pruned.description(model) is None
    again = load_model(saved(model, tmp_path / "model"), "token-classification")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_decoders_lose_neurons_and_layers(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    shape = {**KNOWN_CONFIGS["llama-tiny"], "model_type": family, "vocab_size": 3000}
    AutoConfig.for_model(**shape, head_dim=64).save_pretrained(tmp_path / "config")
    model = new_model({"config": str(tmp_path / "config")}, "causal-lm", []).eval()
    pruned.keep_layers(model, [0, 3])
    whole = np.arange(3)
    pruned.shrink(model, [whole, whole], [np.arange(100), np.arange(7)])
    expected = logits(model)
    folder = tmp_path / "model"
    folder.mkdir()
    info = {"labels": [], "task": "causal-lm", "pruning": pruned.description(model)}
    save_model(model, folder, tokenizer=resolve_tokenizer(MINILM), info=info)
    again = load_model(folder, "causal-lm")
    torch.testing.assert_close(logits(again), expected)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = tiny()
    cut_unevenly(model)
    folder = saved(model, tmp_path / "model")
    info = json.loads((folder / "suanli.json").read_text())
    info["pruning"]["layers"][0]["neurons"] = 172
    (folder / "suanli.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="don't fit"):
        load_model(folder, "token-classification")


def test_a_family_without_support_is_named() -> None:
    model = tiny()
    model.config.model_type = "gpt2"
    with pytest.raises(SpecError, match="gpt2 models can't be pruned"):
        pruned.layout_of(model)


def test_every_known_config_has_a_layout() -> None:
    stacks = {entry["model_type"] for entry in KNOWN_CONFIGS.values()} - {"levit"}  # unequal layers
    assert stacks <= set(pruned.LAYOUTS)
