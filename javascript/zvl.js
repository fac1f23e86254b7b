// Shows "on" and the alpha in the accordion's title, so that a closed accordion tells whether it takes part.
(() => {
    const TABS = ["txt2img", "img2img"];

    function update(tab) {
        const id = `zvl_${tab}_`;
        const accordion = document.getElementById(`${id}enabled`);
        const label = accordion?.querySelector(".label-wrap > span");
        if (!label) return;
        const enabled = document.querySelector(`#${id}enabled-checkbox input`)?.checked;
        const alpha = document.querySelector(`#${id}alpha input[type=number]`)?.value;
        let badge = label.querySelector(".zvl-badge");
        if (!badge) {
            badge = document.createElement("span");
            badge.className = "zvl-badge";
            label.append(badge);
        }
        const text = enabled ? `on, alpha ${alpha}` : "";
        if (badge.textContent !== text) badge.textContent = text;
        badge.hidden = !enabled;
    }

    // The web UI calls this after every burst of changes in the page; values set by a paste arrive this way, too.
    onAfterUiUpdate(() => TABS.forEach(update));
    onUiLoaded(() => {
        for (const tab of TABS) {
            // Typing and dragging change a property, which is no change of the page.
            document.getElementById(`zvl_${tab}_enabled`)?.addEventListener("input", () => setTimeout(() => update(tab)));
        }
    });
})();
