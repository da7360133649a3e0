"""Publish a hardened model: card, manifest, signature, push to the Hub."""
