"""Real models, real data and real fine-tunes shared by the demo, the tests and the benchmarks.

Everything comes from PyPI wheels, because they can be fetched anywhere by pip and pinned by version.
Nothing here is imported by the product.
"""
