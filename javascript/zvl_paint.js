// Masks are painted in the page: over the reference, or over a sheet of the picture's proportions. What is painted goes
// into the control for the mask as a file, as if it had been dropped there.
(() => {
    const LONGEST = 1024; // pixels of a mask's longer side
    const UNDO = 20;
    const FIXED = { reference_mask: "white where the reference counts", region_mask: "white where the reference acts" };

    const make = (tag, more = {}, children = []) => {
        const made = Object.assign(document.createElement(tag), more);
        made.append(...children);
        return made;
    };
    const picture = (element) => element?.querySelector("img");

    async function loaded(image) {
        if (!image) return null;
        const copy = new Image();
        copy.src = image.currentSrc || image.src;
        await copy.decode().catch(() => {});
        return copy.naturalWidth ? copy : null;
    }

    function scaled(width, height) {
        const scale = LONGEST / Math.max(width, height, 1);
        return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    }

    // White as it is, black as nothing: strokes come on top, and what is below shows through.
    function asStrokes(canvas) {
        const context = canvas.getContext("2d");
        const data = context.getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.data.length; i += 4) {
            const [r, g, b] = data.data.subarray(i, i + 3);
            data.data[i + 3] = Math.round(((0.299 * r + 0.587 * g + 0.114 * b) * data.data[i + 3]) / 255);
            data.data.fill(255, i, i + 3);
        }
        context.putImageData(data, 0, 0);
    }

    class Painter {
        constructor(title, background, size, begun, use) {
            const [width, height] = size;
            this.undone = [];
            this.erasing = false;
            this.canvas = make("canvas", { width, height });
            this.context = this.canvas.getContext("2d", { willReadFrequently: true });
            if (begun) {
                this.context.drawImage(begun, 0, 0, width, height);
                asStrokes(this.canvas);
            }
            const below = make("canvas", { width, height });
            if (background) below.getContext("2d").drawImage(background, 0, 0, width, height);
            const sheet = make("div", { className: "zvl-sheet" }, [below, this.canvas]);
            sheet.style.aspectRatio = `${width} / ${height}`;
            sheet.style.width = `min(100%, calc(60vh * ${width / height}))`;
            this.size = make("input", { type: "range", min: 1, max: 40, value: 10, title: "Size of the brush" });
            this.note = make("p", { className: "zvl-help" });
            this.eraser = this.button("Erase", () => this.erase(!this.erasing));
            this.dialog = make("dialog", { className: "zvl-painter" }, [
                make("p", { textContent: title }),
                sheet,
                make("div", { className: "zvl-tools" }, [
                    this.size,
                    this.eraser,
                    this.button("Undo", () => this.undo()),
                    this.button("Invert", () => this.changed(() => this.invert())),
                    this.button("Clear", () => this.changed(() => this.context.clearRect(0, 0, width, height))),
                    this.button("Cancel", () => this.dialog.close()),
                    this.button("Use", () => this.use(use), "zvl-use"),
                ]),
                this.note,
            ]);
            this.listen();
        }

        button(words, act, kind = "") {
            return make("button", { type: "button", className: kind, textContent: words, onclick: act });
        }

        listen() {
            let last = null;
            const at = (event) => {
                const box = this.canvas.getBoundingClientRect();
                return [
                    ((event.clientX - box.left) / box.width) * this.canvas.width,
                    ((event.clientY - box.top) / box.height) * this.canvas.height,
                ];
            };
            const stroke = (event) => {
                const [x, y] = at(event);
                Object.assign(this.context, {
                    globalCompositeOperation: this.erasing ? "destination-out" : "source-over",
                    strokeStyle: "#fff",
                    lineCap: "round",
                    lineJoin: "round",
                    lineWidth: (this.size.value / 100) * Math.min(this.canvas.width, this.canvas.height),
                });
                this.context.beginPath();
                this.context.moveTo(...(last ?? [x, y]));
                this.context.lineTo(x, y);
                this.context.stroke();
                last = [x, y];
            };
            this.canvas.onpointerdown = (event) => {
                if (event.button) return;
                this.remember();
                this.canvas.setPointerCapture(event.pointerId);
                last = null;
                stroke(event);
            };
            this.canvas.onpointermove = (event) => {
                if (last) stroke(event);
            };
            this.canvas.onpointerup = this.canvas.onpointercancel = () => {
                last = null;
            };
            this.dialog.onclose = () => this.dialog.remove();
        }

        remember() {
            this.note.textContent = "";
            this.undone.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
            if (this.undone.length > UNDO) this.undone.shift();
        }

        changed(change) {
            this.remember();
            this.context.globalCompositeOperation = "source-over";
            change();
        }

        undo() {
            const before = this.undone.pop();
            if (before) this.context.putImageData(before, 0, 0);
        }

        erase(on) {
            this.erasing = on;
            this.eraser.classList.toggle("zvl-on", on);
        }

        invert() {
            const data = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
            for (let i = 0; i < data.data.length; i += 4) {
                data.data.fill(255, i, i + 3);
                data.data[i + 3] = 255 - data.data[i + 3];
            }
            this.context.putImageData(data, 0, 0);
        }

        async use(use) {
            const { width, height } = this.canvas;
            const painted = this.context.getImageData(0, 0, width, height).data;
            if (!painted.some((value, i) => i % 4 === 3 && value)) {
                this.note.textContent = "Nothing is painted yet. Paint some of it, or press Cancel.";
                return;
            }
            const flat = make("canvas", { width, height });
            const context = flat.getContext("2d");
            context.fillRect(0, 0, width, height);
            context.drawImage(this.canvas, 0, 0);
            const blob = await new Promise((done) => flat.toBlob(done, "image/png"));
            this.dialog.close();
            use(new File([blob], "painted.png", { type: "image/png" }));
        }

        open() {
            (document.querySelector(".gradio-container .contain") ?? document.body).append(this.dialog);
            this.dialog.showModal();
        }
    }

    function say(title, line) {
        const dialog = make("dialog", { className: "zvl-painter" }, [
            make("p", { textContent: title }),
            make("p", { className: "zvl-help", textContent: line }),
        ]);
        const close = make("button", { type: "button", textContent: "Close" });
        close.onclick = () => dialog.close();
        dialog.onclose = () => dialog.remove();
        dialog.append(close);
        (document.querySelector(".gradio-container .contain") ?? document.body).append(dialog);
        dialog.showModal();
    }

    // The size that the picture will have, or of the sheet where nobody says.
    function pictureSize(tab) {
        const side = (name) => Number(document.querySelector(`#${tab}_${name} input[type=number]`)?.value) || LONGEST;
        return [side("width"), side("height")];
    }

    async function paint(tab, kind, unit) {
        const name = (first) => (unit === "1" ? first : `${first}_${unit}`);
        const byId = (id) => document.getElementById(`zvl_${tab}_${id}`);
        const control = byId(name(kind));
        if (!control) return;
        const title = `${kind === "region_mask" ? "Region" : "Mask"} of reference ${unit}: ${FIXED[kind]}`;
        let [background, size] = [null, pictureSize(tab)];
        if (kind === "reference_mask") {
            background = await loaded(picture(byId(name("reference"))));
            if (!background) {
                say(title, `Put a picture into Reference ${unit} first: its mask is painted over it.`);
                return;
            }
            size = [background.naturalWidth, background.naturalHeight];
        } else if (tab === "img2img") {
            background = await loaded(window.zvl.img2imgPicture());
        }
        const begun = await loaded(picture(control));
        new Painter(title, background, scaled(...size), begun, (file) => window.zvl.put(control, file)).open();
    }

    onUiLoaded(() => {
        document.addEventListener("click", (event) => {
            const button = event.target.closest?.("[id^=zvl_][id*=_paint_]");
            const [, tab, kind, unit] = button?.id.match(/^zvl_(\w+?)_paint_(\w+)_(\d)$/) ?? [];
            if (kind in FIXED) paint(tab, kind, unit);
        });
    });
})();
