"""Representation Surgery: a small module for each task that brings a composed skill nearer to the task's own expert.

A model into which several skills were merged represents the texts of a task with a bias, compared with the model that
has the task's skill alone. The module takes it off, just before the head reads the representation z:

    z' = z - W_up relu(W_down z)

Yang et al., "Representation Surgery for Multi-Task Model Merging", ICML 2024, arXiv 2402.02705. `learn_surgery` learns
such a module without labels and attaches it to the skill, `open_surgery` opens it for a live model; see
docs/compose-learned.md.
"""
