"""What samplers share."""

from modules import shared

approximation_indexes = {"Full": 0, "Approx NN": 1, "RGB": 2, "TAESD": 3}


def setup_img2img_steps(p, steps=None):
    """How long the noise schedule is for a denoising strength, and the number of the last of its steps that are
    taken."""
    if shared.opts.img2img_fix_steps or steps is not None:
        wanted = steps or p.steps
        return int(wanted / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0, wanted - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


def images_tensor_to_samples(image, approximation=None, model=None):
    """Pictures [batch, 3, height, width] from 0 to 1 as latents."""
    return model.get_first_stage_encoding(model.encode_first_stage(image * 2 - 1))
