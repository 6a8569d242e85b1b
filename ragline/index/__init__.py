"""The versioned index: its vocabulary, identities, fingerprint, and the two engines behind one interface."""
