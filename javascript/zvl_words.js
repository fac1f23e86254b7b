// Lines with figures in them, in the page's language. The web UI's localization replaces texts that it knows whole; ours are
// kept there sentence by sentence, with {} for each figure.
(() => {
    const LINES = ".zvl-panel .zvl-help, .zvl-panel .zvl-note, .zvl-badge";
    const FIGURE = /(?<![\w.-])\d+(?:\.\d+)?(?: GiB)?/g;
    const SENTENCES = /(?<=\.) (?=[A-Z])/;

    function translated(sentence) {
        const words = window.localization?.[sentence.replace(FIGURE, "{}")];
        const figures = sentence.match(FIGURE) ?? [];
        return words?.replace(/\{\}/g, () => figures.shift()) ?? sentence;
    }

    onAfterUiUpdate(() => {
        if (!Object.keys(window.localization ?? {}).length) return;
        for (const line of document.querySelectorAll(LINES)) {
            const walk = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
                const text = walk.currentNode.textContent.trim();
                const said = text.split(SENTENCES).map(translated).join(" ");
                if (said !== text) walk.currentNode.textContent = said;
            }
        }
    });
})();
