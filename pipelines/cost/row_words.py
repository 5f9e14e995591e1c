"""How other tables write what `pipelines.cost.rows` reads: tools, precisions, tasks, shardings."""

from __future__ import annotations

# Tools by the runtime whose kernels they run.
_RUNTIMES = {
    "pytorch": (
        *("", "torch", "torchscript", "transformers", "huggingface", "hf", "accelerate", "peft"),
        *("lightning", "litgpt", "composer", "llm-foundry", "torchtune", "torchtitan", "axolotl"),
        *("unsloth", "llama-factory", "fairseq", "fsdp", "ddp", "fairscale"),
    ),
    "onnxruntime": ("ort", "onnx", "onnxruntime-cuda", "onnxruntime-gpu", "optimum"),
    "onnxruntime-tensorrt": ("ort-tensorrt", "ort-trt", "onnxruntime-trt"),
    "tensorrt": (
        *("trt", "tensorrt-llm", "trt-llm", "trtllm", "torch-tensorrt", "fastertransformer"),
        *("deepspeed-inference", "lightseq", "vllm", "sglang", "tgi"),
    ),
    "tensorflow": ("tf", "tf1", "tf2", "keras", "mxnet"),
    "megatron": ("megatron-lm", "megatron-deepspeed", "megatron-core", "colossalai"),
    "nemo": ("megatron-bridge", "nemo-framework"),
    "deepspeed": ("zero", "zero-offload"),
    "paddle": ("paddlepaddle",),
}
RUNTIME_ALIASES = {alias: name for name, aliases in _RUNTIMES.items() for alias in aliases}
PRECISION_ALIASES = {
    "amp": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "mixed": "fp16",
    "half": "fp16",
    "w8a8": "int8",
    "i8": "int8",
    "8bit": "int8",
    "16": "fp16",
    "32": "fp32",
    "single": "fp32",
    "full": "fp32",
    "float8": "fp8",
    "mxfp8": "fp8",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
    "o1": "fp16",
    "o2": "fp16",
}
# Weights in 4 or 8 bits under products in half precision: (products, weights).
WEIGHT_ONLY = {
    **dict.fromkeys(("int4", "4bit", "nf4", "awq", "gptq", "w4a16", "q4"), ("fp16", "nf4")),
    "w8a16": ("fp16", "int8-weights"),
}
KIND_ALIASES = {
    "inference": "infer", "serving": "infer", "prefill": "infer", "training": "train",
    "fine-tuning": "train", "finetuning": "train", "finetune": "train", "pretraining": "train",
}  # fmt: skip
TASK_ALIASES = {
    **dict.fromkeys(("inference", "serving", "prefill"), "infer"),
    **dict.fromkeys(("pretraining", "pre-training", "pre-train"), "pretrain"),
    **dict.fromkeys(
        ("sft", "full", "full-finetune", "full-finetuning", "full-fine-tuning", "fine-tuning",
         "fine-tune", "finetuning", "instruction-tuning", "training", "train"), "finetune"
    ),
    **dict.fromkeys(("dora", "peft", "adapter", "ia3", "prefix-tuning", "lora-finetune"), "lora"),
    **dict.fromkeys(("qdora", "qlora-finetune"), "qlora"),
}  # fmt: skip
SHARDINGS = {
    "zero-1": "zero1", "zero-2": "zero2", "zero-3": "zero3", "stage1": "zero1", "stage2": "zero2",
    "stage3": "zero3", "zero-stage-1": "zero1", "zero-stage-2": "zero2", "zero-stage-3": "zero3",
    "fsdp1": "fsdp", "fsdp2": "fsdp", "hsdp": "fsdp", "full-shard": "fsdp", "dp": "ddp",
    "deepspeed-zero1": "zero1", "deepspeed-zero2": "zero2", "deepspeed-zero3": "zero3",
}  # fmt: skip
CHECKPOINTING = {"full": "full", "block": "full", "selective": "selective", "sel": "selective"}
# How tables write a cell that says nothing.
NOTHING = ("none", "nan", "n/a", "na", "null", "-", "unknown", "not stated")
