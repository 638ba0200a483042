"""ardbench: a benchmark of adversarial robustness distillation."""

__version__ = "0.1.0"
