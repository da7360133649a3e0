"""Signatures by a key of one's own: OpenSSF model signing, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_text, reason
from .layout import MANIFEST, SIGNATURE
from .manifest import read_manifest
from .stock_loading import MOST_BYTES


def sign(folder: str | Path, private_key: str | Path) -> Path:
    """Sign every file of a staged folder; ``model_signing verify key`` of others verifies it too.

    Args:
        folder: Nothing but what will be published.
        private_key: An elliptic-curve key in PEM, unencrypted, such as ``openssl ecparam -name prime256v1 -genkey
            -noout`` writes.

    Returns:
        ``folder/model.sig``.

    Raises:
        ValueError: The extra ``sign`` is not installed, or this is no such key.
    """
    _extra()
    from model_signing import signing

    path = Path(folder, SIGNATURE)
    path.unlink(missing_ok=True)
    try:
        signing.Config().use_elliptic_key_signer(private_key=_key(private_key)).sign(Path(folder), path)
    except (ValueError, TypeError, AttributeError) as error:  # the last for a key that is no elliptic curve
        raise ValueError(f"{private_key}: not a private elliptic-curve key in PEM, unencrypted ({error}).") from None
    return path


def signature_problems(folder: str | Path, public_key: str | Path, *, links: Path | None = None) -> list[str]:
    """What does not agree with a folder's signature; empty when it is the key owner's, and of exactly these files.

    Args:
        folder: A folder in which :func:`manifest.problems` finds none.
        public_key: The other half of the key that signed, in PEM.
        links: Where links of the folder's files may point to; by default nowhere.

    Raises:
        ValueError: The extra ``sign`` is not installed, there is no such key, or no manifest.
    """
    _extra()
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    folder, key = Path(folder), _key(public_key)
    if not (folder / SIGNATURE).is_file():
        return [f"{SIGNATURE}: missing: the folder is not signed"]
    hashing = _hashing_of([folder / name for name in (*read_manifest(folder, links=links).files, MANIFEST)])
    try:
        read_text(folder / SIGNATURE, MOST_BYTES)
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
        config.set_hashing_config(hashing).verify(folder, folder / SIGNATURE)
    except (ValueError, TypeError, KeyError, IndexError, OSError, AttributeError, InvalidSignature) as error:
        return [f"{SIGNATURE}: not of this key and these files ({reason(error)})"]
    return []


def _hashing_of(paths: list[Path]) -> Any:
    """Hashes these files, whatever the signature would have ignored, so that it must cover each and no other."""
    from model_signing import hashing

    class Exactly(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            return super().hash(model_path, files_to_hash=paths)

        def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
            """Called with the paths that the signature ignores; a signature that covers less would pass."""

    # Files that the Hub's client has fetched are links into its cache.
    return Exactly().set_ignored_paths(paths=[], ignore_git_paths=False).set_allow_symlinks(True)


def _key(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"no key at {path}.")
    return Path(path)


def _extra() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise ValueError("signatures need an extra: pip install 'hf-selfdestruct[sign]'.") from None
