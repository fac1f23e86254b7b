"""One generation, as far as its conditioning."""

import dataclasses

from PIL import ImageOps

from modules import infotext_utils, prompt_parser, shared

opt_f = 8  # pixels for each value of the latents


def _slot():
    return [None, None, None]


class Processed:
    def __init__(self, p, images_list, seed=-1, info="", **more):
        self.images, self.seed, self.info = images_list, seed, info


@dataclasses.dataclass(repr=False)
class StableDiffusionProcessing:
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    styles: list = dataclasses.field(default_factory=list)
    sampler_name: str = None
    scheduler: str = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    distilled_cfg_scale: float = 3.5
    width: int = 512
    height: int = 512
    extra_generation_params: dict = dataclasses.field(default_factory=dict)
    sd_model: object = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False

    # One slot each, shared by all generations: key, value, extra parameters.
    cached_c = _slot()
    cached_uc = _slot()

    scripts = None
    script_args = ()
    is_api = False
    is_hr_pass = False
    iteration = 0
    extra_network_data = None
    c = uc = None

    def __post_init__(self):
        self.comments = {}
        self.cached_c, self.cached_uc = StableDiffusionProcessing.cached_c, StableDiffusionProcessing.cached_uc

    def close(self):
        self.c = self.uc = None

    def comment(self, text):
        self.comments[text] = 1

    def setup_prompts(self):
        count = self.batch_size * self.n_iter
        self.all_prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt] * count
        self.all_negative_prompts = [self.negative_prompt] * len(self.all_prompts)

    def parse_extra_network_prompts(self):
        self.extra_network_data = {}

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps, use_old_scheduling):
        """What the host thinks its conditioning depends on. It knows nothing about extensions."""
        o = shared.opts
        model = str(getattr(shared.sd_model, "loading_parameters", None))
        own = (self.distilled_cfg_scale, self.hr_distilled_cfg, self.width, self.height)
        return (
            required_prompts,
            *own,
            steps,
            hires_steps,
            use_old_scheduling,
            o.CLIP_stop_at_last_layers,
            model,
            extra_network_data,
            o.emphasis,
        )

    def get_conds_with_caching(self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None):
        """`function`'s result, from the cache where the key is the same. The key is set after the function has
        returned."""
        key = self.cached_params(
            required_prompts, steps, extra_network_data, hires_steps, shared.opts.use_old_scheduling
        )
        for cache in caches:
            if cache[0] is not None and key == cache[0]:
                return cache[1]
        shared.sd_model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        caches[0][1] = function(shared.sd_model, required_prompts, steps, hires_steps, shared.opts.use_old_scheduling)
        caches[0][0] = key
        return caches[0][1]

    def setup_conds(self):
        size = {"width": self.width, "height": self.height, "distilled_cfg_scale": self.distilled_cfg_scale}
        prompts = prompt_parser.SdConditioning(self.prompts, **size)
        negative = prompt_parser.SdConditioning(self.negative_prompts, is_negative_prompt=True, **size)
        self.firstpass_steps = self.steps
        self.uc = None
        if self.cfg_scale != 1:
            self.uc = self.get_conds_with_caching(
                prompt_parser.get_learned_conditioning, negative, self.steps, [self.cached_uc], self.extra_network_data
            )
        self.c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning,
            prompts,
            self.steps,
            [self.cached_c],
            self.extra_network_data,
        )


