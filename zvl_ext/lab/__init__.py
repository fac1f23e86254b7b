"""For those who want the numbers: the miniature family, its training, the evidence, the benchmark, the demo."""
