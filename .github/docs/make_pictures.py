"""The pictures of README and pages, made by the product: `python .github/docs/make_pictures.py`.

With the miniature, which comes with the project, they are the same for the same code and libraries. A sweep's report
and the panel of a running web UI are taken in a browser, with playwright for Python:

    python .github/docs/make_pictures.py --report --panel http://127.0.0.1:7860 --chromium /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "docs" / "pictures"
SIDE, LARGE, SEED = 150, 240, 0
PANEL = "#zvl_txt2img_enabled"
WEIGHTED = {"preset": "Balanced", "weight": 0.7}
STRIPS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "weight": [(f"weight {w:g}", {"preset": "Balanced", "weight": w}) for w in (0, 0.1, 0.25, 0.5, 0.75, 1)],
    "preset": [
        ("plain", {"weight": 0.0}),
        *((name, {"preset": name}) for name in (
            "Fill in", "Balanced", "Close variation", "Splice: variation", "Research, all tokens")),
    ],
    "steps": [(f"{100 * a:.0f} to {100 * b:.0f} %", WEIGHTED | {"start": a, "end": b}) for a, b in (
        (0, 1), (0, 0.25), (0, 0.5), (0, 0.75), (0.25, 1), (0.5, 1))],
    "blocks": [(name, WEIGHTED | {"blocks": name}) for name in (
        "all", "early", "middle", "late", "early, middle", "middle, late")],
    "dropout": [(f"dropout {d:g}", {"preset": "Splice: faithful", "image_dropout": d}) for d in (
        0, 0.5, 0.75, 0.85, 0.9, 0.95)],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--panel", metavar="URL", help="pictures of the panel of this web UI instead")
    parser.add_argument("--report", action="store_true", help="a picture of a sweep's report instead")
    parser.add_argument("--chromium", metavar="FILE", help="the browser; default: playwright's own")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if args.report:
        report(args.chromium)
    if args.panel:
        panel(args.panel, args.chromium)
    if not args.report and not args.panel:
        of_miniature()


def of_miniature() -> None:
    from PIL import Image

    from zvl_ext.lab import demo, demo_sheet
    from zvl_ext.lab.miniature import family, world
    from zvl_ext.lab.sheet import Cell, strip
    from zvl_ext.options import Settings
    from zvl_ext.reference import open_reference
    from zvl_ext.webui.standalone import Request, make

    family.be_quiet()
    arguments = argparse.Namespace(
        weights=None, z_image=None, qwen3_vl=None, device="cpu", size=None, steps=None, guidance=None
    )
    weights = demo.open_weights(arguments)
    drawn = [Image.fromarray(world.draw(scene, 0)) for scene in (demo.REFERENCE, demo._EXAMPLES[3])]
    references = [open_reference(image) for image in drawn]

    def picture(values: dict[str, Any]) -> Image.Image:
        settings = Settings.from_mapping({"reference": references[0], **values, "enabled": True})
        return make(weights, Request(demo.PROMPT, settings, [SEED], weights.sampling)).pictures[0]

    plain = picture({"weight": 0.0})
    for name, image in (("reference", drawn[0]), ("plain", plain), ("with-reference", picture({"preset": "Balanced"}))):
        save(image.resize((LARGE, LARGE), Image.Resampling.BICUBIC), name)
    for name, cells in STRIPS.items():
        save(strip([Cell(picture(values), caption) for caption, values in cells], SIDE), name)
    both = {"preset": "Balanced", "reference_2": references[1]}
    save(
        strip(
            [
                Cell(drawn[0], "reference 1"),
                Cell(drawn[1], "reference 2"),
                Cell(plain, "without"),
                Cell(picture(both), "both, everywhere"),
                Cell(picture({**both, "region": "left", "region_2": "right"}), "1 left, 2 right"),
                Cell(picture({**both, "region": "top", "region_2": "bottom"}), "1 top, 2 bottom"),
            ],
            SIDE,
        ),
        "regions",
    )
    save(demo_sheet.make_sheet(weights, demo.PROMPT, None, SEED)[0], "sheet")


def save(image: Any, name: str) -> None:
    """With 256 colours at most: drawings lose nothing by it that one sees."""
    path = FOLDER / f"{name}.png"
    image.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def report(chromium: str | None) -> None:
    """The upper part of a report, over weights, presets and three references."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    from zvl_ext.__main__ import main as zvl
    from zvl_ext.lab import demo
    from zvl_ext.lab.miniature import world

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        references, out, file = Path(folder) / "pictures", Path(folder) / "sweep", Path(folder) / "shot.png"
        references.mkdir()
        for scene in demo._EXAMPLES[:3]:
            name = f"{scene.style} {scene.colour} {scene.shape} on {scene.background}.png"
            Image.fromarray(world.draw(scene, 0)).save(references / name)
        axes = ["--axis", "weight=0:1:0.25", "--axis", 'preset="Fill in",Balanced']
        if code := zvl(["sweep", *axes, "--prompt", demo.PROMPT, "--references", str(references), "--out", str(out)]):
            raise SystemExit(code)
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.goto((out / "report.html").as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=file)
        save(Image.open(file), "report")
        browser.close()


def panel(url: str, chromium: str | None) -> None:
    """The accordion, light and dark, with a reference in it, and the whole of txt2img."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1360, "height": 1000})
            page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(url) else route.abort())
            page.goto(f"{url}/?__theme={theme}", wait_until="domcontentloaded")
            page.wait_for_selector("#txt2img_prompt textarea", timeout=120_000)
            page.wait_for_timeout(3000)
            page.fill("#txt2img_prompt textarea", "a house at the sea")
            for name, value in (("width", 1024), ("height", 1024), ("steps", 8)):
                page.locator(f"#txt2img_{name} input[type=number]").first.fill(str(value))
            page.locator(f"{PANEL} > .label-wrap span").first.click()
            page.locator(f"{PANEL} input[type=file]").first.set_input_files(str(FOLDER / "reference.png"))
            page.wait_for_timeout(2500)
            file = Path(folder) / "shot.png"
            page.locator(PANEL).screenshot(path=file)
            save(Image.open(file), f"panel-{theme}")
            if theme == "light":
                page.screenshot(path=file, full_page=True)
                save(Image.open(file), "txt2img")
        browser.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
