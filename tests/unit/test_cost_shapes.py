"""Parameter counts agree with transformers; bad configs are refused with a remedy."""

import pytest

from components.contract import SpecError
from pipelines.cost.hf_config import from_hf_config
from pipelines.cost.model_names import by_name, known_names

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
