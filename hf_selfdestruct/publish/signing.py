"""Sign and verify with a local key: OpenSSF model signing, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_text, reason
from .layout import MANIFEST, SIGNATURE
from .manifest import read_manifest
from .stock_loading import MOST_BYTES


def sign(folder: str | Path, private_key: str | Path) -> Path:
    """Sign every file of a staged folder; ``model_signing verify key`` accepts the signature too.

    Args:
        folder: A folder that contains only files to publish.
        private_key: An unencrypted elliptic-curve key in PEM, such as that of ``openssl ecparam -name prime256v1
            -genkey -noout``.

    Returns:
        ``folder/model.sig``.

    Raises:
        ValueError: The extra ``sign`` is not installed, or the key is invalid.
    """
    _extra()
    from model_signing import signing

    path = Path(folder, SIGNATURE)
    path.unlink(missing_ok=True)
    try:
        signing.Config().use_elliptic_key_signer(private_key=_key(private_key)).sign(Path(folder), path)
    except (ValueError, TypeError, AttributeError) as error:  # the last for other kinds of keys
        raise ValueError(
            f"{private_key}: expected an unencrypted elliptic-curve private key in PEM ({error})."
        ) from None
    return path


def signature_problems(folder: str | Path, public_key: str | Path, *, links: Path | None = None) -> list[str]:
    """Check the signature of a folder; an empty list means that it matches the key and exactly these files.

    Args:
        folder: A folder without :func:`manifest.problems`.
        public_key: The public key of the signer, in PEM.
        links: Folder that links may point to; by default links are refused.

    Raises:
        ValueError: The extra ``sign`` is not installed, or the key or the manifest is missing.
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
        return [f"{SIGNATURE}: does not match this key and these files ({reason(error)})"]
    return []


def _hashing_of(paths: list[Path]) -> Any:
    """Configure the hashing of exactly these files, regardless of the paths that the signature ignores."""
    from model_signing import hashing

    class Exactly(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            return super().hash(model_path, files_to_hash=paths)

        def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
            """Ignore no paths: otherwise a signature that covers fewer files would pass."""

    # Files fetched by the Hub's client are links to its cache.
    return Exactly().set_ignored_paths(paths=[], ignore_git_paths=False).set_allow_symlinks(True)


def _key(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"no key at {path}; check the path.")
    return Path(path)


def _extra() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise ValueError("signatures need the extra `sign`: pip install 'hf-selfdestruct[sign]'.") from None
