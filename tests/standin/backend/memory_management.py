"""Where models are. Here everything is on the CPU."""

import enum
import weakref

import torch

OOM_EXCEPTION = torch.cuda.OutOfMemoryError
VRAMState = enum.Enum("VRAMState", ["DISABLED", "NO_VRAM", "LOW_VRAM", "NORMAL_VRAM"])
vram_state = VRAMState.DISABLED
current_loaded_models = []


class LoadedModel:
    """An entry in the list of loaded models. It does not keep the patcher alive."""

    def __init__(self, patcher):
        self._patcher = weakref.ref(patcher)

    @property
    def model(self):
        return self._patcher()

    def model_unload(self, memory_to_free=None, unpatch_weights=True):
        self.model.detach(unpatch_weights)
        return True


def text_encoder_device():
    return torch.device("cpu")


def text_encoder_offload_device():
    return torch.device("cpu")


def text_encoder_dtype(device=None):
    return torch.float32


def get_total_memory(dev=None, torch_total_too=False):
    return 16 * 2**30


def get_free_memory(dev=None, torch_free_too=False):
    return 8 * 2**30


def should_use_bf16(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
    return True


def load_models_gpu(
    models, memory_required=0, force_patch_weights=False, minimum_memory_required=None, force_full_load=False
):
    current_loaded_models[:] = [entry for entry in current_loaded_models if entry.model is not None]
    for patcher in models:
        patcher.model.to(patcher.load_device)
        if not any(entry.model is patcher for entry in current_loaded_models):
            current_loaded_models.insert(0, LoadedModel(patcher))


def load_model_gpu(model):
    load_models_gpu([model])


def unload_model(model):
    current_loaded_models[:] = [entry for entry in current_loaded_models if entry.model is not model]


def unload_all_models():
    for entry in current_loaded_models:
        if entry.model is not None:
            entry.model_unload()
    current_loaded_models.clear()


def soft_empty_cache(force=False):
    pass
