"""A hardened model's folder and its way to the Hub: card, manifest, signature, push."""
