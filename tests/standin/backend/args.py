dynamic_args = {"ref_latents": [], "is_referencing": False}
