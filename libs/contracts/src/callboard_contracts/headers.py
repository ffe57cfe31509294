"""Header names used on the bus."""

MSG_ID = "Nats-Msg-Id"
INCREMENT = "Nats-Incr"
MESSAGE_TTL = "Nats-TTL"
PREFERRED_WORKER = "Callboard-Preferred-Worker"
JOB_SUBJECT = "Callboard-Job-Subject"
JOB_REPLY = "Callboard-Job-Reply"
SEGMENT = "Callboard-Segment"
TRACE_CONTEXT = ("traceparent", "tracestate")
"""W3C's names of what carries a trace from one process to the next."""
