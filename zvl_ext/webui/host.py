"""What the accordion needs of the page it stands in, and how the web UI gives it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..analysis.wanted import Wanted
from ..budget import Memory
from ..caption import Asked, Caption
from ..hosts import family, forge, forge_files
from ..options import Settings
from .conditionings import save_last
from .kept import KEEPER
from .named_files import NAMED_FILES

if TYPE_CHECKING:
    from ..analysis.measuring import Analysis


class Host(Protocol):
    """What the accordion needs of the page it stands in: `WebUI` in the web UI, `page.PageHost` in the demo's page."""

    makes: bool  # whether it can make a picture of its own, to measure attention
    batches: bool  # whether it makes a picture for each reference of a batch

    def input_accordion(self, **kwargs: Any) -> tuple[Any, Any]:
        """The component whose value is whether the extension takes part, and the block the controls go into. Takes
        `label` and `elem_id`."""

    def tool_button(self, **kwargs: Any) -> Any:
        """A small button with `value`, `elem_id` and `tooltip`."""

    def paste_field(self, component: Any, read: Callable[[dict], Any]) -> Any:
        """An infotext field whose value is computed from the pasted parameters."""

    def models(self) -> dict[str, str]:
        """Qwen3-VL weights the user has, name -> path."""

    def model_folders(self) -> list[str]:
        """Where they are looked for; the first is where new ones belong."""

    def obstacle(self) -> str:
        """Why nothing can be read here, whatever weights there are, in a sentence; "" where it can."""

    def files(self, kind: str) -> dict[str, str] | None:
        """The files that an option of this kind (conditioning, profile) may name, name -> path; None where there is no
        folder for them."""

    def file(self, kind: str, name: str) -> Any:
        """The file of that name: a `Saved`, or a `Profile`. Raises ZvlError where there is none, or it can't be
        used."""

    def save_conditioning(self, name: str) -> str:
        """Save what the last picture was conditioned on; gives the name that the file got. Raises ZvlError where it
        can't be saved."""

    def unload(self) -> None:
        """Free the memory that Qwen3-VL takes."""

    def busy(self) -> bool:
        """Whether a picture is being made, so that whoever wants a model has to wait."""

    def describe(self, settings: Settings, number: int, asked: Asked) -> Caption:
        """Describe the reference of that number, when no picture is being made.

        Raises:
            ZvlError: with one line for the user.
        """

    def analyse(self, settings: Settings, number: int, asked: Wanted) -> Analysis:
        """Analyse the reference of that number, when no picture is being made.

        Raises:
            ZvlError: with one line for the user.
            Stopped: nobody waits any more.
        """

    def memory(self, settings: Settings) -> Memory | None:
        """What reading a reference with these settings takes and what there is; None where it can't be told. Never
        raises."""

    def text_encoder_bytes(self) -> int:
        """What the image model's text encoder takes where it is loaded; 0 where nobody knows. Never raises."""

    def forget(self) -> int:
        """Forget what is kept of references; gives the bytes that it took."""

    def recent(self, digest: str) -> Any:
        """A reference that was used lately, by the first digits of its digest; None where it is not there any more."""

    def ensure_temp_folder(self) -> None:
        """Called before a picture is set from Python."""


class WebUI:
    """The web UI as a `Host`."""

    makes = True
    batches = True

    input_accordion = staticmethod(forge.input_accordion)
    tool_button = staticmethod(forge.tool_button)
    paste_field = staticmethod(forge.paste_field)
    ensure_temp_folder = staticmethod(forge.ensure_temp_folder)
    models = staticmethod(forge_files.models)
    model_folders = staticmethod(forge_files.model_folders)
    save_conditioning = staticmethod(save_last)
    obstacle = staticmethod(family.without_qwen3vl)

    busy = staticmethod(forge.busy)

    def files(self, kind: str) -> dict[str, str]:
        return NAMED_FILES[kind].paths()

    def file(self, kind: str, name: str) -> Any:
        return NAMED_FILES[kind].opened(name)

    def unload(self) -> None:
        KEEPER.residence.unload()

    def describe(self, settings: Settings, number: int, asked: Asked) -> Caption:
        from .describe import described  # what meets the host's models: late

        return described(settings, asked, number)

    def analyse(self, settings: Settings, number: int, asked: Wanted) -> Analysis:
        from .analyse import analysed_here  # what meets the host's models: late

        return analysed_here(settings, asked, number)

    def memory(self, settings: Settings) -> Memory | None:
        with contextlib.suppress(Exception):  # a line of help: whatever a host does differently, the panel stays whole
            checkpoint = forge_files.checkpoint(settings.model)  # first: where there is none, nothing heavy is loaded
            return KEEPER.residence.memory(checkpoint, settings)
        return None

    def text_encoder_bytes(self) -> int:
        with contextlib.suppress(ImportError):
            from ..hosts.forge_unread import weights_bytes

            return weights_bytes(forge.current_engine())
        return 0

    def forget(self) -> int:
        return KEEPER.forget()

    def recent(self, digest: str) -> Any:
        return KEEPER.recent.get(digest)
