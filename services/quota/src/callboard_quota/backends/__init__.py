"""Where the ledger and the accounts are kept."""
