"""Attacks on real engines under memory limits, while ordinary clients go on."""
