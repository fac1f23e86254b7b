import torch

from backend import memory_management
from backend.args import dynamic_args
from backend.text_processing.klein_engine import KleinTextProcessingEngine  # noqa: F401


class Flux2:
    """Flux.2 Klein's engine, as far as its text encoder and the pictures that it is to change."""

    def set_clip_skip(self, clip_skip):
        pass

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt):
        memory_management.load_model_gpu(self.forge_objects.clip.patcher)
        if not prompt.is_negative_prompt:
            noted = [*self.ref_latents]
            if self.ini_latent is not None:
                noted.insert(0, self.ini_latent)
                self.ini_latent = None
            dynamic_args["ref_latents"] = noted.copy()
        return self.text_processing_engine_gemma(prompt)
