import torch

from backend import memory_management
from backend.text_processing.qwen3_engine import Qwen3TextProcessingEngine  # noqa: F401


class ZImage:
    """Z-Image's engine, as far as its text encoder."""

    def set_clip_skip(self, clip_skip):
        pass

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt):
        memory_management.load_model_gpu(self.forge_objects.clip.patcher)
        self.forge_objects.unet.model.predictor.set_parameters(shift=getattr(prompt, "distilled_cfg_scale", 3.0))
        return self.text_processing_engine_gemma(prompt)
