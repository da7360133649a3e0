"""Signatures by a key of one's own: OpenSSF model signing, offline."""

from __future__ import annotations

from pathlib import Path

from .manifest import SIGNATURE


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


def signature_problems(folder: str | Path, public_key: str | Path) -> list[str]:
    """What does not agree with a folder's signature; empty when it is the key owner's.

    Files that are not signed are not looked at: the manifest, which is signed, lists what there may be.

    Raises:
        ValueError: The extra ``sign`` is not installed, or there is no such key.
    """
    _extra()
    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing, verifying

    folder, key = Path(folder), _key(public_key)
    if not (folder / SIGNATURE).is_file():
        return [f"{SIGNATURE}: missing: the folder is not signed"]
    config = verifying.Config().use_elliptic_key_verifier(public_key=key).set_ignore_unsigned_files(True)
    try:
        # Files that the Hub's client has fetched are links into its cache.
        config.set_hashing_config(hashing.Config().set_allow_symlinks(True)).verify(folder, folder / SIGNATURE)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, InvalidSignature) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        return [f"{SIGNATURE}: not of this key and these files ({what})"]
    return []


def _key(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"no key at {path}.")
    return Path(path)


def _extra() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise ValueError("signatures need an extra: pip install 'hf-selfdestruct[sign]'.") from None
