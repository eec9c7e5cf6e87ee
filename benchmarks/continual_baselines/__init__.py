"""Other ways to learn tasks one after another, each exact to its paper, for `benchmarks.continual`."""
