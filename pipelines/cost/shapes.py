"""Architecture of a transformer: the numbers that parameters, FLOPs and bytes follow from.

No framework is imported: shapes come from a Hugging Face ``config.json`` (see `hf_config`), from
a name (see `model_names`) or from the architecture columns of a table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """An encoder or decoder stack of equal layers.

    The first block is what every prediction needs; the second makes parameter counts exact. Flags
    default to a pre-2023 transformer with biases and LayerNorm. `max_positions` counts the rows
    of a *learned* position table (0: rotary, ALiBi or relative positions). `embedding_size` is
    the width of the token table where it differs from `hidden_size` (ELECTRA). `extra_parameters`
    holds what no flag describes (class token, a first layer without norm) and may be negative.
    """

    family: str = "generic"
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    tied_embeddings: bool = True
    gated_mlp: bool = False
    causal: bool = True

    max_positions: int = 0
    type_vocab: int = 0
    embedding_size: int = 0
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    norms_per_layer: int = 2
    qk_norm_parameters: int = 0
    embedding_norm: bool = False
    final_norm: bool = False
    pooler: bool = False
    lm_head_bias: bool = False
    extra_parameters: int = 0
    context_length: int = 0
    sliding_window: int = 0
    global_every: int = 1
    image_size: int = 0
    patch_size: int = 0
    image_channels: int = 3

    @property
    def query_size(self) -> int:
        """Width of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection (the value projection has the same)."""
        return self.num_kv_heads * self.head_dim

    @property
    def image_tokens(self) -> int:
        """Sequence length of one image with its class token; 0 for text models."""
        return (self.image_size // self.patch_size) ** 2 + 1 if self.patch_size else 0

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        h, q, kv, f = self.hidden_size, self.query_size, self.kv_size, self.ffn_size
        attention = h * (q + 2 * kv) + q * h
        attention += self.qkv_bias * (q + 2 * kv) + self.out_bias * h + self.qk_norm_parameters
        inner = (2 if self.gated_mlp else 1) * f
        mlp = h * inner + f * h + self.mlp_bias * (inner + h)
        return attention + mlp + self.norms_per_layer * self._norm(h)

    @property
    def embedding_parameters(self) -> int:
        """Parameters before the first layer (token, position, type or patch embeddings)."""
        width = self.embedding_size or self.hidden_size
        if self.patch_size:
            patches = self.image_channels * self.patch_size**2 * width + width
            return patches + width + self.image_tokens * width
        tables = (self.vocab_size + self.max_positions + self.type_vocab) * width
        projection = width * self.hidden_size + self.hidden_size if self.embedding_size else 0
        return tables + self.embedding_norm * self._norm(width) + projection

    @property
    def backbone_parameters(self) -> int:
        """Parameters of the model without a task head (``AutoModel``; pooler where it has one)."""
        h = self.hidden_size
        tail = self.final_norm * self._norm(h) + self.pooler * (h * h + h)
        layers = self.num_layers * self.layer_parameters
        return self.embedding_parameters + layers + tail + self.extra_parameters

    @property
    def lm_head_parameters(self) -> int:
        """Parameters of a causal language-model head; 0 if tied to the embedding."""
        head = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size
        return head + self.lm_head_bias * self.vocab_size

    @property
    def parameters(self) -> int:
        """Parameters as usually quoted: with the language-model head if the model is causal."""
        return self.backbone_parameters + (self.lm_head_parameters if self.causal else 0)

    @property
    def matmul_parameters(self) -> int:
        """Parameters that multiply every token (weights of the layers, embeddings apart)."""
        h, q, kv = self.hidden_size, self.query_size, self.kv_size
        mlp = (3 if self.gated_mlp else 2) * h * self.ffn_size
        return self.num_layers * (h * (q + 2 * kv) + q * h + mlp)

    def _norm(self, width: int) -> int:
        return width * (1 + self.norm_bias)
