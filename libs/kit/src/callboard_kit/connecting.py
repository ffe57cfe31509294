"""How a connection to the message bus identifies itself, and why one cannot be made."""

import re
import ssl
from urllib.parse import urlsplit

import nats.errors

from callboard_contracts.config import NatsSection
from callboard_contracts.subjects import INBOX, is_token
from callboard_kit.bus_errors import BusUnavailable
from callboard_kit.connection import CertificateMissing, Connection, TlsMissing
from callboard_kit.nkeys import UserKey

BROKEN_HANDSHAKES = 3
"""After so many a server is taken not to be restarting, but to want a certificate."""
REFUSED = "authorization violation"
"""What the server answers to credentials that it does not know."""


class _NotTrusted(nats.errors.Error):
    """The bus is not the one that the settings ask for, and another attempt would find the same."""


class ConnectAttempts:
    """Judges the errors of attempts to connect; `last` is the last of them."""

    def __init__(self, settings: NatsSection, connection: Connection) -> None:
        self.last: Exception | None = None
        self._connection = connection
        self._has_certificate = settings.tls_cert_file is not None
        self._broken = 0

    def failed(self, error: Exception) -> None:
        """Takes note of an error; raises a nats.errors.Error where the next attempt would find the same."""
        self.last = error
        if is_refused(error, self._connection):
            raise nats.errors.AuthorizationError from error
        if isinstance(error, TlsMissing | ssl.SSLError):
            raise _NotTrusted from error
        if isinstance(error, ConnectionError) and self._connection.under_tls and not self._has_certificate:
            # With TLS 1.3 the handshake is over before the server asks, and a reset can hide its words.
            self._broken += 1
            if self._broken >= BROKEN_HANDSHAKES:
                raise _NotTrusted from CertificateMissing()


def is_refused(error: Exception, connection: Connection) -> bool:
    """Whether an error says that the bus does not know the credentials."""
    return REFUSED in str(error).lower() or connection.refused


def inbox_prefix(settings: NatsSection) -> str:
    """Where answers to a user's requests come; each has a place of its own, so that no other may listen there."""
    # The name may stand in the address too, which has one for all servers of a cluster.
    user = settings.user or urlsplit(settings.url.split(",")[0]).username
    return INBOX if user is None or not is_token(user) else f"{INBOX}.{user}"


def identity(settings: NatsSection) -> tuple[UserKey | None, ssl.SSLContext | None]:
    """The user's NKey and the TLS settings, where there are any; reads files. Raises BusUnavailable."""
    try:
        key = None if settings.nkey_seed is None else UserKey(settings.nkey_seed.get_secret_value())
    except ValueError as error:
        raise BusUnavailable(f"nats.nkey_seed: {error}") from None
    if not settings.uses_tls:
        return key, None
    setting = "nats.tls_ca_file"
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        setting = "nats.tls_cert_file"
        if settings.tls_cert_file is not None:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except OSError as error:
        raise BusUnavailable(f"{setting}: {error.strerror or type(error).__name__}") from None
    return key, context


def why_not(error: Exception, last: Exception | None, settings: NatsSection) -> str:
    """Why there is no connection; `last` is the last error before the attempts were given up."""
    where = _public(settings.url)
    match error:
        case nats.errors.AuthorizationError():
            return f"authorization refused: the bus at {where} does not know {_who(settings)}"
        case _NotTrusted():
            return f"no trusted bus at {where}: {_in_words(error.__cause__ or error)}"
        case _:
            return f"no bus at {where}: {_in_words(last or error)}"


def _who(settings: NatsSection) -> str:
    """What the bus refused, without the secret itself."""
    if settings.nkey_seed is not None:
        return f"the NKey of the user {settings.user}" if settings.user else "the NKey"
    if settings.credentials is None:
        return "a client without credentials"
    return f"the user {settings.credentials[0]} or the password"


def _in_words(error: BaseException) -> str:
    """An error's own words, where it has some."""
    return str(error).removeprefix("nats: ") or type(error).__name__


def _public(url: str) -> str:
    """Servers' addresses without the credentials that may stand in them."""
    return re.sub(r"//[^/,@]*@", "//", url)
