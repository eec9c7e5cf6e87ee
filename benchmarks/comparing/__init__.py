"""The parts of `benchmarks.comparison`: fine-tunes to compare on, settings to compare, our own skills, the plot."""
