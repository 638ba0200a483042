"""Evaluation: protocols are data, verdicts are per example, accuracies are derived from them."""
