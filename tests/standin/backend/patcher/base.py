import uuid


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, current_device=None, weight_inplace_update=False):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.patches_uuid = uuid.uuid4()  # another one with every patch that is put on

    def detach(self, unpatch_all=True):
        self.model.to(self.offload_device)
        return self.model
