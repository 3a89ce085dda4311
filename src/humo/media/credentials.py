"""Content credentials (C2PA): a signed statement inside a video that it was made by a machine, and by which.

Whoever installs this package gets a key of its own at first use; its certificate is self-made, and readers say so
("untrusted") until a bought one takes its place. What the signature shows either way: since it was signed, no byte of
the video has changed.

**Source:** C2PA 2.1; the IPTC's digital source types.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from humo.errors import DependencyError, MediaError, StorageError
from humo.files import atomic_write, os_error_text

KEY_FILE, CERTIFICATES_FILE = "key.pem", "chain.pem"
"""In an identity's folder: the private key, readable by its owner alone; its certificate and those above it."""

GENERATOR = "humo-video"

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""The IPTC's word for media made by a trained model."""

ASSERTION_LABEL = "org.humo.generation"
"""The label of our own assertion: the model, and the sum of the record."""

CERTIFICATE_YEARS = 10
"""That a self-made certificate is valid."""

MP4 = "video/mp4"


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """Who signs: a private key and its certificates, PEM."""

    private_key: bytes
    certificates: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a video's credentials say.

    Args:
        state: ``Trusted``, ``Valid`` (unchanged since it was signed, by somebody unknown) or ``Invalid``.
        problems: of validation, in C2PA's codes; that of an unknown signer among them.
        generator: the program that signed, with its version.
        signer: the name in the certificate.
        generated: whether they say that a trained model made it.
        statement: our own assertion; empty in videos of others.
    """

    state: str
    problems: tuple[str, ...]
    generator: str
    signer: str
    is_ai_generated: bool
    assertion: Mapping[str, Any]


def open_identity(folder: Path) -> SigningIdentity:
    """The identity in a folder; a new one, if there is none yet.

    Args:
        folder: holds ``key.pem`` and ``chain.pem``, or will.

    Raises:
        StorageError: it cannot be read or made.
    """
    try:
        if not (folder / CERTIFICATES_FILE).is_file():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = _new_identity()
            with atomic_write(folder / KEY_FILE, "identity") as part:
                part.chmod(0o600)
                part.write_bytes(made.private_key)
            with atomic_write(
                folder / CERTIFICATES_FILE, "identity"
            ) as part:  # the last: a folder with a chain is whole
                part.write_bytes(made.certificates)
        return SigningIdentity((folder / KEY_FILE).read_bytes(), (folder / CERTIFICATES_FILE).read_bytes())
    except OSError as error:
        problem = f"{str(folder)!r} cannot be used ({os_error_text(error)})"
        raise StorageError("identity", problem, "name another folder in HUMO_IDENTITY, or --no-provenance") from error


def sign_video(
    path: Path, identity: SigningIdentity, title: str, statement: Mapping[str, Any], *, version: str
) -> None:
    """Put credentials into a video, in place: the file is whole before and after.

    Args:
        path: an MP4.
        identity: that signs.
        title: of the video.
        statement: what we say of how it was made, JSON values.
        version: of this package.

    Raises:
        StorageError: the key does not fit the certificate, or is none.
    """
    c2pa = _library()
    manifest = {
        "claim_generator_info": [{"name": GENERATOR, "version": version}],
        "title": title,
        "format": MP4,
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": SOURCE_TYPE,
                            "softwareAgent": {"name": GENERATOR, "version": version},
                        }
                    ]
                },
            },
            {"label": ASSERTION_LABEL, "data": dict(statement)},
        ],
    }
    signed = io.BytesIO()
    try:
        information = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.certificates, identity.private_key, None)
        with c2pa.Signer.from_info(information) as signer, c2pa.Builder(manifest) as builder, path.open("rb") as source:
            builder.sign(signer, MP4, source, signed)
    except c2pa.C2paError as error:
        problem = f"cannot sign: {error}"
        raise StorageError(
            "identity", problem, f"give a P-256 key and its certificates in {KEY_FILE}, {CERTIFICATES_FILE}"
        ) from error
    path.write_bytes(signed.getbuffer())


def read_credentials(path: Path) -> Credentials | None:
    """The credentials of a video; None if it has none.

    Args:
        path: an MP4.

    Raises:
        MediaError: the file cannot be read.
    """
    c2pa = _library()
    try:
        with path.open("rb") as source, c2pa.Reader(MP4, source) as reader:
            told = json.loads(reader.json())
    except OSError as error:
        raise MediaError("FILE", f"{str(path)!r} cannot be read ({os_error_text(error)})", "check the path") from error
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "ManifestNotFound" in str(error):
            return None
        raise MediaError("FILE", f"{path.name!r} cannot be read as a video: {error}", "give an .mp4") from error
    active = told["manifests"][told["active_manifest"]]
    assertions = {one["label"]: one["data"] for one in active.get("assertions", ())}
    labels = [label for label in assertions if label.startswith("c2pa.actions")]
    actions = [one for label in labels for one in assertions[label].get("actions", ())]
    info = (active.get("claim_generator_info") or [{}])[0]
    return Credentials(
        state=str(told.get("validation_state", "Invalid")),
        problems=tuple(one["code"] for one in told.get("validation_status", ())),
        generator=" ".join(str(info[name]) for name in ("name", "version") if name in info),
        signer=str(active.get("signature_info", {}).get("issuer", "")),
        is_ai_generated=any(one.get("digitalSourceType") == SOURCE_TYPE for one in actions),
        assertion=assertions.get(ASSERTION_LABEL, {}),
    )


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise DependencyError(
            "provenance", "need c2pa-python", "pip install c2pa-python, or --no-provenance"
        ) from error
    return c2pa


def _new_identity() -> SigningIdentity:
    """A key, and a certificate by an authority that is made for it alone and forgotten."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, GENERATOR), x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )

    now = datetime.now(UTC) - timedelta(minutes=5)  # of clocks that go wrong
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def begun(subject: str, of: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.CertificateBuilder:
        usage = dict.fromkeys(
            (
                "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
                "decipher_only",
            ),
            False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("installation authority"))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=365 * CERTIFICATE_YEARS))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usage
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    authority = begun("installation authority", authority_key, True).sign(authority_key, hashes.SHA256())
    leaf = (
        begun("this installation", key, False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningIdentity(private, leaf.public_bytes(pem) + authority.public_bytes(pem))
