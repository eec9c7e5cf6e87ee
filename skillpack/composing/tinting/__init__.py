"""Model Tinting: one skill composed of several, and for each task a single layer of its own.

Jung et al., "Why Train Everything? Tint a Single Layer for Multi-task Model Merging", arXiv 2412.19098v2, and in later
versions "SyMerge: From Non-Interference to Synergistic Merging via Single-Layer Adaptation" (ICML 2026). The
coefficients of the skills in each tensor and one layer for each task are learned together, from texts without answers,
such that the merged model predicts what the experts do:

    theta^l = theta_0^l + sum_k lambda_k^l tau_k^l      for all tasks
    theta^t = theta_k                                  layer t of task k alone

`learn_tints` makes a skill of the first, and of the second a small skill for each task, which is installed or grafted
beside it; see docs/compose-learned.md.
"""
