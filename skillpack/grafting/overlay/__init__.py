"""Overlay mode: the base's weights are left alone, and each module adds its skills' part in the forward pass."""
