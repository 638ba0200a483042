"""The engine: what turns a resolved recipe and its teachers into a run directory."""
