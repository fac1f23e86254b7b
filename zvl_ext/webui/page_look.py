"""How the page looks: what the web UI brings for the accordion, and gradio alone does not."""

from __future__ import annotations

import html
import os

import gradio as gr

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CSS = """
.zvl-accordion { position: relative; }
.zvl-accordion .zvl-switch {
    position: absolute; top: 0.85em; left: 0.9em; width: auto; min-width: 0; z-index: 1;
    padding: 0; border: 0; background: none;
}
.zvl-accordion .zvl-switch label > span { display: none; }
.zvl-accordion > .block > .label-wrap > span:first-of-type { padding-left: 1.8em; }
.zvl-panel .form { background: none; border: 0; box-shadow: none; overflow: visible; }
.zvl-panel .form > .block { padding: 0; border: 0; background: none; }
.zvl-panel .zvl-tool { min-width: 2.6em; max-width: 2.6em; height: 2.6em; padding: 0; }
.zvl-result .preview img { width: 100%; height: 100%; object-fit: contain; }
.zvl-result:has(.preview) .grid-wrap { visibility: hidden; }
.zvl-said p { margin: 0.2em 0; }
.zvl-said table { width: 100%; font-size: 0.9em; border-collapse: collapse; }
.zvl-said td, .zvl-said th { padding: 0.15em 0.6em 0.15em 0; text-align: left; font-weight: normal; border: 0; }
.zvl-bar { background: var(--border-color-primary); border-radius: 3px; height: 0.7em; min-width: 6em; }
.zvl-bar > div { height: 100%; border-radius: 3px; }
.zvl-bar .zvl-prompt { background: #2f6fd0; }
.zvl-bar .zvl-reference { background: #d9772b; }
.zvl-said .zvl-error { border-left: 3px solid #c33; padding: 0.4em 0.8em; }
"""
# The web UI gives every block a class with its name; gradio's own are these.
_CLASSES = {".gradio-column": ".gap", ".gradio-row": ".stretch"}
# What the web UI calls the script of the extension with.
_HEAD = """
<script>
function onUiLoaded(callback) {
    const wait = setInterval(() => {
        if (document.querySelector(".zvl-panel")) {
            clearInterval(wait);
            callback();
        }
    }, 100);
}
function onAfterUiUpdate(callback) {
    let timer;
    new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(callback, 200); })
        .observe(document.documentElement, { childList: true, subtree: true });
}
</script>
"""


def _file(*parts: str) -> str:
    """A file of the extension; empty where the package stands alone."""
    try:
        with open(os.path.join(_ROOT, *parts), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def css() -> str:
    """The panel's styles for gradio's own classes, and the page's."""
    style = _file("style.css")
    for name, own in _CLASSES.items():
        style = style.replace(name, own)
    return style + _CSS


def head() -> str:
    """The extension's scripts, and what calls them."""
    scripts = (_file("javascript", name) for name in ("zvl.js", "zvl_paint.js"))
    return _HEAD + "".join(f"<script>{script}</script>" for script in scripts)


def theme() -> gr.themes.Base:
    """The fonts of the machine: gradio's own themes fetch theirs."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def said(lines: list[str], kind: str = "") -> str:
    """Lines for the user as HTML."""
    return "".join(f"<p class='{kind}'>{html.escape(line)}</p>" for line in lines)


def bars(pictures: list[tuple[str, tuple[float | None, float | None]]]) -> str:
    """How much of the prompt and of the reference is in each picture, as HTML; empty where nobody can tell."""
    if not pictures:
        return ""

    def bar(share: float | None, kind: str) -> str:
        if share is None:
            return ""
        percent = f"{100 * share:.0f}%"
        return f"<div class='zvl-bar' title='{percent}'><div class='{kind}' style='width: {percent}'></div></div>"

    rows = "".join(
        f"<tr><td>{html.escape(caption)}</td><td>{bar(prompt, 'zvl-prompt')}</td>"
        f"<td>{bar(reference, 'zvl-reference')}</td></tr>"
        for caption, (prompt, reference) in pictures
    )
    head = "<tr><th></th><th>what the prompt says</th><th>what the reference shows</th></tr>"
    return f"<table>{head}{rows}</table>"
