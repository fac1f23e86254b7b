"""Statistics of the user's own models, in the terms of the published findings: measured, as tables, as plots."""
