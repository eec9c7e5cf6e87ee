"""Several skills of one base become one skill."""
