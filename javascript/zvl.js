// The accordion's title tells what will happen, a dropped reference switches it on, and help stands in tooltips.
(() => {
    const TABS = ["txt2img", "img2img"];
    const UNITS = [1, 2, 3, 4];
    const switchedOff = new Set(); // tabs in which the user has switched it off himself
    const hadReference = new Map();
    const touched = new Set(); // tabs whose reference the user is choosing himself: not sent, not pasted with parameters

    const byId = (tab, name) => document.getElementById(`zvl_${tab}_${name}`);
    const isOn = (tab) => Boolean(document.querySelector(`#zvl_${tab}_enabled-checkbox input`)?.checked);
    const number = (tab, name) => byId(tab, name)?.querySelector("input[type=number]");
    const reference = (tab, unit) => byId(tab, unit === 1 ? "reference" : `reference_${unit}`);
    const batch = (tab) => byId(tab, "reference_batch")?.querySelectorAll(".file-preview .file").length ?? 0;
    const held = (tab) => UNITS.filter((unit) => reference(tab, unit)?.querySelector("img"));

    // What a picture made now would be.
    function outlook(tab, references) {
        if (byId(tab, "file")?.querySelector("p")) return "on, conditioning file";
        if (byId(tab, "missing")?.querySelector(".zvl-note")) return "no weights";
        if (!references && !batch(tab)) return "no reference";
        if (batch(tab)) return `on, batch of ${batch(tab)}`;
        if (references > 1) return `on, ${references} references`;
        const weight = byId(tab, "weight");
        const name = weight && !weight.classList.contains("hidden") ? "weight" : "alpha";
        return `on, ${name} ${number(tab, name)?.value ?? ""}`;
    }

    function update(tab) {
        const label = byId(tab, "enabled")?.querySelector(".label-wrap > span");
        if (!label) return;
        const references = held(tab);
        for (const unit of UNITS) {
            byId(tab, `unit_${unit}-button`)?.classList.toggle("zvl-held", references.includes(unit));
        }
        byId(tab, "unit_batch-button")?.classList.toggle("zvl-held", batch(tab) > 0);
        const hasReference = references.length > 0 || batch(tab) > 0;
        if (hasReference && hadReference.get(tab) === false && touched.delete(tab) && !isOn(tab) && !switchedOff.has(tab)) {
            document.querySelector(`#zvl_${tab}_enabled-checkbox input`)?.click();
        }
        hadReference.set(tab, hasReference);
        let badge = label.querySelector(".zvl-badge");
        if (!badge) {
            badge = document.createElement("span");
            badge.className = "zvl-badge";
            label.append(badge);
        }
        const text = isOn(tab) ? outlook(tab, references.length) : "";
        if (badge.dataset.text !== text) badge.dataset.text = badge.textContent = text; // the page may translate what is shown
        badge.classList.toggle("zvl-warn", text.startsWith("no "));
        badge.hidden = !text;
    }

    function updateAll() {
        TABS.forEach(update);
    }

    function addTips() {
        for (const holder of document.querySelectorAll("[data-zvl-tips]")) {
            for (const [id, help] of Object.entries(JSON.parse(holder.dataset.zvlTips))) {
                const control = document.getElementById(id);
                if (control && !control.title) control.title = window.localization?.[help] ?? help;
            }
        }
    }

    // The page refuses a dropped file whose type the browser does not know (HEIC) or that is none of a picture (EPS), with
    // words of its own. Chosen in the dialog it is taken; what can be read, the extension knows.
    function takeAnyFile(event) {
        const files = [...(event.dataTransfer?.files ?? [])];
        const input = event.target.closest?.(".zvl-drop")?.querySelector("input[type=file]");
        if (!input || !files.length || files[0].type.startsWith("image/")) return;
        event.preventDefault();
        event.stopPropagation();
        choose(input, files[0]);
    }

    function choose(input, file) {
        const chosen = new DataTransfer();
        chosen.items.add(file);
        input.files = chosen.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }

    // Pictures of the page that a button makes a reference of: what the user sees of them comes first.
    const SOURCES = {
        use_result: (tab) => document.querySelectorAll(
            `#${tab}_gallery .preview img, #${tab}_gallery .thumbnail-item img, #${tab}_gallery img`
        ),
        use_img2img: () => [...document.querySelectorAll("#mode_img2img img")].filter((img) => img.getClientRects().length),
    };

    // Put a picture of the page into the reference whose tab is open.
    async function use(tab, images) {
        const image = [...images].find((each) => each.getAttribute("src"));
        const controls = UNITS.map((unit) => reference(tab, unit));
        const control = controls.find((each) => each?.getClientRects().length) ?? controls[0]; // with Batch open
        if (!image || !control) return;
        const blob = await (await fetch(image.src)).blob();
        const file = new File([blob], `reference.${blob.type.split("/")[1] || "png"}`, { type: blob.type || "image/png" });
        touched.add(tab);
        put(control, file);
    }

    // Put a file into a control for a picture, in place of what it has.
    async function put(control, file) {
        if (control.querySelector("img")) control.querySelector("button[aria-label='Remove Image']")?.click();
        for (let waited = 0; waited < 40; waited += 1) { // the page makes room for another picture
            const input = control.querySelector("input[type=file]");
            if (input) {
                choose(input, file);
                return;
            }
            await new Promise((done) => setTimeout(done, 50));
        }
    }

    // A description into the web UI's prompt, behind what is there or instead of it. What would be emphasis or a schedule
    // there is text.
    function intoPrompt(tab, text, replace) {
        const prompt = document.querySelector(`#${tab}_prompt textarea`);
        const words = (text ?? "").trim().replace(/[()[\]]/g, "\\$&");
        if (!prompt || !words) return;
        const before = replace ? "" : prompt.value.trim();
        prompt.value = before ? `${before}${/[.,;:!?]$/.test(before) ? " " : ", "}${words}` : words;
        prompt.dispatchEvent(new Event("input", { bubbles: true })); // as typed: the page keeps what it is told
    }

    window.zvl = { put, intoPrompt, img2imgPicture: () => SOURCES.use_img2img().find((each) => each.getAttribute("src")) };

    // The web UI calls this after every burst of changes in the page; values set by a paste arrive this way, too.
    onAfterUiUpdate(() => {
        updateAll();
        addTips();
    });
    onUiLoaded(() => {
        addTips();
        for (const kind of ["drop", "paste", "change", "click"]) {
            document.addEventListener(kind, (event) => {
                for (const tab of TABS) {
                    if (event.target.closest?.(`[id^=zvl_${tab}_reference], #zvl_${tab}_examples`)) touched.add(tab);
                }
            }, true);
        }
        document.addEventListener("drop", takeAnyFile, true);
        document.addEventListener("click", (event) => {
            for (const tab of TABS) {
                for (const [name, images] of Object.entries(SOURCES)) {
                    if (event.target.closest?.(`#zvl_${tab}_${name}`)) use(tab, images(tab));
                }
            }
        }, true);
        // Typing, dragging and ticking change properties, which is no change of the page.
        for (const kind of ["input", "change", "click"]) {
            document.addEventListener(kind, (event) => {
                if (!event.target.closest?.("[id^=zvl_]")) return;
                const before = TABS.filter(isOn);
                setTimeout(() => {
                    if (event.isTrusted && kind === "click") {
                        for (const tab of TABS) {
                            if (before.includes(tab) && !isOn(tab)) switchedOff.add(tab);
                            if (!before.includes(tab) && isOn(tab)) switchedOff.delete(tab);
                        }
                    }
                    updateAll();
                }, 100);
            }, true);
        }
    });
})();
