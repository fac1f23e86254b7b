"""The model that reads: the forms its weights come in, how they are opened, its vision tower, its language model."""
