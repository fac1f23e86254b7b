"""Where the pipeline runs: inside a web UI, or on its own."""
