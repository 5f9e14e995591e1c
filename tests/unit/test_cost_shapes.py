"""Parameter counts agree with transformers; bad configs are refused with a remedy."""

import dataclasses
import re

import pytest

from components.contract import SpecError
from pipelines.cost.hf_config import from_hf_config
from pipelines.cost.model_names import SCRATCH_SHAPES, by_name, known_names
from pipelines.cost.model_table import table

SMALL = {"num_hidden_layers": 3}
FAMILIES = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {"vocab_size": 250002},
    "electra": {},
    "distilbert": {},
    "modernbert": {},
    "gpt2": {},
    "gpt_neox": SMALL,
    "mpt": {"n_layers": 3},
    "llama": SMALL | {"num_key_value_heads": 8, "tie_word_embeddings": True},
    "mistral": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL | {"head_dim": 64},
    "gemma": SMALL,
    "gemma2": SMALL,
    "vit": {},
    "levit": {"image_size": 96, "depths": [2, 3, 4], "key_dim": [16, 16, 16]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_counts_equal_transformers(family):
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **FAMILIES[family])
    shape = from_hf_config(config.to_dict())
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert shape.backbone_parameters == sum(p.numel() for p in model.parameters())
    if shape.causal:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SCRATCH_SHAPES)
def test_models_from_scratch_count_as_the_step_makes_them(name):
    import torch

    from components.lib.modelling import new_model

    shape = SCRATCH_SHAPES[name]
    task = "causal-lm" if shape.causal else "image-classification"
    with torch.device("meta"):
        model = new_model({"config": name}, task, ["a", "b"])
    head = sum(p.numel() for n, p in model.named_parameters() if n.startswith("classifier"))
    pooler = shape.pooler * shape.hidden_size * (shape.hidden_size + 1)  # not for images here
    assert shape.parameters - pooler == sum(p.numel() for p in model.parameters()) - head


SIZES = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_heads",
    "vocab_size": "vocab_size",
}
GPT_J = {"n_embd": "hidden_size", "n_head": "num_heads", "vocab_size": "vocab_size"}
# Name of the table -> transformers' family, its names of our fields, and fixed settings.
TABLE = {
    "opt-1.3b": ("opt", SIZES | {"ffn_dim": "ffn_size", "word_embed_proj_dim": "hidden_size"},
                 SMALL),
    "bloom-560m": ("bloom", {"hidden_size": "hidden_size", "n_head": "num_heads",
                             "vocab_size": "vocab_size"}, {"n_layer": 3}),
    "falcon-7b": ("falcon", SIZES, SMALL | {"bias": False, "multi_query": True}),
    "falcon-40b": ("falcon", SIZES | {"num_kv_heads": "num_kv_heads"},
                   SMALL | {"bias": False, "new_decoder_architecture": True}),
    "gpt-neo-1.3b": ("gpt_neo", {"hidden_size": "hidden_size", "num_heads": "num_heads"},
                     {"num_layers": 3, "attention_types": [[["global"], 3]]}),
    "gpt-j-6b": ("gptj", GPT_J, {"n_layer": 3}),
    "phi-2": ("phi", SIZES | {"intermediate_size": "ffn_size"}, SMALL),
    "starcoderbase-1b": ("gpt_bigcode", GPT_J, {"n_layer": 3, "n_positions": 8192}),
    "nemotron-3-8b": ("nemotron", SIZES | {"intermediate_size": "ffn_size",
                                           "num_key_value_heads": "num_kv_heads"}, SMALL),
    "albert-base": ("albert", SIZES | {"intermediate_size": "ffn_size"},
                    {"num_hidden_layers": 12}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_families_of_the_table_count_as_transformers_does(name):
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    family, fields, fixed = TABLE[name]
    shape = by_name(name)
    if family != "albert":
        shape = dataclasses.replace(shape, num_layers=3)
    config = AutoConfig.for_model(
        family, **{key: getattr(shape, field) for key, field in fields.items()}, **fixed
    )
    with torch.device("meta"):
        model = (AutoModelForCausalLM if shape.causal else AutoModel).from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [n for n in table() if re.search(r"\d(b|m)(-|$)", n)])
def test_names_tell_their_size(name):
    number, unit = re.search(r"(\d+(?:\.\d+)?)(b|m)(?:-|$)", name).groups()
    stated = float(number) * (1e9 if unit == "b" else 1e6)
    # codegen-2b and the like round down.
    assert 0.9 < by_name(name).parameters / stated < 1.4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bert-base-uncased", 109_482_240),
        ("BERT Large", 335_141_888),
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("Llama 3.1 8B", 8_030_261_248),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("gpt2", 124_439_808),
        ("google/vit-base-patch16-224", 86_389_248),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    ],
)
def test_names_resolve_to_published_sizes(name, parameters):
    assert by_name(name).parameters == parameters


def test_every_known_name_resolves_and_unknown_ones_do_not():
    assert all(by_name(name) is not None for name in known_names())
    assert by_name("mixtral-8x7b") is None
    assert by_name("") is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({}, "model_type"),
        ({"model_type": "llama", "hidden_size": -4}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": 64}, "num_attention_heads"),
        ({"model_type": "bert", "hidden_size": 100, "num_attention_heads": 12}, "divisible"),
        ({"model_type": "qwen2", "num_experts": 8}, "experts"),
        ({"model_type": "bert", "vocab_size": "many"}, "vocab_size"),
    ],
)
def test_bad_configs_are_refused(config, words):
    with pytest.raises(SpecError, match=words) as caught:
        from_hf_config(config)
    assert caught.value.remedy
