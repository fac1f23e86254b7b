import copy

from backend.patcher.base import ModelPatcher


class UnetPatcher(ModelPatcher):
    """The image model with what is to be done to it. A clone has the same model, and a deep copy of the options."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_options = {"transformer_options": {}}

    def clone(self):
        clone = UnetPatcher(self.model, self.load_device, self.offload_device)
        clone.model_options = copy.deepcopy(self.model_options)
        return clone

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def add_conditioning_modifier(self, modifier, ensure_uniqueness=False):
        self.model_options.setdefault("conditioning_modifiers", []).append(modifier)
