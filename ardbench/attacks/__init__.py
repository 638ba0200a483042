"""Attacks: what is allowed (threat), how the network is attacked (form), and how it is searched (pgd)."""
