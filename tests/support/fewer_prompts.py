"""Imported before anything takes them from there: tiny models are measured on a tenth of the reference prompts."""

from zvl_ext.mixing import prompts

prompts.REFERENCE_PROMPTS = prompts.REFERENCE_PROMPTS[::10]
