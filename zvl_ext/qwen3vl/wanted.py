"""Which weights to get, for every message that some are missing: real names, the smallest download first."""

WANTED_FOR_BLEND = (
    "get qwen3vl_4b_fp8_scaled.safetensors (5.2 GB) or the folder Qwen/Qwen3-VL-4B-Instruct from Hugging Face (8.9 GB)"
)
WANTED = (
    "For engine splice get mmproj-Qwen3VL-4B-Instruct-F16.gguf from Qwen/Qwen3-VL-4B-Instruct-GGUF on Hugging Face "
    "(0.8 GB), for both engines qwen3vl_4b_fp8_scaled.safetensors (5.2 GB) or Qwen/Qwen3-VL-4B-Instruct (8.9 GB)"
)
