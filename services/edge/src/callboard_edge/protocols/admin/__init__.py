"""The admin API: accounts, usage and kudos for operators."""
