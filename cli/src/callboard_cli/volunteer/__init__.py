"""`callboard volunteer`: lends an engine to a Callboard or an AI Horde, from behind any firewall."""