@dataclasses.dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    denoising_strength: float = 0.75  # of the second pass
    hr_second_pass_steps: int = 0
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float = 1.0
    hr_distilled_cfg: float = 3.5

    cached_hr_c = _slot()
    cached_hr_uc = _slot()

    hr_checkpoint_info = None  # of another checkpoint for the second pass
    hr_upscale_to_x = hr_upscale_to_y = 0
    hr_extra_network_data = None
    hr_c = hr_uc = None

    def __post_init__(self):
        super().__post_init__()
        self.cached_hr_c, self.cached_hr_uc = (
            StableDiffusionProcessingTxt2Img.cached_hr_c,
            StableDiffusionProcessingTxt2Img.cached_hr_uc,
        )

    def setup_prompts(self):
        super().setup_prompts()
        count = self.batch_size * self.n_iter
        self.all_hr_prompts = [self.hr_prompt or self.prompt] * count
        self.all_hr_negative_prompts = [self.hr_negative_prompt or self.negative_prompt] * count

    def parse_extra_network_prompts(self):
        super().parse_extra_network_prompts()
        if self.enable_hr:
            batch = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.hr_prompts, self.hr_negative_prompts = self.all_hr_prompts[batch], self.all_hr_negative_prompts[batch]
            self.hr_extra_network_data = {}

    def calculate_hr_conds(self):
        """The second pass' conds, which may be found among the first pass'. Called early unless the checkpoint
        changes."""
        if self.hr_c is not None:
            return
        size = {
            "width": self.hr_upscale_to_x,
            "height": self.hr_upscale_to_y,
            "distilled_cfg_scale": self.hr_distilled_cfg,
        }
        prompts = prompt_parser.SdConditioning(self.hr_prompts, **size)
        negative = prompt_parser.SdConditioning(self.hr_negative_prompts, is_negative_prompt=True, **size)
        more = (self.hr_extra_network_data, self.hr_second_pass_steps or self.steps)
        if self.hr_cfg != 1:
            caches = [self.cached_hr_uc, self.cached_uc]
            self.hr_uc = self.get_conds_with_caching(
                prompt_parser.get_learned_conditioning, negative, self.firstpass_steps, caches, *more
            )
        caches = [self.cached_hr_c, self.cached_c]
        self.hr_c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompts, self.firstpass_steps, caches, *more
        )

    def setup_conds(self):
        super().setup_conds()
        self.hr_c = self.hr_uc = None
        if self.enable_hr and self.hr_checkpoint_info is None:
            self.calculate_hr_conds()


@dataclasses.dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images: list = None
    mask: object = None
    mask_blur: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0

    hr_distilled_cfg = 3.5
    mask_for_overlay = paste_to = nmask = init_latent = None

    def __post_init__(self):
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None

    def init(self, all_prompts, all_seeds, all_subseeds):
        """What the sampler gets of the mask. Here the part that is sampled has the mask's own shape."""
        image_mask = self.image_mask
        if image_mask is not None:
            image_mask = image_mask.convert("L")
            if self.inpainting_mask_invert:
                image_mask = ImageOps.invert(image_mask)
            self.mask_for_overlay = image_mask
            box = image_mask.getbbox()
            if self.inpaint_full_res and box is None:  # blank: the whole picture is made
                image_mask = self.mask_for_overlay = None
                self.inpaint_full_res = False
            elif self.inpaint_full_res:
                image_mask = image_mask.crop(box)
                self.paste_to = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        self.init_latent = images_tensor_to_samples(self.init_images, None, shared.sd_model)
        if image_mask is not None:
            import torch  # loading this module is to need nothing heavy

            latent = image_mask.resize((self.init_latent.shape[-1], self.init_latent.shape[-2]))
            mask = torch.tensor(list(latent.getdata())).reshape(1, 1, *self.init_latent.shape[-2:]) / 255
            self.nmask = mask.round().repeat(1, self.init_latent.shape[1], 1, 1)


def images_tensor_to_samples(image, approximation, model):
    raise NotImplementedError("there is no VAE here")


def create_infotext(
    p, all_prompts, all_seeds, all_subseeds, comments=None, iteration=0, position_in_batch=0, use_main_prompt=False
):
    """What is written under a picture and into its file; `use_main_prompt`: under a grid and into its."""
    index = 0 if use_main_prompt else position_in_batch + iteration * p.batch_size
    pairs = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "CFG scale": p.cfg_scale,
        "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}",
    }
    pairs = {**pairs, **p.extra_generation_params, "Version": "stand-in"}
    pairs = {key: value(use_main_prompt=use_main_prompt) if callable(value) else value for key, value in pairs.items()}
    return f"{all_prompts[0]}\n" + ", ".join(
        f"{key}: {infotext_utils.quote(value)}" for key, value in pairs.items() if value is not None
    )


def process_images(p):
    raise NotImplementedError("there is no image model here")
