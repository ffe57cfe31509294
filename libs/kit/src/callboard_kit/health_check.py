"""Asks the service in this container how it is: `python -m callboard_kit.health_check [healthz|readyz]`."""

import http.client
import os
import sys

PORT_VARIABLE = "CALLBOARD_HEALTH_PORT"
TIMEOUT_S = 5.0


def main(page: str = "healthz") -> int:
    """Returns 0 when the service on `$CALLBOARD_HEALTH_PORT` answers 200, and where no port is named."""
    port = os.environ.get(PORT_VARIABLE)
    if not port:
        return 0
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{page}")
        reply = connection.getresponse()
        sys.stdout.write(reply.read(1000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer from port {port}: {type(error).__name__}")
        return 1
    finally:
        connection.close()
    return 0 if reply.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
