import torch


class KModel(torch.nn.Module):
    """The image model as the sampler calls it: noisy pictures in, denoised ones out."""

    def __init__(self, model, diffusers_scheduler, k_predictor=None, config=None):
        super().__init__()
        self.config, self.predictor, self.computation_dtype = config, k_predictor, model.computation_dtype
        self.diffusion_model = model.eval().requires_grad_(False)

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        dtype = self.computation_dtype
        more = {name: value.to(dtype) if hasattr(value, "dtype") else value for name, value in kwargs.items()}
        output = self.diffusion_model(
            self.predictor.calculate_input(t, x).to(dtype),
            self.predictor.timestep(t).float(),
            context=c_crossattn.to(dtype),
            control=control,
            transformer_options=transformer_options,
            **more,
        )
        return self.predictor.calculate_denoised(t, output.float(), x)
