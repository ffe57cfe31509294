"""Header names used on the bus."""

MSG_ID = "Nats-Msg-Id"
INCREMENT = "Nats-Incr"
MESSAGE_TTL = "Nats-TTL"
SEGMENT = "Callboard-Segment"
