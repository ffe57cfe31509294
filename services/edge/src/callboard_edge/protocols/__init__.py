"""The protocols that clients speak, one folder each; none knows another."""
