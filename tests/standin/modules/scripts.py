import os
import traceback
from collections import namedtuple

AlwaysVisible = object()
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
scripts_data = []


class Script:
    sorting_priority = 0
    infotext_fields = None
    args_from = args_to = None
    filename = None
    is_img2img = False
    name = None

    def elem_id(self, item_id):
        title = "".join(c for c in self.title().lower().replace(" ", "_") if c.isalnum() or c in "_-")
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_{title}_{item_id}"


class ScriptRunner:
    """Runs the scripts of one tab. Whatever a script raises is printed and forgotten, which is the host's way."""

    def __init__(self):
        self.scripts = []
        self.alwayson_scripts = []
        self.infotext_fields = []
        self.inputs = [None]  # place 0 belongs to the selectable script

    def initialize_scripts(self, is_img2img):
        self.alwayson_scripts.clear()
        for data in scripts_data:
            script = data.script_class()
            script.filename, script.is_img2img = data.path, is_img2img
            self.scripts.append(script)
            if script.show(is_img2img) is AlwaysVisible:
                self.alwayson_scripts.append(script)

    def create_script_ui(self, script):
        controls = script.ui(script.is_img2img)
        script.name = script.title().lower()
        script.args_from = len(self.inputs)
        self.inputs += controls
        self.infotext_fields += script.infotext_fields or []
        script.args_to = len(self.inputs)

    def process(self, p):
        for script in self.alwayson_scripts:
            try:
                script.process(p, *p.script_args[script.args_from : script.args_to])
            except Exception:  # noqa: BLE001
                print(f"*** Error running process: {os.path.basename(script.filename)}")
                traceback.print_exc()
