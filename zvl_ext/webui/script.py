"""The script the web UI loads.

What it does is in `run` (one generation), `panel` (the accordion) and `axes` (the XYZ plot).
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from ..errors import PRODUCT as TITLE
from ..hosts import forge
from ..options import OPTIONS
from . import panel
from .host import WebUI
from .said import tell


class ZImageVL(forge.script_base()):
    """An AlwaysOn script. It keeps no state: that lives on the generation."""

    sorting_priority = 520
    _api_info: Any = None

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        return forge.always_visible()

    def ui(self, is_img2img: bool) -> list:
        def elem_id(name: str) -> str:
            # Of our own making: the style sheet and the script in the page look for them, and web UIs differ in theirs.
            return f"zvl_{'img2img' if is_img2img else 'txt2img'}_{name}"

        if not forge.has_zimage():
            return panel.build_unsupported(TITLE, elem_id, forge.without_zimage())
        components, self.infotext_fields = panel.build(TITLE, elem_id, WebUI())
        self.paste_field_names = [name for _, name in self.infotext_fields]  # what "Send to" takes to the other tab
        return components

    @property
    def api_info(self) -> Any:
        """What the host tells API clients of the script. It makes it of the panel, and arguments have the panel's
        labels there; in requests they have the options' names."""
        return self._api_info

    @api_info.setter
    def api_info(self, info: Any) -> None:
        for argument, option in zip(getattr(info, "args", ()), OPTIONS):
            argument.label = option.name
        self._api_info = info

    def before_process(self, p: Any, *args: Any) -> None:
        with contextlib.suppress(ImportError):  # which `process` says
            if forge.has_zimage():
                from . import batch

                batch.widen(p, args)

    def process(self, p: Any, *args: Any) -> None:
        if not forge.has_zimage():
            return
        try:
            from . import run  # what meets the host's models; a host without Z-Image never needs it
        except ImportError as error:  # a host whose insides have moved: the picture is made, and says so
            if args and args[0]:
                tell(p, f"this version of the web UI is not known ({error}), so nothing was done. Look for an update.")
            return
        run.batch.with_same_seeds(p)
        run.attach(p, args)

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if attached := _run_of(p):
            attached.before_sampling()

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if attached := _run_of(p):
            attached.after_sampling()

    def postprocess_image_after_composite(self, p: Any, pp: Any, *args: Any) -> None:
        if forge.has_zimage():
            from . import measuring

            measuring.measure(p, pp.image, args)

    def postprocess(self, p: Any, processed: Any, *args: Any, **kwargs: Any) -> None:
        if attached := _run_of(p):
            attached.after_all()
        if measuring := sys.modules.get(f"{__package__}.measuring"):
            measuring.label(p, processed)


def _run_of(p: Any) -> Any:
    """The run of a generation; None where there is none, and where what makes runs was never needed."""
    run = sys.modules.get(f"{__package__}.run")
    return run.current(p) if run is not None and p is not None else None


def during_sampling(params: Any) -> None:
    """The host's callback before each step."""
    denoiser = getattr(params, "denoiser", None)
    if attached := _run_of(getattr(denoiser, "p", None)):
        attached.during_sampling(denoiser.inner_model.inner_model)
