"""The X/Y/Z plot, with one picture in every cell."""

import copy
import csv
import traceback
from io import StringIO

from modules import processing, scripts
from modules.processing import process_images


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.cost, self.choices = (
            label,
            type,
            apply,
            confirm,
            cost,
            choices,
        )


def _field(name):
    return lambda p, x, xs: setattr(p, name, x)


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None),
    AxisOption("Seed", int, _field("seed")),
    AxisOption("CFG Scale", float, _field("cfg_scale")),
]


class Script(scripts.Script):
    current_axis_options = axis_options

    def title(self):
        return "X/Y/Z plot"

    def show(self, is_img2img):
        return True

    def run(self, p, x_type, x_values, x_dropdown, y_type, y_values, y_dropdown, z_type, z_values, z_dropdown, *rest):
        def values(index, text, chosen):
            option = self.current_axis_options[index]
            if option.label == "Nothing":
                return option, [0]
            found = (
                chosen
                if option.choices
                else [v.strip() for line in csv.reader(StringIO(text), skipinitialspace=True) for v in line]
            )
            found = [option.type(v) for v in found]
            if option.confirm:
                option.confirm(p, found)
            return option, found

        axes = [
            values(x_type, x_values, x_dropdown),
            values(y_type, y_values, y_dropdown),
            values(z_type, z_values, z_dropdown),
        ]
        outer = sorted(range(3), key=lambda i: -axes[i][0].cost)
        self._cells(p, axes, outer, {})

    def _cells(self, p, axes, left, chosen):
        if left:
            for value in axes[left[0]][1]:
                self._cells(p, axes, left[1:], {**chosen, left[0]: value})
            return
        cell = copy.copy(p)  # shallow: the dict of parameters and the list of arguments are shared
        for i, (option, all_values) in enumerate(axes):
            option.apply(cell, chosen[i], all_values)
        try:
            process_images(cell)
        except Exception:  # noqa: BLE001  an empty cell, and the grid goes on
            traceback.print_exc()
            processing.Processed(p, [])
