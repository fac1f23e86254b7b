import os
import tempfile

models_path = os.path.join(tempfile.gettempdir(), "no-such-web-ui", "models")  # tests put their own here
