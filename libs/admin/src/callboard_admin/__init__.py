"""What the operators' tools share: accounts, usage records, exports, kudos records and audit trails."""
