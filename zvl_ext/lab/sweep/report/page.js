"use strict";
// The grid: two axes as columns and rows, one value chosen of each other one. Only what is chosen is in the page.
// Whatever came from a user is put in as text, never as HTML.
(() => {
    const read = (id) => JSON.parse(document.getElementById(id).textContent);
    const { axes, metrics, cells } = read("cells");
    const thumbs = read("thumbs");
    const choices = document.getElementById("choices");
    const grid = document.getElementById("grid");
    const byPlace = new Map(cells.map((cell) => [cell.at.join(), cell]));
    const NONE = -1;

    function picture(base64) {
        const image = document.createElement("img");
        image.alt = "";
        image.src = "data:image/jpeg;base64," + base64;
        return image;
    }

    function choice(label, names, chosen, changed, shown) {
        const box = document.createElement("label");
        box.append(label);
        if (shown) box.append(picture(shown));
        const list = document.createElement("select");
        names.forEach((name, number) => list.append(new Option(name, number, false, number === chosen)));
        list.addEventListener("change", () => changed(Number(list.value)));
        box.append(list);
        choices.append(box);
    }

    const varied = axes.map((axis, number) => number).filter((number) => axes[number].values.length > 1);
    // Settings first, the fewest values as rows: what is compared lies side by side.
    const order = [...varied].sort((a, b) => axes[b].setting - axes[a].setting || axes[b].values.length - axes[a].values.length);
    const state = { x: order[0] ?? NONE, y: order[1] ?? NONE, at: axes.map(() => 0), metric: metrics.length ? 0 : NONE };

    function controls() {
        choices.replaceChildren();
        const names = axes.map((axis) => axis.label);
        for (const [side, label] of [["x", "Columns"], ["y", "Rows"]]) {
            const other = side === "x" ? "y" : "x";
            choice(label, [...names, "(none)"], state[side] === NONE ? names.length : state[side], (number) => {
                const old = state[side];
                state[side] = number === names.length ? NONE : number;
                if (state[side] === state[other]) state[other] = old;
                controls();
                draw();
            });
        }
        axes.forEach((axis, number) => {
            if (number !== state.x && number !== state.y && (axis.values.length > 1 || axis.pictures[0])) {
                choice(axis.label, axis.values, state.at[number], (chosen) => {
                    state.at[number] = chosen;
                    controls();
                    draw();
                }, axis.pictures[state.at[number]]);
            }
        });
        choice("Below the pictures", [...metrics.map((metric) => metric.label), "(nothing)"],
            state.metric === NONE ? metrics.length : state.metric,
            (number) => { state.metric = number === metrics.length ? NONE : number; draw(); });
    }

    function element(name, text) {
        const made = document.createElement(name);
        if (text !== undefined) made.textContent = text;
        return made;
    }

    function shown(cell) {
        const place = element("td");
        if (!cell) return place;
        const link = element("a");
        link.href = "pictures/" + cell.key + ".png";
        link.target = "_blank";
        const image = element("img");
        image.loading = "lazy";
        image.decoding = "async";
        image.alt = "";
        image.src = cell.key in thumbs ? "data:image/jpeg;base64," + thumbs[cell.key] : link.href;
        image.title = [...axes.map((axis, number) => axis.label + ": " + axis.values[cell.at[number]]),
            ...metrics.map((metric, number) => metric.label + ": " + (cell.values[number] ?? "–")), ...cell.notes].join("\n");
        link.append(image);
        place.append(link);
        const value = state.metric === NONE ? null : cell.values[state.metric];
        if (value !== null && value !== undefined) place.append(Number(value.toPrecision(3)).toString());
        return place;
    }

    function heading(axis, number) {
        const made = element("th", axis === NONE ? "" : axes[axis].values[number]);
        const shown = axis === NONE ? null : axes[axis].pictures[number];
        if (shown) made.prepend(picture(shown));
        return made;
    }

    function draw() {
        const values = (axis) => (axis === NONE ? [""] : axes[axis].values);
        const head = element("tr"), body = element("tbody"), at = [...state.at];
        head.append(element("th", [state.y, state.x].filter((n) => n !== NONE).map((n) => axes[n].label).join(" \\ ")));
        values(state.x).forEach((_, column) => head.append(heading(state.x, column)));
        values(state.y).forEach((_, row) => {
            const line = element("tr");
            line.append(heading(state.y, row));
            values(state.x).forEach((_, column) => {
                if (state.x !== NONE) at[state.x] = column;
                if (state.y !== NONE) at[state.y] = row;
                line.append(shown(byPlace.get(at.join())));
            });
            body.append(line);
        });
        const top = element("thead");
        top.append(head);
        grid.replaceChildren(top, body);
    }

    controls();
    draw();
})();
