"""What the tools of operators share: accounts, usage, exports, kudos and the audit trail of requests."""
