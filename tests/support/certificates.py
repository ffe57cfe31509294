"""Certificates of an authority of the tests' own."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFE = timedelta(days=1)


class Authority:
    """Signs certificates for this machine; the files of `issue` are `tls.crt`, `tls.key` and `ca.crt`."""

    def __init__(self, name: str = "tests") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self._name, self._key.public_key())
        authority = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = builder.add_extension(authority, critical=True).sign(self._key, hashes.SHA256())

    def issue(self, folder: Path, name: str) -> Path:
        """Writes a certificate and its key into a folder, and returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        certificate = self._builder(subject, key.public_key()).add_extension(names, critical=False)
        pem = serialization.Encoding.PEM
        (folder / "tls.crt").write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(pem))
        (folder / "tls.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (folder / "ca.crt").write_bytes(self._certificate.public_bytes(pem))
        return folder

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFE)
            .not_valid_after(now + LIFE)
        )
